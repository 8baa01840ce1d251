"""Notices that the arm was moved beside its commanded path in one instant.

A simulated arm was reset, or a driver was started again and reports other joints. Whoever did that
may have started the controller again, too, so the last command is no longer known to be in force.
"""

from __future__ import annotations

from collections import deque

import numpy as np

_KEPT = 40  # errors whose median is what they were before a jump
_CONFIRMED = 2  # joint states after a jump that must agree: single readings may be wrong
_LAG_S = 0.1  # a servo follows its path at most this late


class DisplacementWatch:
    """Looks for jumps in the error between measured and commanded joints (J,).

    A servo that lags by T follows a path with acceleration a at a speed that differs by at most
    a T, so the error of an arm that follows changes by a T dt from one joint state to the next.

    Args:
        band: by how much joint states scatter (J,) [rad or m].
        acceleration: limits (J,) [rad/s^2 or m/s^2].
    """

    def __init__(self, band: np.ndarray, acceleration: np.ndarray) -> None:
        self._band, self._drift = band, acceleration * _LAG_S
        self._errors: deque[tuple[float, np.ndarray]] = deque(maxlen=_KEPT)
        self._before: np.ndarray | None = None  # the jump
        self._since = 0  # joint states since the jump

    def add(self, stamp: float, error: np.ndarray) -> None:
        """Take measured minus commanded joints (J,) at a time [s]."""
        if self._errors and stamp <= self._errors[-1][0]:
            return
        self._errors.append((stamp, error))
        if self._before is not None:
            self._look_back()
        elif len(self._errors) > _CONFIRMED:
            self._look_for_jump()

    def _look_back(self) -> None:
        """Drop a jump that was undone: wrong readings that have ended."""
        self._since += 1
        if self._since >= _KEPT:
            now = np.median([error for _, error in self._errors], axis=0)
            if not self.displaced(now).any():
                self._before = None

    def _look_for_jump(self) -> None:
        last = len(self._errors) - _CONFIRMED
        begin, reference = self._errors[last - 1]
        jumped = np.ones(len(reference), dtype=bool)
        for n in range(last, len(self._errors)):
            later, seen = self._errors[n]
            jumped &= np.abs(seen - reference) > self._band + self._drift * (later - begin)
        if jumped.any():
            earlier = [self._errors[n][1] for n in range(last)]
            self._before, self._since = np.median(earlier, axis=0), 0

    def displaced(self, error: np.ndarray) -> np.ndarray:
        """Return which joints (J,) have another error now than before the first jump."""
        if self._before is None:
            return np.zeros(len(error), dtype=bool)
        return np.abs(error - self._before) > self._band

    def forget(self) -> None:
        """Start again: the controller was commanded from a known place, or the clock was set."""
        self._errors.clear()
        self._before = None
