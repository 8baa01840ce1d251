"""What ``joint_trajectory_controller`` does with a trajectory, as a NumPy class: the simulated arm follows it, tests measure against it.

From ros2_controllers: stamps are honoured, points in the past are dropped, a trajectory that lies wholly in the
past is rejected, the old one runs until the new one's stamp, and the motion between starts at the desired (not
the measured) state. Cubic where velocities are given, linear where not. A joint limiter clips what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sf_training.simulation.controller_base import CommandRejected, JointLimiter

_REST = 1e-6  # speed that counts as standing still, as in joint_trajectory_controller


class TrajectoryRejected(CommandRejected):
    """The trajectory cannot be followed."""


class TrajectoryLike(Protocol):
    """Positions and velocities (N, J) [rad or m, per s] at ``stamp + times`` (N,) [s]; ``velocities`` may be None, ``stamp`` 0 is now."""

    stamp: float
    joint_names: Sequence[str]
    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None


class JointTrajectoryController:
    """Follows joint trajectories on one clock (seconds) that is passed in with every call.

    Args:
        joint_names: J names; positions and velocities go in and out in this order.
        lower, upper: position limits (J,) [rad or m].
        velocity: speed limits (J,) [rad/s or m/s], enforced between two samples.
        allow_moving_end: accept a last point with a velocity (the real controller's default is False).
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        lower: np.ndarray,
        upper: np.ndarray,
        velocity: np.ndarray,
        *,
        allow_moving_end: bool = False,
    ) -> None:
        self.joint_names = tuple(joint_names)
        self._limiter = JointLimiter(lower, upper, velocity)
        self.position_clips, self.velocity_clips = self._limiter.position_clips, self._limiter.velocity_clips
        self._allow_moving_end = allow_moving_end
        self.accepted = 0
        self.rejected = 0
        self._powers = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])  # time powers of position and velocity
        self.hold(np.zeros(len(self.joint_names)))

    def hold(self, positions: np.ndarray) -> None:
        """Drop all motion and stand at ``positions`` (J,) at once, as after a reset of the arm."""
        self._limiter.hold(positions)
        self._speed = np.zeros_like(self._limiter.position)
        # The plan: cubic polynomials (4, J) in the time since their start; the last one stands still for ever.
        self._starts = [-np.inf]
        self._cubics = [_still(self._limiter.position)]
        self._index = 0

    def accept(self, trajectory: TrajectoryLike, now: float) -> None:
        """Take over a trajectory: at once, or at its stamp when that lies in the future.

        Raises:
            TrajectoryRejected: names, sizes, times or values are wrong, or every point has passed. The old motion goes on.
        """
        try:
            times, positions, velocities = self._checked(trajectory, now)
        except TrajectoryRejected:
            self.rejected += 1
            raise
        begin = now if trajectory.stamp == 0.0 else max(float(trajectory.stamp), now)
        if begin > now:
            position, speed = self._planned(begin)
        else:  # join where the last command left off, so that no step comes from the time since then
            begin = now if self._limiter.time is None else self._limiter.time
            position, speed = self._limiter.position, self._speed
        keep = sum(start < begin for start in self._starts)
        if times[0] > begin:
            times = np.append(begin, times)
            positions = np.vstack([position, positions])
            velocities = None if velocities is None else np.vstack([speed, velocities])
        self._starts = [*self._starts[:keep], *times.tolist()]
        self._cubics = [*self._cubics[:keep], *_cubics(times, positions, velocities), _still(positions[-1])]
        self._index = min(self._index, len(self._starts) - 1)
        if self._limiter.time is None:
            self._limiter.time = now
        self.accepted += 1

    def sample(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Commanded positions and velocities (J,) at ``now`` [s], inside the limits. ``now`` must not go back."""
        position, self._speed = self._limiter.limit(*self._planned(now), now)
        return position, self._speed

    def _planned(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        starts, index = self._starts, self._index
        while index and starts[index] > now:
            index -= 1
        while index + 1 < len(starts) and starts[index + 1] <= now:
            index += 1
        if self._limiter.time is None or now >= self._limiter.time:
            self._index = index
        elapsed = now - starts[index]
        if elapsed == np.inf:
            elapsed = 0.0
        powers = self._powers
        powers[0, 1] = elapsed
        powers[0, 2] = elapsed * elapsed
        powers[0, 3] = elapsed * elapsed * elapsed
        powers[1, 2] = 2.0 * elapsed
        powers[1, 3] = 3.0 * elapsed * elapsed
        state = powers @ self._cubics[index]
        return state[0], state[1]

    def _checked(self, trajectory: TrajectoryLike, now: float) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Absolute times (N,), positions and velocities (N, J) in the controller's joint order, without the past points."""
        names = list(trajectory.joint_names)
        if sorted(names) != sorted(self.joint_names):
            raise TrajectoryRejected(f"joint_names must be {', '.join(self.joint_names)} (any order), got {', '.join(names) or 'none'}")
        times = np.asarray(trajectory.times, float)
        if times.ndim != 1 or not len(times):
            raise TrajectoryRejected("the trajectory has no points")
        order = [names.index(name) for name in self.joint_names]
        positions = _matrix("positions", trajectory.positions, len(times), len(names))[:, order]
        velocities = trajectory.velocities
        if velocities is not None:
            velocities = _matrix("velocities", velocities, len(times), len(names))[:, order]
            if not self._allow_moving_end and np.abs(velocities[-1]).max() > _REST:
                name = self.joint_names[int(np.abs(velocities[-1]).argmax())]
                raise TrajectoryRejected(f"velocities: the last point of {name} still moves; end at rest")
        if not (np.isfinite(times).all() and np.isfinite(trajectory.stamp)):
            raise TrajectoryRejected("time_from_start or header.stamp is not finite")
        if times[0] < 0 or (np.diff(times) <= 0).any():
            raise TrajectoryRejected("time_from_start must be 0 or more and rise from point to point")
        times = times + (now if trajectory.stamp == 0.0 else float(trajectory.stamp))
        passed = int(np.searchsorted(times, now))
        if passed == len(times):
            raise TrajectoryRejected(f"all points have passed: the last one was due {now - times[-1]:.3f} s ago")
        return times[passed:], positions[passed:], None if velocities is None else velocities[passed:]


def _matrix(what: str, values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    matrix = np.asarray(values, float)
    if matrix.shape != (rows, columns):
        raise TrajectoryRejected(f"{what} must be {rows} points of {columns} joints, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise TrajectoryRejected(f"{what} has a value that is not finite")
    return matrix


def _still(position: np.ndarray) -> np.ndarray:
    cubic = np.zeros((4, len(position)))
    cubic[0] = position
    return cubic


def _cubics(times: np.ndarray, positions: np.ndarray, velocities: np.ndarray | None) -> np.ndarray:
    """Coefficients (N - 1, 4, J) between N points: Hermite where there are velocities, else lines."""
    duration = np.diff(times)[:, None]
    slope = np.diff(positions, axis=0) / duration
    cubics = np.zeros((len(slope), 4, positions.shape[1]))
    cubics[:, 0] = positions[:-1]
    if velocities is None:
        cubics[:, 1] = slope
    else:
        before, after = velocities[:-1], velocities[1:]
        cubics[:, 1] = before
        cubics[:, 2] = (3.0 * slope - 2.0 * before - after) / duration
        cubics[:, 3] = (before + after - 2.0 * slope) / duration**2
    return cubics
