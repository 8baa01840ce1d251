"""What the controller has been told: the motion last sent, on a fixed grid of times, so that the
next one can join it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.types import Trajectory

_PAST_S = 1.0  # kept behind a join, to compare with measurements that arrive late
# A message starts with the grid points of this much time before it is sent, so that a controller
# whose clock is up to 30 ms behind still interpolates inside the message. Measured on the genuine
# joint_trajectory_controller: bridging from its own state instead costs up to 1227 times the
# acceleration limit at 500 Hz with 50 ms of servo lag.
_HISTORY_S = 0.05


@dataclass(frozen=True)
class CommandedPath:
    """Positions and velocities (N, J) at ``origin + n * period`` [s]; at rest before the first and
    after the last.

    A new motion takes over at a point of this grid. That keeps the acceleration of every piece
    inside
    the limits: a cubic through points between those of the old grid would exceed it.
    """

    origin: float
    period: float
    positions: np.ndarray
    velocities: np.ndarray
    begins: float = -math.inf
    """From when on the controller is known to be on this path [s]: where it was before that is not
    known, and nothing earlier is ever sent."""

    @classmethod
    def resting(
        cls, now: float, period: float, position: np.ndarray, *, begins: float = -math.inf
    ) -> CommandedPath:
        """Return the path of an arm that holds ``position`` (J,), with a grid point at ``now``."""
        at_rest = np.zeros((1, len(position)))
        return cls(now, period, np.array([position], dtype=float), at_rest, begins)

    def shifted(self, seconds: float) -> CommandedPath:
        """Return the same motion that much later."""
        return dataclasses.replace(self, origin=self.origin + seconds, begins=self.begins + seconds)

    @property
    def end(self) -> float:
        """When it comes to rest [s]."""
        return self.time(len(self.positions) - 1)

    def time(self, index: int) -> float:
        """Time of a grid point [s]."""
        return self.origin + index * self.period

    def index(self, now: float) -> int:
        """The grid point at or before ``now``, never below 0."""
        return max(0, math.floor((now - self.origin) / self.period + 1e-6))

    @property
    def first_known(self) -> int:
        """The first grid point at which the controller is known to be on this path."""
        if self.begins == -math.inf:
            return 0
        return max(0, math.ceil((self.begins - self.origin) / self.period - 1e-6))

    def at(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return position and velocity (J,) at a grid point; before the first and beyond the end,
        at rest.
        """
        last = len(self.positions) - 1
        if index < 0:
            return self.positions[0], np.zeros_like(self.velocities[0])
        if index > last:
            return self.positions[last], np.zeros_like(self.velocities[last])
        return self.positions[index], self.velocities[index]

    def state(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity (J,) at any time."""
        index = self.index(now)
        (before, speed), (_, speed_after) = self.at(index), self.at(index + 1)
        elapsed = min(max(now - self.time(index), 0.0), self.period)
        acceleration = (speed_after - speed) / self.period
        return (
            before + speed * elapsed + 0.5 * acceleration * elapsed**2,
            speed + acceleration * elapsed,
        )

    def spliced(self, join: int, positions: np.ndarray, velocities: np.ndarray) -> CommandedPath:
        """This path up to grid point ``join``, then the new samples (M, J), the first one period
        later.
        """
        first = max(0, join - math.ceil(_PAST_S / self.period))
        kept = [self.at(index) for index in range(first, join + 1)]
        return CommandedPath(
            self.time(first),
            self.period,
            np.vstack([[position for position, _ in kept], positions]),
            np.vstack([[velocity for _, velocity in kept], velocities]),
            self.begins,
        )

    def trajectory(
        self, now: float, names: tuple[str, ...], *, valid_until: float = -math.inf
    ) -> Trajectory:
        """Return the part of the path from shortly before ``now`` to its end, to send.

        Args:
            valid_until: the end is held at least until then [s].
        """
        last = len(self.positions) - 1
        first = math.floor((now - _HISTORY_S - self.origin) / self.period + 1e-6)
        if self.begins > -math.inf:
            first = max(first, self.first_known)
        points = range(min(first, last), last + 1)
        positions, velocities = zip(*(self.at(index) for index in points), strict=True)
        begin = self.time(points[0] - 1)
        stamp = min(begin, now)  # a stamp in the future would leave the motion before it in force
        times = begin - stamp + self.period * np.arange(1, len(points) + 1)
        hold = max(0.0, valid_until - self.end)
        return Trajectory(stamp, names, times, np.array(positions), np.array(velocities), hold)


@dataclass(frozen=True)
class Start:
    """Where a new motion leaves the one under way.

    Commanded position and velocity (J,) at grid point ``join`` of ``path``, ``time`` [s].
    """

    path: CommandedPath
    join: int
    time: float
    position: np.ndarray
    velocity: np.ndarray
    moving: bool
