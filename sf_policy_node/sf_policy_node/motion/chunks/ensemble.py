"""Temporal ensembling: what several chunks say about the same moment, averaged.

Zhao et al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware" (ACT), 2023,
section IV.A: weights exp(-m i), i = 0 for the oldest prediction. There a chunk is predicted at
every control step; here chunks may be further apart and off each other's grid, so older ones are
interpolated at the newest one's times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pinocchio

DECAY = 0.01  # m of the paper
_KEPT = 16  # chunks


@dataclass(frozen=True)
class Rows:
    """Targets at ``due`` (R,) [s]: ``places`` (R, C) that average linearly, and ``rotations`` (R,
    3, 3) on the sphere, or None.
    """

    due: np.ndarray
    places: np.ndarray
    rotations: np.ndarray | None = None

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Place (C,) and rotation (3, 3) at a time between the first and the last row; None
        outside.
        """
        if not self.due[0] - 1e-9 <= time <= self.due[-1] + 1e-9:
            return None
        after = min(max(int(np.searchsorted(self.due, time)), 1), len(self.due) - 1)
        before = after - 1
        share = min(max((time - self.due[before]) / (self.due[after] - self.due[before]), 0.0), 1.0)
        place = self.places[before] + share * (self.places[after] - self.places[before])
        if self.rotations is None:
            return place, None
        turn = pinocchio.log3(self.rotations[before].T @ self.rotations[after])
        return place, self.rotations[before] @ pinocchio.exp3(share * turn)


class Ensemble:
    """The chunks of one instruction that still say something about the future."""

    def __init__(self, decay: float = DECAY) -> None:
        self._decay = decay
        self._chunks: deque[Rows] = deque(maxlen=_KEPT)

    def clear(self) -> None:
        """Forget all, as when the arm has come to rest or follows a new instruction."""
        self._chunks.clear()

    def add(self, rows: Rows) -> None:
        """Remember a chunk as it was predicted (not its average)."""
        while self._chunks and self._chunks[0].due[-1] < rows.due[0]:
            self._chunks.popleft()
        if len(rows.due) > 1:
            self._chunks.append(rows)

    def average(self, newest: Rows) -> Rows:
        """The newest chunk, each row averaged with what the remembered ones say about its time."""
        places = newest.places.copy()
        rotations = None if newest.rotations is None else newest.rotations.copy()
        for k, time in enumerate(newest.due):
            said = [value for chunk in self._chunks if (value := chunk.at(float(time))) is not None]
            if not said:
                continue
            weights = np.exp(-self._decay * np.arange(len(said) + 1))
            weights /= weights.sum()
            places[k] = weights @ np.array([*(place for place, _ in said), newest.places[k]])
            if rotations is not None:
                rotations[k] = mean_rotation(
                    np.array([*(turn for _, turn in said), newest.rotations[k]]), weights
                )
        return Rows(newest.due, places, rotations)


class Ensembles:
    """An :class:`Ensemble` for each arm, whose rows come and go together."""

    def __init__(self, arms: int) -> None:
        self._arms = tuple(Ensemble() for _ in range(arms))

    def clear(self) -> None:
        """Forget all, see :meth:`Ensemble.clear`."""
        for ensemble in self._arms:
            ensemble.clear()

    def add(self, rows: Sequence[Rows]) -> None:
        """Remember a chunk, one :class:`Rows` for each arm."""
        for ensemble, own in zip(self._arms, rows, strict=True):
            ensemble.add(own)

    def average(self, newest: Sequence[Rows]) -> tuple[Rows, ...]:
        """The newest chunk averaged with the remembered ones, arm by arm."""
        pairs = zip(self._arms, newest, strict=True)
        return tuple(ensemble.average(own) for ensemble, own in pairs)


def mean_rotation(rotations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean (3, 3) of rotations (N, 3, 3) on the sphere (Karcher mean); weights (N,) sum to
    1.
    """
    mean = rotations[-1]
    for _ in range(10):
        turn = sum(
            weight * pinocchio.log3(mean.T @ rotation)
            for weight, rotation in zip(weights, rotations, strict=True)
        )
        mean = mean @ pinocchio.exp3(turn)
        if turn @ turn < 1e-16:
            break
    return mean
