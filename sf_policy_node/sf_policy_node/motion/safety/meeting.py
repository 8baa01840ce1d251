"""Leads a controller whose state is not known to one place, inside the limits from wherever it is.

A ``joint_trajectory_controller`` bridges from its own state to the first point of a message when
that point lies in the future: a cubic through position and velocity at both ends. So one point far
enough ahead is a safe command for every state that the controller may be in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits

_LONGEST_S = 10.0
_GROWTH = 1.1

State = tuple[np.ndarray, np.ndarray]  # positions and velocities (J,)


@dataclass(frozen=True)
class Approach:
    """The way of a controller that holds its last command to ``place``, where it is met.

    It is at ``origin`` (J,) at ``begun`` [s] and at ``place`` (J,) at ``ends`` [s], at rest.
    """

    begun: float
    origin: np.ndarray
    ends: float
    place: np.ndarray

    def state(self, now: float) -> State:
        """Return position and velocity (J,) at a time [s]."""
        u = min(max((now - self.begun) / (self.ends - self.begun), 0.0), 1.0)
        way = self.place - self.origin
        speed = 6.0 * u * (1.0 - u) * way / (self.ends - self.begun)
        return self.origin + u**2 * (3.0 - 2.0 * u) * way, speed

    def is_seen(self, measured: np.ndarray, now: float, allowed: np.ndarray) -> bool:
        """Whether joints (J,) are measured on this way rather than at its end."""
        beside = np.abs(measured - self.state(now)[0]) / allowed
        short = np.abs(measured - self.place) / allowed
        return bool((beside <= 1.0).all() and beside.max() < short.max())


def meeting_times(
    starts: list[State], place: np.ndarray, limits: JointLimits, period: float, *, bounded: bool
) -> Iterator[float]:
    """Yield times [s], in whole periods and rising, that lead every start to rest at ``place``.

    Args:
        starts: where the controller may be.
        place: (J,) inside the position limits.
        bounded: position limits count, too.

    On each cubic the acceleration, which is largest at an end, and the speed, which is largest at
    an end or at its vertex, stay inside the limits. A start that is faster than the limit may
    brake.
    """
    duration = 2.0 * period
    while duration < _LONGEST_S:
        if all(fits(*start, place, duration, limits, bounded=bounded) for start in starts):
            yield duration
        duration = period * math.ceil(_GROWTH * duration / period)


def fits(
    position: np.ndarray,
    velocity: np.ndarray,
    place: np.ndarray,
    duration: float,
    limits: JointLimits,
    *,
    bounded: bool = True,
) -> bool:
    """The cubic from a state (J,) to rest at ``place`` in ``duration`` [s] keeps the limits."""
    way = place - position
    first = 6.0 * way / duration**2 - 4.0 * velocity / duration
    last = -6.0 * way / duration**2 + 2.0 * velocity / duration
    if (np.maximum(np.abs(first), np.abs(last)) > 0.98 * limits.acceleration).any():
        return False
    jerk = (last - first) / duration
    vertex = np.clip(-first / np.where(jerk == 0.0, np.inf, jerk), 0.0, duration)
    top = np.abs(velocity + first * vertex + 0.5 * jerk * vertex**2)
    if (top > np.maximum(0.99 * limits.velocity, np.abs(velocity))).any():
        return False
    if not bounded:
        return True
    turn = _turning(velocity, first, jerk, duration)
    furthest = position + velocity * turn + 0.5 * first * turn**2 + jerk * turn**3 / 6.0
    low, high = np.minimum(limits.lower, position), np.maximum(limits.upper, position)
    return bool(((furthest >= low - 1e-9) & (furthest <= high + 1e-9)).all())


def _turning(
    velocity: np.ndarray, first: np.ndarray, jerk: np.ndarray, duration: float
) -> np.ndarray:
    """Return when each joint turns back (J,) [s] on its cubic, which ends at rest; 0: never."""
    # The speed is a parabola with a root at the end; the other root is where the joint turns.
    product = np.where(jerk == 0.0, 0.0, 2.0 * velocity / np.where(jerk == 0.0, 1.0, jerk))
    root = product / duration
    return np.where((root > 0.0) & (root < duration), root, 0.0)


def samples(
    position: np.ndarray, velocity: np.ndarray, place: np.ndarray, duration: float, period: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cubic as positions and velocities (N, J), one period apart, the last at
    ``place``.
    """
    t = (period * np.arange(1, round(duration / period) + 1))[:, None]
    way = place - position
    first = 6.0 * way / duration**2 - 4.0 * velocity / duration
    jerk = (-12.0 * way / duration + 6.0 * velocity) / duration**2
    positions = position + velocity * t + 0.5 * first * t**2 + jerk * t**3 / 6.0
    velocities = velocity + first * t + 0.5 * jerk * t**2
    positions[-1], velocities[-1] = place, 0.0
    return positions, velocities
