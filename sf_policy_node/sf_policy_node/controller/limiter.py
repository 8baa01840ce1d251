"""The joint limiter of the controller manager (``enforce_command_limits``; off by default in Jazzy,
on from Kilted).
"""

from __future__ import annotations

import numpy as np


class JointLimiter:
    """Limits position commands, and how far they go from the last command in one period.

    Source: ``compute_position_limits`` in ``joint_limits/src/joint_limits_helpers.cpp`` of
        ros2_control 4.x and 5.x, with the
    limits that a URDF has. The controller does not learn that its command was cut.

    Args:
        lower, upper: position limits (J,) [rad or m].
        velocity: speed limits (J,) [rad/s or m/s].
    """

    def __init__(self, lower: np.ndarray, upper: np.ndarray, velocity: np.ndarray) -> None:
        self.lower, self.upper, self.velocity = (
            np.array(limit, dtype=float).ravel() for limit in (lower, upper, velocity)
        )
        count = len(self.lower)
        self.position_clips = np.zeros(
            count, dtype=np.int64
        )  # samples cut at a position limit, per joint
        self.velocity_clips = np.zeros(
            count, dtype=np.int64
        )  # samples slowed by the velocity limit, per joint
        self.hold(np.zeros(count))

    def hold(self, positions: np.ndarray) -> None:
        """Stand at ``positions`` (J,), or as near as the limits allow."""
        self.position = np.clip(np.asarray(positions, float), self.lower, self.upper)
        self.time: float | None = None  # of the last sample

    def limit(
        self, planned: np.ndarray, speed: np.ndarray, now: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the next sample (J,), as near to ``planned`` as the limits allow, and the velocity
        that this is.
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
        """Count the clips; return the velocity that was really commanded."""
        cut = np.abs(position - planned) > 1e-9
        outside = (planned < self.lower) | (planned > self.upper)
        at_limit = (position <= self.lower) | (position >= self.upper)
        self.position_clips += cut & outside
        self.velocity_clips += cut & ~(outside & at_limit)
        return np.where(cut, (position - self.position) / period, speed)
