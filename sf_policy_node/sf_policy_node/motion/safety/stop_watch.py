"""Watches whether the arm stops: the controller may receive a stop late, or lose or refuse it."""

from __future__ import annotations

import math
from enum import Enum, auto

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.monitor import ArmMonitor

_REPEAT_S = 0.1
_REPEATS, _LATER_S = 10, 1.0  # after so many repetitions they come at this interval
_NOT_STOPPED_S = 0.4  # a stop has failed when the arm still moves this long after its end
_OFF = 0.5  # share of the tracking error within which the arm is on a path


class Act(Enum):
    """What to do about a stop that was sent."""

    NOTHING = auto()
    REPEAT = auto()
    """Send it again."""
    STOP_EARLIER_PATH = auto()
    """The arm still follows the path from before the stop: plan a new stop from that path."""


class StopWatch:
    """Watches one stop at a time, until the arm is measured stationary."""

    def __init__(self, limits: JointLimits) -> None:
        self._limits = limits
        self._path: CommandedPath | None = None
        self.before: CommandedPath | None = None
        """The path that was commanded before the stop; None: unknown."""
        self._next = math.inf
        self._sent = 0
        self.complaint = ""
        """Why the stop may have failed; empty while it still has time, and when the arm stopped."""

    def begin(self, path: CommandedPath, before: CommandedPath | None, now: float) -> None:
        """Watch a stop that was sent at ``now`` [s].

        Args:
            path: the stop.
            before: the path that it replaced.
        """
        self.before = before
        self._path, self._next, self._sent, self.complaint = path, now + _REPEAT_S, 0, ""

    def end(self) -> None:
        """Stop watching: the arm has stopped, another motion was sent, or the controller is
        lost.
        """
        self._path, self.complaint = None, ""

    def check(self, now: float, monitor: ArmMonitor) -> Act:
        """Compare the measured arm with the stop and return what to do at ``now`` [s]."""
        if self._path is None:
            return Act.NOTHING
        if now >= self._path.end and monitor.is_stationary(now):
            self.end()
            return Act.NOTHING
        failed = now > self._path.end + _NOT_STOPPED_S
        if failed:
            self.complaint = self._complain(now, monitor)
        if now < self._next or not self._path.is_reached(now):
            return Act.NOTHING
        self._sent += 1
        self._next = now + (_REPEAT_S if self._sent < _REPEATS else _LATER_S)
        if failed and not monitor.problem(now) and self._follows_before(monitor):
            self._path = None  # the caller sends a new stop, which calls `begin`
            return Act.STOP_EARLIER_PATH
        return Act.REPEAT

    def _follows_before(self, monitor: ArmMonitor) -> bool:
        """Return whether the arm is measured on the path before the stop, not where the stop
        ends.
        """
        if self.before is None:
            return False
        stamp, measured, _ = monitor.newest
        allowed = _OFF * self._limits.tracking_error
        on_before = (np.abs(self.before.state(stamp)[0] - measured) <= allowed).all()
        return bool(on_before and (np.abs(self._path.positions[-1] - measured) > allowed).any())

    def _complain(self, now: float, monitor: ArmMonitor) -> str:
        if problem := monitor.problem(now):
            return f"it is unknown whether the arm has stopped: {problem}"
        speed = np.abs(monitor.state_from_positions()[1]) / self._limits.velocity
        name = self._limits.names[int(speed.argmax())]
        return (
            f"the arm does not stop: {name} still moves though a stop was sent {self._sent + 1}"
            " times; use the robot's own emergency stop"
        )
