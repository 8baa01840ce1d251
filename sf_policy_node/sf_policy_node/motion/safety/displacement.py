"""Detects that the measured arm jumped away from its commanded path.

This happens when a simulated arm is reset, or when a restarted driver reports other joint
positions. The controller may have been restarted as well, so it may no longer follow the last
command.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from sf_policy_node.motion.safety.commanded import CommandedPath

_KEPT = 40  # errors kept; the error before a jump is the median of those before it
_CONFIRMED = 2  # joint states after a jump that must agree, because single readings may be wrong
_LAG_S = 0.1  # the largest lag of a servo behind its path
_SETTLES_S = 0.3  # until then after the end of its path a servo still moves


class DisplacementWatch:
    """Detects jumps in the error between measured and commanded joints (J,).

    A servo that lags by T [s] behind a path with acceleration a [rad/s^2 or m/s^2] differs from it
    in speed by at most a T. Between two joint states dt [s] apart the error of an arm that follows
    its path therefore changes by at most a T dt [rad or m], plus ``band``. A larger change is a
    jump. Time for which the arm was commanded to rest does not count: where joint states are
    lost, a moved arm must not look like a servo that lags.

    Args:
        band: (J,) scatter of the joint states [rad or m].
        acceleration: (J,) limits [rad/s^2 or m/s^2].
    """

    def __init__(self, band: np.ndarray, acceleration: np.ndarray) -> None:
        self._band, self._drift = band, acceleration * _LAG_S
        self._errors: deque[tuple[float, np.ndarray]] = deque(maxlen=_KEPT)
        self._before: np.ndarray | None = None  # the error (J,) before the jump; None: no jump
        self._since = 0  # number of joint states since the jump
        self._path_begins = -np.inf  # the ``begins`` of the path that is compared

    def compare(
        self, path: CommandedPath | None, stamp: float, measured: np.ndarray, due: float
    ) -> None:
        """Compare joints (J,) measured at ``stamp`` [s] with the commanded path at ``due`` [s].

        A motion that starts from a known position, or an unknown path (None), forgets the errors.
        """
        if path is None or (stamp >= path.begins != self._path_begins):
            self.forget()
            self._path_begins = -np.inf if path is None else path.begins
        if path is not None and stamp >= path.begins:
            self.add(stamp, measured - path.state(due)[0], stamp - (due - path.end))

    def add(self, stamp: float, error: np.ndarray, rests_from: float = np.inf) -> None:
        """Take ``error`` (J,), measured minus commanded joints, at ``stamp`` [s].

        A stamp that is not newer than the last one is ignored.

        Args:
            rests_from: when the path ends, on the time of the stamps [s].
        """
        if self._errors and stamp <= self._errors[-1][0]:
            return
        self._errors.append((stamp, error))
        if self._before is not None:
            self._look_back()
        elif len(self._errors) > _CONFIRMED:
            self._look_for_jump(rests_from + _SETTLES_S)

    def _look_back(self) -> None:
        """Forget a jump if the error has returned to its value before: the readings were wrong."""
        self._since += 1
        if self._since >= _KEPT:
            now = np.median([error for _, error in self._errors], axis=0)
            if not self.displaced(now).any():
                self._before = None

    def _look_for_jump(self, settled_at: float) -> None:
        last = len(self._errors) - _CONFIRMED
        begin, reference = self._errors[last - 1]
        jumped = np.ones(len(reference), dtype=bool)
        for n in range(last, len(self._errors)):
            later, seen = self._errors[n]
            moving_s = max(0.0, min(later, settled_at) - begin)
            jumped &= np.abs(seen - reference) > self._band + self._drift * moving_s
        if jumped.any():
            earlier = [self._errors[n][1] for n in range(last)]
            self._before, self._since = np.median(earlier, axis=0), 0

    def displaced(self, error: np.ndarray) -> np.ndarray:
        """Return which joints (J,) have an ``error`` (J,) different from that before the jump."""
        if self._before is None:
            return np.zeros(len(error), dtype=bool)
        return np.abs(error - self._before) > self._band

    def forget(self) -> None:
        """Forget all errors and the jump.

        Needed when a motion started from a known position, or after a clock jump.
        """
        self._errors.clear()
        self._before = None
