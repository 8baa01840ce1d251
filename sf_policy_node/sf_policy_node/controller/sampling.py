"""Samples a trajectory as ``joint_trajectory_controller`` does, in NumPy.

Source: ``joint_trajectory_controller/src/trajectory.cpp`` of ros2_controllers 5.17.0, the same code
as in 4.42.1. Times are integer nanoseconds, as there. Not modelled: points without positions
(``allow_integration_in_goal_trajectories``, off by default) and efforts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

_NS = 1e-9
_NO_POINT = -2
_BRIDGE = -1


@dataclass(frozen=True)
class Point:
    """Position, velocity and acceleration (J,) [rad or m, per s, per s^2] at ``time`` [ns] after
    the trajectory's start.

    Velocity and acceleration are None where the message has none.
    """

    time: int
    position: np.ndarray
    velocity: np.ndarray | None = None
    acceleration: np.ndarray | None = None


class TrajectoryLike(Protocol):
    """A trajectory message: positions and velocities (N, J) [rad or m, per s] at ``stamp + times``.

    ``times`` are (N,) [s]. A ``stamp`` of 0 means now. ``velocities`` may be None.
    ``accelerations`` (N, J) [per s^2] may be absent or None.
    """

    @property
    def stamp(self) -> float: ...

    @property
    def joint_names(self) -> Sequence[str]: ...

    @property
    def times(self) -> np.ndarray: ...

    @property
    def positions(self) -> np.ndarray: ...

    @property
    def velocities(self) -> np.ndarray | None: ...


class SampledTrajectory:
    """A trajectory that the controller follows, and the state from which it is approached.

    Args:
        points: one or more, with strictly rising times.
        stamp: ``header.stamp`` [ns]; 0: the trajectory starts at the first sample.
    """

    def __init__(self, points: Sequence[Point], stamp: int) -> None:
        self.points, self._stamp = list(points), stamp
        self._times = [point.time for point in points]
        self._from_time, self._from = 0, points[0]
        self._coefficients = np.zeros((6, len(points[0].position)))
        self.restart()

    def restart(self) -> None:
        """Restart the sampling (``update``): a stamp of 0 becomes the time of the next sample."""
        self.start, self.is_sampled, self._segment = self._stamp, False, _NO_POINT

    def approach_from(self, time: int, state: Point, wraps: np.ndarray | None = None) -> None:
        """Start at ``state`` at ``time`` [ns] (``set_point_before_trajectory_msg``).

        A velocity or acceleration that the first point has and the state lacks counts as zero, so
        that the approach has the same degree as the other segments.

        Args:
            wraps: (J,) joints whose angles wrap; they take the shorter direction
                (``wraparound_joint``). None: none.
        """
        first = self.points[0]
        if state.velocity is None and first.velocity is not None:
            state = replace(state, velocity=np.zeros_like(state.position))
        if state.acceleration is None and first.acceleration is not None:
            state = replace(state, acceleration=np.zeros_like(state.position))
        if wraps is not None and wraps.any():
            distance = shortest_angle(state.position, first.position)
            opposite = np.abs(np.abs(distance) - np.pi) < 1e-9
            ahead = np.where(first.position > state.position, np.abs(distance), -np.abs(distance))
            distance = np.where(opposite, ahead, distance)
            state = replace(
                state, position=np.where(wraps, first.position - distance, state.position)
            )
        self._from_time, self._from, self._segment = time, state, _NO_POINT

    def sample(self, time: int, *, interpolate: bool = True) -> tuple[Point, int] | None:
        """Return the state at ``time`` [ns] and the index of its segment; None before the approach.

        The index is -1 before the first point, and ``len(points) - 1`` from the last point on,
        which is then held. Without interpolation (``interpolation_method: none``) the state is the
        next point as soon as the one before is due.
        """
        if not self.is_sampled:
            self.start, self.is_sampled = self.start or time, True
        if time < self._from_time:
            return None
        since, times = time - self.start, self._times
        if since < times[0]:
            if not interpolate:
                return self._from, _BRIDGE
            return (
                self._interpolated(_BRIDGE, self._from, self._from_time, self.points[0], time),
                _BRIDGE,
            )
        index = self._segment if self._segment > 0 and times[self._segment] <= since else 0
        while index + 1 < len(times) and times[index + 1] <= since:
            index += 1
        point = self.points[index]
        if index + 1 == len(times):
            return _complete(point), index
        following = self.points[index + 1]
        if not interpolate:
            return following, index
        return self._interpolated(index, point, self.start + point.time, following, time), index

    def _interpolated(
        self, index: int, first: Point, begin: int, second: Point, time: int
    ) -> Point:
        """Evaluate one segment (``interpolate_between_points``).

        Its coefficients are cached until another segment is evaluated.
        """
        if index != self._segment:
            self._coefficients = _coefficients(
                first, second, _NS * (self.start + second.time - begin)
            )
            self._segment = index
        c, t = self._coefficients, _NS * (time - begin)
        position = c[0] + t * (c[1] + t * (c[2] + t * (c[3] + t * (c[4] + t * c[5]))))
        velocity = c[1] + t * (2 * c[2] + t * (3 * c[3] + t * (4 * c[4] + t * 5 * c[5])))
        acceleration = 2 * c[2] + t * (6 * c[3] + t * (12 * c[4] + t * 20 * c[5]))
        return Point(second.time, position, velocity, acceleration)


def shortest_angle(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distance (J,) [rad] from one angle to another, in [-pi, pi].

    Source: ``angles::shortest_angular_distance``.
    """
    return np.remainder(end - start + np.pi, 2 * np.pi) - np.pi


def _coefficients(first: Point, second: Point, duration: float) -> np.ndarray:
    """Return the coefficients (6, J) of a polynomial in the time since ``first`` [s].

    It is quintic if both points have velocities and accelerations, cubic if both have only
    velocities, and linear otherwise. If both have accelerations but not both have velocities, it
    is zero, as in the real controller. In the code h is the duration [s], v0, v1, a0 and a1 (J,)
    are velocities and accelerations at its ends.
    """
    c = np.zeros((6, len(first.position)))
    h, step = duration, second.position - first.position
    has_velocity = first.velocity is not None and second.velocity is not None
    has_acceleration = first.acceleration is not None and second.acceleration is not None
    if has_acceleration and not has_velocity:
        return c
    c[0] = first.position
    if not has_velocity:
        c[1] = step / h
        return c
    v0, v1 = first.velocity, second.velocity
    c[1] = v0
    if not has_acceleration:
        c[2] = (3 * step - (2 * v0 + v1) * h) / h**2
        c[3] = (-2 * step + (v0 + v1) * h) / h**3
        return c
    a0, a1 = first.acceleration, second.acceleration
    c[2] = 0.5 * a0
    c[3] = (20 * step - (12 * v0 + 8 * v1) * h - (3 * a0 - a1) * h**2) / (2 * h**3)
    c[4] = (-30 * step + (16 * v0 + 14 * v1) * h + (3 * a0 - 2 * a1) * h**2) / (2 * h**4)
    c[5] = (12 * step - 6 * (v0 + v1) * h - (a0 - a1) * h**2) / (2 * h**5)
    return c


def _complete(point: Point) -> Point:
    """Replace a missing velocity or acceleration by zeros."""
    zeros = np.zeros_like(point.position)
    return replace(
        point,
        velocity=zeros if point.velocity is None else point.velocity,
        acceleration=zeros if point.acceleration is None else point.acceleration,
    )
