"""Keeps the recently measured joint states."""

from __future__ import annotations

import itertools
from collections import deque

import numpy as np


class JointHistory:
    """Joint states in the order of their stamps; those older than ``length_s`` are forgotten.

    A joint state is a stamp [s], positions (J,) and velocities (J,).
    """

    def __init__(self, length_s: float) -> None:
        self._length = length_s
        self._samples: deque[tuple[float, np.ndarray, np.ndarray]] = deque()

    def __bool__(self) -> bool:
        return bool(self._samples)

    def add(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> bool:
        """Add a joint state (J,); return False, without adding it, if it is not newer than the
        last one.
        """
        if self._samples and stamp <= self._samples[-1][0]:
            return False
        self._samples.append((stamp, positions, velocities))
        while self._samples[0][0] < stamp - self._length:
            self._samples.popleft()
        return True

    def clear(self) -> None:
        """Forget all joint states, as after a clock jump."""
        self._samples.clear()

    @property
    def newest(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Stamp [s], positions and velocities (J,) of the newest joint state; there must be one."""
        return self._samples[-1]

    @property
    def oldest(self) -> tuple[float, np.ndarray, np.ndarray]:
        """The oldest joint state that is kept, as :attr:`newest`."""
        return self._samples[0]

    def last(self, count: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Return the newest ``count`` joint states, oldest first; fewer when there are fewer."""
        return [
            self._samples[n] for n in range(max(0, len(self._samples) - count), len(self._samples))
        ]

    def since(self, stamp: float) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Return the joint states with this stamp [s] or a later one, oldest first."""
        newest = itertools.takewhile(lambda sample: sample[0] >= stamp, reversed(self._samples))
        return list(newest)[::-1]

    def covering(self, seconds: float, at_least: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Return the newest joint states that span ``seconds``, oldest first.

        They are at least ``at_least``. There are fewer, or they span less, when no older ones are
        kept.
        """
        begin = self._samples[-1][0] - seconds
        newest = itertools.takewhile(lambda sample: sample[0] > begin, reversed(self._samples))
        return self.last(max(len(list(newest)) + 1, at_least))

    def at(self, stamp: float, known_until: float = float("inf")) -> np.ndarray | None:
        """Interpolate the positions (J,) at ``stamp`` [s].

        The newest positions are returned for a later stamp, None for one before the oldest.

        Args:
            known_until: joint states with later stamps are ignored [s].
        """
        after = None
        for before in reversed(self._samples):
            if before[0] > known_until:
                continue
            if before[0] <= stamp:
                if after is None:
                    return before[1]
                share = (stamp - before[0]) / (after[0] - before[0])
                return before[1] + share * (after[1] - before[1])
            after = before
        return None
