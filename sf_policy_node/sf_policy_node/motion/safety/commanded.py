"""What the controller has been told: the motion last sent, on a fixed grid of times, so that the next one can join it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.types import Trajectory

_PAST_S = 1.0  # kept behind a join, to compare with measurements that arrive late


@dataclass(frozen=True)
class CommandedPath:
    """Positions and velocities (N, J) at ``origin + n * period`` [s]; at rest before the first and after the last.

    A new motion takes over at a point of this grid. That keeps the acceleration of every piece inside
    the limits: a cubic through points between those of the old grid would exceed it.
    """

    origin: float
    period: float
    positions: np.ndarray
    velocities: np.ndarray

    @classmethod
    def resting(cls, now: float, period: float, position: np.ndarray) -> CommandedPath:
        """Standing still at ``position`` (J,) from ``now`` on."""
        return cls(now, period, np.array([position], dtype=float), np.zeros((1, len(position))))

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

    def at(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity (J,) at a grid point; beyond the end, at rest."""
        last = len(self.positions) - 1
        if index > last:
            return self.positions[last], np.zeros_like(self.velocities[last])
        return self.positions[index], self.velocities[index]

    def state(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity (J,) at any time."""
        index = self.index(now)
        (before, speed), (_, speed_after) = self.at(index), self.at(index + 1)
        elapsed = min(max(now - self.time(index), 0.0), self.period)
        acceleration = (speed_after - speed) / self.period
        return before + speed * elapsed + 0.5 * acceleration * elapsed**2, speed + acceleration * elapsed

    def spliced(self, join: int, positions: np.ndarray, velocities: np.ndarray) -> CommandedPath:
        """This path up to grid point ``join``, then the new samples (M, J), the first one period later."""
        first = max(0, join - math.ceil(_PAST_S / self.period))
        kept = [self.at(index) for index in range(first, join + 1)]
        return CommandedPath(
            self.time(first),
            self.period,
            np.vstack([[position for position, _ in kept], positions]),
            np.vstack([[velocity for _, velocity in kept], velocities]),
        )

    def trajectory(self, now: float, names: tuple[str, ...]) -> Trajectory:
        """Everything that is still ahead of ``now``, to send."""
        index = min(self.index(now), len(self.positions) - 2)
        count = len(self.positions) - 1 - index
        times = self.period * np.arange(1, count + 1)
        return Trajectory(self.time(index), names, times, self.positions[index + 1 :], self.velocities[index + 1 :])
