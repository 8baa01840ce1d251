"""Brings a controller whose state is unknown to a target position inside the limits.

A ``joint_trajectory_controller`` bridges from its own state to the first point of a message when
that point is in the future. It follows a cubic through position and velocity at both ends. A single
point far enough ahead is therefore a safe command for every state in which the controller may be.

The cubic from position p and velocity v (J,) to standstill at the target g (J,) in T [s], with
d = g - p, has at its start the acceleration a = 6 d / T^2 - 4 v / T and the jerk
j = 6 v / T^2 - 12 d / T^3, which is constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import TOLERANCE, Workspace
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.shaping import brake

_LONGEST_S = 10.0
_GROWTH = 1.1

State = tuple[np.ndarray, np.ndarray]  # positions and velocities (J,)


@dataclass(frozen=True)
class Approach:
    """The motion of a controller from its last command to the beginning of a new path.

    It starts at ``origin`` (J,) at ``begun`` [s] and ends at ``target`` (J,) at ``ends`` [s], both
    stationary. ``is_known``: ``origin`` is the last command; otherwise the measured joints, and the
    controller may hold another position.
    """

    begun: float
    origin: np.ndarray
    ends: float
    target: np.ndarray
    is_known: bool

    def state(self, now: float) -> State:
        """Return position and velocity (J,) at ``now`` [s]."""
        u = min(max((now - self.begun) / (self.ends - self.begun), 0.0), 1.0)
        distance = self.target - self.origin
        speed = 6.0 * u * (1.0 - u) * distance / (self.ends - self.begun)
        return self.origin + u**2 * (3.0 - 2.0 * u) * distance, speed

    def possible_states(
        self, measured: np.ndarray | None, now: float, allowed: np.ndarray
    ) -> list[State]:
        """Return the states in which the controller may be, the most likely first; empty where it
        is not on this motion.

        Its origin may be wrong: a controller that bridges from the measured joints is at the target
        all the time if they were right.

        Args:
            measured: (J,) joints; None: joint states are lost, so both is possible.
            allowed: (J,) tracking errors [rad or m].
        """
        if measured is None:
            return [self.state(now), (self.target, np.zeros(len(self.target)))]
        beside = np.abs(measured - self.state(now)[0]) / allowed
        short = np.abs(measured - self.target) / allowed
        is_on_it = (beside <= 1.0).all() and beside.max() < short.max()
        return [self.state(now)] if is_on_it else []


def meeting_times(
    starts: list[State], target: np.ndarray, limits: JointLimits, period: float, *, bounded: bool
) -> Iterator[float]:
    """Yield durations [s] in which the limits allow all ``starts`` to stop at ``target``.

    They are multiples of ``period``, rising, up to 10 s.

    Args:
        starts: the states in which the controller may be.
        target: (J,) inside the position limits.
        bounded: check the position limits as well.
    """
    duration = 2.0 * period
    while duration < _LONGEST_S:
        if all(fits(*start, target, duration, limits, bounded=bounded) for start in starts):
            yield duration
        duration = period * math.ceil(_GROWTH * duration / period)


class MeetingPlanner:
    """Plans motions that bring a controller to a target, in whichever of some states it is."""

    def __init__(self, limits: JointLimits, period: float, workspace: Workspace) -> None:
        self._limits, self._period, self._workspace = limits, period, workspace

    def time(
        self, starts: list[State], target: np.ndarray, *, bounded: bool = True
    ) -> float | None:
        """Return the shortest duration [s] of :func:`meeting_times` in which no tool is too fast.

        Where a tool is too fast in all of them, the longest one is returned; None where there is
        none.
        """
        duration, period = None, self._period
        for duration in meeting_times(starts, target, self._limits, period, bounded=bounded):
            motions = [samples(*start, target, duration, period) for start in starts]
            surveys = [
                self._workspace.survey(
                    np.vstack([start[0], motion[0]]), np.vstack([start[1], motion[1]])
                )
                for start, motion in zip(starts, motions, strict=True)
            ]
            if not any(survey.is_too_fast for survey in surveys):
                break
        return duration

    def stop_position(
        self, states: list[State], grippers: np.ndarray | None
    ) -> tuple[State, np.ndarray]:
        """Return the first of ``states``, inside the limits, and where to stop it (J,).

        It stops where braking from that state ends, or from another one if the tool is less far
        outside its box there: the servos of an arm droop, so it may be measured outside.

        Args:
            states: the states in which the controller may be.
            grippers: (G,) commanded positions, which the grippers keep, and so their grip; None:
                unknown, so each keeps the position of the state.
        """
        inside, ends = [], []
        for position, velocity in states:
            position, velocity = self._limits.inside(position), velocity.copy()
            if grippers is not None:
                position[self._limits.is_gripper] = grippers
            velocity[self._limits.is_gripper] = 0.0
            inside.append((position, velocity))
            end = brake(position, velocity, self._limits, self._period)[0][-1]
            ends.append(self._limits.inside(end))
        return inside[0], min(ends, key=lambda end: max(self._workspace.outside(end), TOLERANCE))

    def stop(
        self, starts: list[State], target: np.ndarray, now: float, *, bridges: bool
    ) -> tuple[CommandedPath, tuple[np.ndarray, np.ndarray]]:
        """Return a path at ``now`` [s] and the samples (N, J) that continue it to ``target`` (J,).

        Args:
            starts: the states in which the controller may be; the first is assumed for the path.
            bridges: the controller bridges to the end from its own state, so it is on the path only
                then.
        """
        duration = self.time(starts, target) or self.time(starts, target, bounded=False)
        begins = now + duration if bridges else -math.inf
        position, velocity = starts[0]
        path = CommandedPath(now, self._period, position[None], velocity[None], begins)
        return path, samples(position, velocity, target, duration, self._period)


def fits(
    position: np.ndarray,
    velocity: np.ndarray,
    target: np.ndarray,
    duration: float,
    limits: JointLimits,
    *,
    bounded: bool = True,
) -> bool:
    """Return whether the cubic from a state (J,) to ``target`` (J,) keeps the limits.

    The acceleration is linear in time, so it is largest at an end: ``first`` or ``last``. The speed
    is largest at an end or at the vertex of its parabola. A state faster than the limit may brake,
    and one outside the position limits may come back. ``bounded``: position limits are checked.
    """
    return _keeps_limits(
        position,
        velocity,
        target,
        duration,
        limits.acceleration,
        limits.velocity,
        limits.lower,
        limits.upper,
        bounded,
    )


@numba.njit("b1(f8[:], f8[:], f8[:], f8, f8[:], f8[:], f8[:], f8[:], b1)", cache=True)
def _keeps_limits(
    position: np.ndarray,
    velocity: np.ndarray,
    target: np.ndarray,
    duration: float,
    acceleration: np.ndarray,
    speed: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    bounded: bool,
) -> bool:  # pragma: no cover - compiled
    """Compute :func:`fits`, joint by joint: up to 60 durations are tried before a motion starts."""
    for k in range(len(position)):
        p, v, distance = position[k], velocity[k], target[k] - position[k]
        first = 6.0 * distance / duration**2 - 4.0 * v / duration
        last = -6.0 * distance / duration**2 + 2.0 * v / duration
        # Comparisons are written so that a value that is not a number keeps no limit.
        allowed = 0.98 * acceleration[k]
        if not (abs(first) <= allowed and abs(last) <= allowed):
            return False
        jerk = (last - first) / duration
        vertex = 0.0 if jerk == 0.0 else min(max(-first / jerk, 0.0), duration)
        top = abs(v + first * vertex + 0.5 * jerk * vertex**2)
        if not top <= max(0.99 * speed[k], abs(v)):
            return False
        if bounded:
            # The speed is a parabola in time with one root at the end. The product of its roots is
            # 2 v / j, so the other root, where the joint reverses, is 2 v / (j T).
            turn = 0.0 if jerk == 0.0 else 2.0 * v / (jerk * duration)
            if not 0.0 < turn < duration:
                turn = 0.0
            furthest = p + v * turn + 0.5 * first * turn**2 + jerk * turn**3 / 6.0
            if not min(lower[k], p) - 1e-9 <= furthest <= max(upper[k], p) + 1e-9:
                return False
    return True


def samples(
    position: np.ndarray, velocity: np.ndarray, target: np.ndarray, duration: float, period: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sample the cubic from a state (J,) to ``target`` (J,), which it reaches in ``duration`` [s].

    Returns positions and velocities (N, J), one period apart, the last one stationary at
    ``target``.
    """
    t = (period * np.arange(1, round(duration / period) + 1))[:, None]
    distance = target - position
    first = 6.0 * distance / duration**2 - 4.0 * velocity / duration
    jerk = (-12.0 * distance / duration + 6.0 * velocity) / duration**2
    positions = position + velocity * t + 0.5 * first * t**2 + jerk * t**3 / 6.0
    velocities = velocity + first * t + 0.5 * jerk * t**2
    positions[-1], velocities[-1] = target, 0.0
    return positions, velocities
