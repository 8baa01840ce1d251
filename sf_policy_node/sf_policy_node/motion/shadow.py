"""Scores a policy that moves nothing: what it asked for against what the operator did at that
time.
"""

from __future__ import annotations

from collections import deque

import numpy as np

_PENDING = 2000  # rows that wait for their time


class ShadowScore:
    """Per joint (J,), over all rows of all chunks whose time has come: root mean square and largest
    error [rad or m].
    """

    def __init__(self, joints: int) -> None:
        self._square, self._largest = np.zeros(joints), np.zeros(joints)
        self._pending: deque[tuple[float, np.ndarray]] = deque(maxlen=_PENDING)
        self._before: tuple[float, np.ndarray] | None = None
        self.rows = 0

    def expect(self, due: np.ndarray, positions: np.ndarray) -> None:
        """Remember a chunk's joint targets (R, J), due at (R,) [s]. All rows count alike."""
        self._pending.extend(zip(due.tolist(), positions, strict=False))

    def measured(self, stamp: float, positions: np.ndarray) -> None:
        """Compare the operator's joints with the rows that were due since the last call."""
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
        """Return the root mean square error (J,); zeros before the first row."""
        return np.sqrt(self._square / max(self.rows, 1))

    @property
    def largest(self) -> np.ndarray:
        """Return the largest error (J,); zeros before the first row."""
        return self._largest
