"""Plays a path as one command after another, for controllers that take no trajectories."""

from __future__ import annotations

import math

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.types import Setpoint

_GAP_S = 0.06  # a sender that was silent for longer, or for three periods, has lost the motion
_FASTEST = 1.05  # times the planned speed with which lateness is caught up
_SMOOTHING = 0.02  # share of a new interval in the average one
_SLOWEST = 3.0  # times the nominal period: the longest average interval
_CANDIDATES = 24  # places on the path that are tried when the one that is due would be a leap
_ROUNDING = 1.02


class Stream:
    """Reads commands off a path, each inside the limits after the one before it.

    A controller holds every command until the next one. So what it sees are steps: between two
    commands of one period a joint goes no further than at its top speed, and two steps differ no
    more than its acceleration allows. A cycle that comes late is caught up inside these limits, and
    a clock that goes back a little slows the motion down.

    Args:
        limits: None: commands follow the path by the clock alone, as where a controller of
            velocities has continued meanwhile.
        alone: the arm follows these commands and nothing else. Where a controller follows
            trajectories and only the gripper is streamed, the arm has continued meanwhile, and
            there is no gap.
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
        self._gap = max(_GAP_S, 3.0 / rate_hz) if alone else math.inf
        self._names = joint_names
        self._limits = limits
        self._interval = (
            self._period
        )  # between commands, on average: a loop may be slower than planned
        self._last: Setpoint | None = None  # of a motion that had not ended then
        self._step = np.zeros(0)  # from the command before it to that one (J,)
        self.place: float | None = None
        """Time on the path of the newest command [s]; None while nothing is streamed."""

    def at(self, path: CommandedPath, now: float) -> tuple[Setpoint | None, float]:
        """Return the command for ``now`` and 0; None when the arm holds position.

        After a gap: the command before it, at rest, and the gap [s].
        """
        last, before = self._last, self.place
        if last is None:
            if now >= path.end:
                return None, 0.0
            place, step = now, np.zeros(len(self._names))
        elif now - last.stamp > self._gap or now - before > 2.0 * self._gap:
            self.forget()
            return (
                Setpoint(now, self._names, last.positions, 0.0 * last.velocities),
                now - last.stamp,
            )
        else:
            late = min(max(now - last.stamp, self._period), _SLOWEST * self._period)
            self._interval += _SMOOTHING * (late - self._interval)
            place = now if self._limits is None else self._reached(path, now)
            step = path.state(place)[0] - path.state(before)[0]
        setpoint = Setpoint(now, self._names, *path.state(place))
        self._last, self.place, self._step = setpoint, place, step
        if place >= path.end:
            self.forget()
        return setpoint, 0.0

    def forget(self) -> None:
        """Nothing is under way: the next motion starts from rest."""
        self._last = self.place = None

    def clock_set(self, jump: float) -> None:
        """The clock was set by ``jump`` [s], and the path with it."""
        if self._last is not None:
            self._last = Setpoint(
                self._last.stamp + jump, self._names, self._last.positions, self._last.velocities
            )
            self.place += jump

    def _reached(self, path: CommandedPath, now: float) -> float:
        """Return the time on the path of the next command [s]: nearest to ``now`` inside the
        limits.
        """
        furthest = self.place + _FASTEST * self._interval
        due = min(max(now, self.place), furthest)
        here = path.state(self.place)[0]
        if self._excess(path, due, here) <= 1.0:
            return due
        places = np.linspace(self.place, furthest, _CANDIDATES)
        excess = np.array([self._excess(path, place, here) for place in places])
        allowed = np.flatnonzero(excess <= 1.0)
        if not len(allowed):
            return float(places[int(excess.argmin())])
        return float(places[allowed[int(np.abs(places[allowed] - due).argmin())]])

    def _excess(self, path: CommandedPath, place: float, here: np.ndarray) -> float:
        """Return the share of the limits that a command needs; 1 is allowed."""
        step = path.state(place)[0] - here
        speed = np.abs(step) / (self._limits.velocity * self._interval)
        change = np.abs(step - self._step) / (self._limits.acceleration * self._interval**2)
        return float(max(speed.max(), change.max())) / _ROUNDING
