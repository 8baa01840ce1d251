"""Models the joint limiter of the controller manager (``enforce_command_limits``).

It is off by default in Jazzy and on from Kilted.
"""

from __future__ import annotations

import numpy as np


class JointLimiter:
    """Clips position commands, and how far they move from the last command in one period.

    Source: ``compute_position_limits`` in ``joint_limits/src/joint_limits_helpers.cpp`` of
    ros2_control 4.x and 5.x, with the limits of a URDF. The controller is not informed that its
    command was clipped.

    Args:
        lower, upper: position limits (J,) [rad or m].
        velocity: speed limits (J,) [rad/s or m/s].
    """

    def __init__(self, lower: np.ndarray, upper: np.ndarray, velocity: np.ndarray) -> None:
        self.lower, self.upper, self.velocity = (
            np.array(limit, dtype=float).ravel() for limit in (lower, upper, velocity)
        )
        count = len(self.lower)
        self.position_clips = np.zeros(count, dtype=np.int64)
        """Samples clipped to a position limit (J,)."""
        self.velocity_clips = np.zeros(count, dtype=np.int64)
        """Samples clipped by the velocity limit (J,)."""
        self.hold(np.zeros(count))

    def hold(self, positions: np.ndarray) -> None:
        """Hold ``positions`` (J,), or the nearest that the limits allow."""
        self.position = np.clip(np.asarray(positions, float), self.lower, self.upper)
        self.time: float | None = None  # of the last sample

    def limit(
        self, planned: np.ndarray, speed: np.ndarray, now: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the command (J,) nearest to ``planned`` that the limits allow, and its velocity.

        Args:
            planned: (J,) command of the controller.
            speed: (J,) velocity to return for joints that are not clipped.
            now: time of this cycle [s].
        """
        period = 0.0 if self.time is None or now <= self.time else now - self.time
        reach = self.velocity * period
        low = np.maximum(self.lower, self.position - reach)
        high = np.minimum(self.upper, self.position + reach)
        position = np.minimum(np.maximum(planned, low), high)
        if period and (position != planned).any():
            speed = self._count(planned, position, speed, period)
        self.time, self.position = now, position
        return position, speed

    def _count(
        self, planned: np.ndarray, position: np.ndarray, speed: np.ndarray, period: float
    ) -> np.ndarray:
        """Count the clips and return the velocity (J,) that was commanded."""
        cut = np.abs(position - planned) > 1e-9
        outside = (planned < self.lower) | (planned > self.upper)
        at_limit = (position <= self.lower) | (position >= self.upper)
        self.position_clips += cut & outside
        self.velocity_clips += cut & ~(outside & at_limit)
        return np.where(cut, (position - self.position) / period, speed)
