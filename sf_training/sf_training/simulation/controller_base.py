"""What the controllers of the simulated arm have in common."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class CommandRejected(ValueError):
    """The command cannot be followed; the old motion goes on. The message says why and what would be accepted."""


class Controller(Protocol):
    """Turns commands into joint positions and velocities (J,) [rad or m, per s], on one clock [s] that is passed in."""

    def accept(self, command, now: float) -> None:
        """Take over a command; raises :class:`CommandRejected`."""

    def sample(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """What the servos are to do at ``now``, inside the limits. ``now`` must not go back."""

    def hold(self, positions: np.ndarray) -> None:
        """Drop all motion and stand at ``positions`` at once, as after a reset of the arm."""


class JointLimiter:
    """The joint limiter of ros2_control: cuts positions at their limits, and how far they may go between two samples.

    Args:
        lower, upper: position limits (J,) [rad or m].
        velocity: speed limits (J,) [rad/s or m/s].
    """

    def __init__(self, lower: np.ndarray, upper: np.ndarray, velocity: np.ndarray) -> None:
        self.lower, self.upper, self.velocity = (np.array(limit, dtype=float).ravel() for limit in (lower, upper, velocity))
        count = len(self.lower)
        self.position_clips = np.zeros(count, dtype=np.int64)  # samples cut at a position limit, per joint
        self.velocity_clips = np.zeros(count, dtype=np.int64)  # samples slowed by the velocity limit, per joint
        self.hold(np.zeros(count))

    def hold(self, positions: np.ndarray) -> None:
        """Stand at ``positions`` (J,), or as near as the limits allow."""
        self.position = np.clip(np.asarray(positions, float), self.lower, self.upper)
        self.time: float | None = None  # of the last sample

    def limit(self, planned: np.ndarray, speed: np.ndarray, now: float) -> tuple[np.ndarray, np.ndarray]:
        """The next sample (J,): as near to ``planned`` as the limits allow, with the velocity that this is."""
        period = 0.0 if self.time is None or now <= self.time else now - self.time
        reach = self.velocity * period
        low = np.maximum(self.lower, self.position - reach)
        high = np.minimum(self.upper, self.position + reach)
        position = np.minimum(np.maximum(planned, low), high)
        if period and (position != planned).any():
            speed = self._count(planned, position, speed, period)
        self.time, self.position = now, position
        return position, speed

    def _count(self, planned: np.ndarray, position: np.ndarray, speed: np.ndarray, period: float) -> np.ndarray:
        """Count the clips; the velocity that was really commanded."""
        cut = np.abs(position - planned) > 1e-9
        outside = (planned < self.lower) | (planned > self.upper)
        at_limit = (position <= self.lower) | (position >= self.upper)
        self.position_clips += cut & outside
        self.velocity_clips += cut & ~(outside & at_limit)
        return np.where(cut, (position - self.position) / period, speed)
