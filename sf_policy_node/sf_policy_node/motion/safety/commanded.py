"""The commanded path: the motion last sent to the controller, sampled on a fixed time grid, so that
the next motion can continue from it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.types import Trajectory

_PAST_S = 1.0  # of the path is kept before a join, to compare with joint states that arrive late
# A message starts with the grid points of this much time before it is sent, so that a controller
# whose clock is up to 30 ms behind still interpolates inside the message. Measured on the genuine
# joint_trajectory_controller: bridging from its own state instead costs up to 1227 times the
# acceleration limit at 500 Hz with 50 ms of servo lag.
_HISTORY_S = 0.05
_CLOCK_BEHIND_S = 0.03  # how far the controller's clock may be behind


@dataclass(frozen=True)
class CommandedPath:
    """Commanded joint positions and velocities over time; stationary before and after.

    A new motion takes over at a point of the time grid. That keeps the acceleration of every
    segment inside the limits: a cubic that starts between two grid points would exceed it.

    Attributes:
        origin: time of the first grid point [s].
        period: between grid points [s].
        positions: (N, J) [rad or m]; point n is due at ``origin + n * period``.
        velocities: (N, J) [rad/s or m/s].
    """

    origin: float
    period: float
    positions: np.ndarray
    velocities: np.ndarray
    begins: float = -math.inf
    """From when the controller is known to be on this path [s].

    Its state before that is unknown, so no earlier point is sent. -inf: it has always been on it.
    """

    @classmethod
    def resting(
        cls, now: float, period: float, position: np.ndarray, *, begins: float = -math.inf
    ) -> CommandedPath:
        """Return the path of an arm that holds ``position`` (J,), with its grid point at ``now``
        [s].
        """
        at_rest = np.zeros((1, len(position)))
        return cls(now, period, np.array([position], dtype=float), at_rest, begins)

    def shifted(self, seconds: float) -> CommandedPath:
        """Return the same motion, ``seconds`` later."""
        return dataclasses.replace(self, origin=self.origin + seconds, begins=self.begins + seconds)

    @property
    def end(self) -> float:
        """When the motion ends [s]."""
        return self.time(len(self.positions) - 1)

    def time(self, index: int) -> float:
        """Return the time of a grid point [s]."""
        return self.origin + index * self.period

    def index(self, now: float) -> int:
        """Return the index of the grid point at or before ``now`` [s], at least 0."""
        return max(0, math.floor((now - self.origin) / self.period + 1e-6))

    @property
    def first_known(self) -> int:
        """Index of the first grid point at which the controller is known to be on this path."""
        if self.begins == -math.inf:
            return 0
        return max(0, math.ceil((self.begins - self.origin) / self.period - 1e-6))

    def is_reached(self, now: float) -> bool:
        """Return whether the controller is on this path at ``now`` [s].

        Before that a message would make it bridge again, from measured joints that lag.
        """
        return now >= self.begins + _CLOCK_BEHIND_S

    def is_over(self, now: float) -> bool:
        """Return whether every controller has reached the end of this path at ``now`` [s]."""
        return now >= self.end + _CLOCK_BEHIND_S

    def last_rest(self, now: float) -> float:
        """Return when the path was last stationary at or before ``now`` [s], as far as is known."""
        before = self.velocities[: self.index(now) + 1]
        resting = np.flatnonzero((before == 0.0).all(axis=1))
        return self.time(int(resting[-1])) if len(resting) else self.origin

    @property
    def ends_at_begin(self) -> bool:
        """Whether the arm is at rest from :attr:`begins` on."""
        return len(self.positions) - 1 <= self.first_known

    def at(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return position and velocity (J,) at a grid point.

        Before the first and after the last grid point the arm holds position there.
        """
        last = len(self.positions) - 1
        if index < 0:
            return self.positions[0], np.zeros_like(self.velocities[0])
        if index > last:
            return self.positions[last], np.zeros_like(self.velocities[last])
        return self.positions[index], self.velocities[index]

    def state(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Interpolate position and velocity (J,) at any time [s].

        The acceleration is constant between two grid points.
        """
        index = self.index(now)
        (before, speed), (_, speed_after) = self.at(index), self.at(index + 1)
        elapsed = min(max(now - self.time(index), 0.0), self.period)
        acceleration = (speed_after - speed) / self.period
        return (
            before + speed * elapsed + 0.5 * acceleration * elapsed**2,
            speed + acceleration * elapsed,
        )

    def spliced(self, join: int, positions: np.ndarray, velocities: np.ndarray) -> CommandedPath:
        """Return this path up to grid point ``join``, continued by new samples (M, J).

        The first new sample is due one period after ``join``. Of the old path at most 1 s is kept.
        """
        first = max(0, join - math.ceil(_PAST_S / self.period))
        kept = self._points(first, join)
        return CommandedPath(
            self.time(first),
            self.period,
            np.vstack([kept[0], positions]),
            np.vstack([kept[1], velocities]),
            self.begins,
        )

    def trajectory(
        self, now: float, names: tuple[str, ...], *, valid_until: float = -math.inf
    ) -> Trajectory:
        """Return the part of the path from shortly before ``now`` to its end, to send.

        Args:
            names: (J,) joint names of the trajectory.
            valid_until: the last point is repeated so that the trajectory lasts until then [s].
        """
        last = len(self.positions) - 1
        first = math.floor((now - _HISTORY_S - self.origin) / self.period + 1e-6)
        if self.begins > -math.inf:
            first = max(first, self.first_known)
        first = min(first, last)
        positions, velocities = self._points(first, last)
        begin = self.time(first - 1)
        # With a stamp in the future the controller would continue the motion before this one.
        stamp = min(begin, now)
        times = begin - stamp + self.period * np.arange(1, len(positions) + 1)
        hold = max(0.0, valid_until - self.end)
        return Trajectory(stamp, names, times, positions, velocities, hold)

    def _points(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and velocities (N, J) at the grid points ``first`` to ``last``."""
        indices = np.arange(first, last + 1)
        inside = np.clip(indices, 0, len(self.positions) - 1)
        moving = (indices == inside)[:, None]
        return self.positions[inside], np.where(moving, self.velocities[inside], 0.0)


@dataclass(frozen=True)
class Start:
    """The commanded state from which a new motion starts.

    Attributes:
        path: the path that the new motion continues.
        join: index of the grid point of ``path`` at which it starts, at ``time`` [s].
        position: (J,) commanded there.
        velocity: (J,) commanded there.
        moving: whether ``path`` is a motion in progress; False: the arm holds position.
    """

    path: CommandedPath
    join: int
    time: float
    position: np.ndarray
    velocity: np.ndarray
    moving: bool
