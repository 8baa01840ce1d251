"""Notices a controller that plays its path too slowly: the speed of the robot is scaled down.

A ``joint_trajectory_controller`` with speed scaling falls behind the path while it moves, and leaps
onto every new trajectory, because it looks up its first point by the clock: with a speed of 30 %
and a chunk every 0.25 s that is 8 times the velocity limit. Its reports show on which point of the
path it is, and so its lag.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.references import HOLDING, Reference

_GROWN_S = 0.005  # by how much the lag must have grown
_REPORTS = 3  # consecutive reports in which it must have grown
_SAME_S = 1e-3  # a lag that is not larger than the one before by this has not grown
_GAP_S = 0.3  # after a time without reports, they are no longer consecutive
_MOVES = 0.05  # share of the top speed below which the lag is not measured
_BESIDE = 0.02  # share of the tracking error by which a report may be beside the path
_LAGS_S = np.arange(0.0, 1.0, 0.05)  # lags from which the search for the point on the path begins
_STEPS, _STEP_S = 5, 0.05  # of that search
_BEFORE_S, _AFTER_S = 0.1, 1.0  # how much of the slower path is computed, around the present


@dataclass(frozen=True)
class Playback:
    """How a controller plays its path.

    Attributes:
        joints: (N,) indices of the joints of the controller.
        stamp: of its last report [s].
        lag: of the controller behind the path at ``stamp`` [s].
        rate: time on the path that it plays in one second [s].
    """

    joints: tuple[int, ...]
    stamp: float
    lag: float
    rate: float

    def played(self, path: CommandedPath, now: float) -> CommandedPath:
        """Return ``path`` as the controller plays it, from shortly before ``now`` [s] on."""
        times = now - _BEFORE_S + path.period * np.arange(math.ceil(_AFTER_S / path.period))
        due = self.stamp - self.lag + self.rate * (times - self.stamp)
        positions, velocities = zip(*(path.state(each) for each in due), strict=True)
        return CommandedPath(
            times[0], path.period, np.array(positions), self.rate * np.array(velocities)
        )


class PlaybackWatch:
    """Measures the lags of all controllers from their reports."""

    def __init__(self, limits: JointLimits) -> None:
        self._velocity, self._error = limits.velocity, limits.tracking_error
        self._lags: dict[tuple[int, ...], deque[tuple[float, float]]] = {}  # stamps and lags [s]

    def find_slow(self, path: CommandedPath, reports: list[Reference]) -> Playback | None:
        """Compare the last reports with the commanded path and return a controller that is slow."""
        for report in reports:
            joints = tuple(report.joints.tolist())
            lags = self._lags.setdefault(joints, deque())
            if lags and abs(report.stamp - lags[-1][0]) > _GAP_S:  # or the clock was set
                lags.clear()
            if lags and report.stamp <= lags[-1][0]:
                continue
            moving = np.abs(report.velocities) > HOLDING * self._velocity[report.joints]
            if not moving.any():
                lags.clear()
                continue
            lag = self._lag(path, report, lags[-1][1] if lags else self._guess(path, report))
            if lag is None or (lags and lag < lags[-1][1] + _SAME_S):
                lags.clear()
            if lag is None:
                continue
            lags.append((report.stamp, lag))
            if len(lags) >= _REPORTS and lag - lags[0][1] > _GROWN_S:
                before, earlier = lags[-2]
                rate = 1.0 - (lag - earlier) / (report.stamp - before)
                lags.clear()
                return Playback(joints, report.stamp, lag, min(max(rate, 0.0), 1.0))
        return None

    def _guess(self, path: CommandedPath, report: Reference) -> float:
        """Return about how far a controller is behind the path [s]."""
        joints = report.joints
        positions = np.array([path.state(report.stamp - lag)[0][joints] for lag in _LAGS_S])
        beside = np.abs(positions - report.positions) / self._error[joints]
        return float(_LAGS_S[int(beside.max(axis=1).argmin())])

    def _lag(self, path: CommandedPath, report: Reference, guess: float) -> float | None:
        """Return how far a controller is behind the path [s]; None: it is not on it, or too slow to
        tell.
        """
        joints = report.joints
        due, error = report.stamp - guess, self._error[joints]
        for _ in range(_STEPS):
            if not path.begins <= due:
                return None
            position, velocity = (part[joints] for part in path.state(due))
            beside, speed = (report.positions - position) / error, velocity / error
            if (np.abs(velocity) <= _MOVES * self._velocity[joints]).all() or not speed.any():
                return None
            step = float(beside @ speed) / float(speed @ speed)
            due += min(max(step, -_STEP_S), _STEP_S)
        beside = np.abs(report.positions - path.state(due)[0][joints]) / error
        return report.stamp - due if beside.max() <= _BESIDE else None
