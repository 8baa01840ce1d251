"""Scores a policy in shadow mode: compares its chunks with what the operator did."""

from __future__ import annotations

from collections import deque

import numpy as np

_PENDING = 2000  # steps that are kept until they are due


class ShadowScore:
    """The errors (J,) of a policy over all steps of all chunks that have been due [rad or m].

    ``rows`` is the number of these steps.
    """

    def __init__(self, joints: int) -> None:
        self._square, self._largest = np.zeros(joints), np.zeros(joints)
        self._pending: deque[tuple[float, np.ndarray]] = deque(maxlen=_PENDING)
        self._before: tuple[float, np.ndarray] | None = None
        self.rows = 0

    def expect(self, due: np.ndarray, positions: np.ndarray) -> None:
        """Take a chunk's joint targets ``positions`` (R, J), due at ``due`` (R,) [s].

        All steps have the same weight.
        """
        self._pending.extend(zip(due.tolist(), positions, strict=False))

    def measured(self, stamp: float, positions: np.ndarray) -> None:
        """Compare the measured joints (J,) with the steps that were due since the last call.

        Joints are interpolated between the two calls. Positions that are not finite are ignored.
        """
        before, self._before = self._before, (stamp, positions)
        if not np.isfinite(positions).all():
            self._before = before
            return
        if before is None or stamp <= before[0]:
            return
        waiting: deque[tuple[float, np.ndarray]] = deque(maxlen=_PENDING)
        for due, target in self._pending:
            if due > stamp:
                waiting.append((due, target))
            elif due > before[0]:
                share = (due - before[0]) / (stamp - before[0])
                error = np.abs(target - (before[1] + share * (positions - before[1])))
                self._square += error**2
                self._largest = np.maximum(self._largest, error)
                self.rows += 1
        self._pending = waiting

    @property
    def rms(self) -> np.ndarray:
        """The root mean square error (J,); zeros before the first step."""
        return np.sqrt(self._square / max(self.rows, 1))

    @property
    def largest(self) -> np.ndarray:
        """The largest error (J,); zeros before the first step."""
        return self._largest
