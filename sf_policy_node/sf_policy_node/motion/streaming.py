"""Streams a path as single commands, for controllers that take no trajectories."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.types import Setpoint

_GAP_S, _GAP_PERIODS = 0.06, 3.0  # after a gap longer than both, the motion is abandoned
_FASTEST = 1.05  # times the planned speed with which a delay is caught up
_SMOOTHING = 0.02  # weight of a new interval in the average
_SLOWEST = 3.0  # times the nominal period: the longest interval that counts for the average
_CANDIDATES = 24  # times on the path that are tried when the command that is due would be a jump
_ROUNDING = 1.02  # tolerance of the limits


def longest_gap(period: float) -> float:
    """Return after which time without a command [s] a motion is abandoned, for one ``period`` [s]
    between commands.
    """
    return max(_GAP_S, _GAP_PERIODS * period)


class Stream:
    """Samples commands from a path so that each is reachable from the one before it.

    A controller holds every command until the next one, so it sees steps. In one step a joint moves
    no further than at its top speed, and two steps differ by no more than its acceleration allows.
    A delayed cycle is caught up inside these limits, and a clock that goes back a little slows the
    motion down.

    Args:
        limits: None: commands follow the path by the clock alone, for a controller of velocities,
            which continues between commands.
        alone: the arm follows only these commands. False: a controller follows trajectories and
            only the gripper is streamed, so that a gap does not stop the arm.
    """

    def __init__(
        self,
        rate_hz: float,
        joint_names: tuple[str, ...],
        limits: JointLimits | None,
        *,
        alone: bool = True,
    ) -> None:
        self._period = 1.0 / rate_hz
        self._gap = longest_gap(self._period) if alone else math.inf
        self._alone = alone
        self._names = joint_names
        self._limits = limits
        # Average time between commands [s]: the loop may be slower than planned.
        self._interval = self._period
        self._last: Setpoint | None = None  # the last command of a motion that has not ended
        self._step = np.zeros(0)  # (J,) change from the command before it to the last one
        # Time on the path of the newest command [s]; None while nothing is streamed.
        self._path_time: float | None = None
        # When a motion that waits for its first command begins [s], and from where (J,).
        self._waiting: tuple[float, np.ndarray] | None = None
        self._waiting_before: tuple[float, np.ndarray] | None = None  # before the last `begin`

    def time(self, now: float) -> float:
        """Return the time on the path up to which the arm has been commanded at ``now`` [s].

        It is ``now`` while nothing is streamed, or a controller follows trajectories.
        """
        return now if self._path_time is None or not self._alone else self._path_time

    def lag(self, now: float) -> float:
        """Return how far the commands are behind the path at ``now`` [s]; negative: ahead of it."""
        if self._path_time is None and self._waiting is not None:
            return max(0.0, now - self._waiting[0])
        return now - self.time(now)

    def begin(self, begins: float, position: np.ndarray) -> None:
        """Take that a motion from standstill begins at ``begins`` [s] and ``position`` (J,).

        Until its first command the arm holds that position. While a motion is streamed, or waits
        for its first command, nothing changes.
        """
        self._waiting_before = self._waiting
        if self._alone and self._path_time is None and self._waiting is None:
            self._waiting = begins, position

    def withdraw(self) -> None:
        """Undo the last :meth:`begin`, because the motion was not sent."""
        self._waiting = self._waiting_before

    def stall(self, now: float) -> float:
        """Return for how long no command was sent during a motion [s], if that abandons the motion.

        0 otherwise.
        """
        if self._last is not None:
            late, lag = now - self._last.stamp, now - self._path_time
            if late > self._gap or lag > 2.0 * self._gap:
                return max(late, lag)
        elif self._waiting is not None and now - self._waiting[0] > self._gap:
            return now - self._waiting[0]
        return 0.0

    def abandon(self, now: float) -> Setpoint:
        """Abandon the motion that stalled and return its last command, with velocities 0."""
        position = self._waiting[1] if self._last is None else self._last.positions
        self.forget()
        return Setpoint(now, self._names, position, 0.0 * position)

    def next(self, path: CommandedPath | None, now: float) -> Setpoint | None:
        """Return the command for ``now`` [s]; None when the arm holds position.

        Args:
            path: the commanded path; None: there is none to follow.
        """
        last, before, waiting, self._waiting = self._last, self._path_time, self._waiting, None
        if path is None:
            self.forget()
            return None
        if last is None and waiting is not None:
            path_time, step = min(now, waiting[0]), np.zeros(len(self._names))
        elif last is None:
            if now >= path.end:
                return None
            path_time, step = now, np.zeros(len(self._names))
        else:
            late = min(max(now - last.stamp, self._period), _SLOWEST * self._period)
            self._interval += _SMOOTHING * (late - self._interval)
            path_time = now if self._limits is None else self._next_time(path, now)
            step = path.state(path_time)[0] - path.state(before)[0]
        setpoint = Setpoint(now, self._names, *path.state(path_time))
        self._last, self._path_time, self._step = setpoint, path_time, step
        if path_time >= path.end:
            self.forget()
        return setpoint

    def forget(self) -> None:
        """Forget the current motion: the next one starts from standstill."""
        self._last = self._path_time = self._waiting = None

    def shift_clock(self, jump: float) -> None:
        """Adapt to a clock jump by ``jump`` [s]; the path is shifted as well."""
        if self._waiting is not None:
            self._waiting = self._waiting[0] + jump, self._waiting[1]
        if self._last is not None:
            self._last = dataclasses.replace(self._last, stamp=self._last.stamp + jump)
            self._path_time += jump

    def _next_time(self, path: CommandedPath, now: float) -> float:
        """Return the time on the path of the next command [s]: the one nearest to ``now`` that the
        limits allow.
        """
        furthest = self._path_time + _FASTEST * self._interval
        due = min(max(now, self._path_time), furthest)
        here = path.state(self._path_time)[0]
        if self._excess(path, due, here) <= 1.0:
            return due
        times = np.linspace(self._path_time, furthest, _CANDIDATES)
        excess = np.array([self._excess(path, time, here) for time in times])
        allowed = np.flatnonzero(excess <= 1.0)
        if not len(allowed):
            return float(times[int(excess.argmin())])
        return float(times[allowed[int(np.abs(times[allowed] - due).argmin())]])

    def _excess(self, path: CommandedPath, time: float, here: np.ndarray) -> float:
        """Return the share of the limits that a step from ``here`` (J,) needs; up to 1 is allowed.

        Args:
            time: on the path, of the command at the end of the step [s].
        """
        step = path.state(time)[0] - here
        speed = np.abs(step) / (self._limits.velocity * self._interval)
        change = np.abs(step - self._step) / (self._limits.acceleration * self._interval**2)
        return float(max(speed.max(), change.max())) / _ROUNDING
