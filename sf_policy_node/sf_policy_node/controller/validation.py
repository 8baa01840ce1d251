"""Refuses the trajectories that ``joint_trajectory_controller`` refuses.

Source: its function ``validate_trajectory_msg``, whose messages are used where it has some.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sf_policy_node.controller.sampling import Point, TrajectoryLike

_REST = float(np.finfo(np.float32).eps)


class CommandRejected(ValueError):
    """A command is refused and the current motion continues; the message says why and the cure."""


class TrajectoryRejected(CommandRejected):
    """A trajectory is refused."""


def checked_points(
    trajectory: TrajectoryLike,
    stamp: int,
    joint_names: Sequence[str],
    now: int,
    *,
    allow_moving_end: bool,
) -> list[Point]:
    """Return the points of a trajectory in the controller's joint order.

    Args:
        stamp: when the trajectory starts [ns]; 0: when it arrives.
        now: the controller's time [ns].
        allow_moving_end: accept a last point with a velocity.

    Raises:
        TrajectoryRejected: names, sizes, times or values are wrong, or the last point was due
            before ``now``.
    """
    names = list(trajectory.joint_names)
    if sorted(names) != sorted(joint_names):
        raise TrajectoryRejected(
            f"joint_names must be {', '.join(joint_names)} (any order), "
            f"got {', '.join(names) or 'none'}"
        )
    seconds = np.asarray(trajectory.times, dtype=float)
    if seconds.ndim != 1 or not len(seconds):
        raise TrajectoryRejected("the trajectory has no points")
    if not (np.isfinite(seconds).all() and np.isfinite(trajectory.stamp)):
        raise TrajectoryRejected("time_from_start or header.stamp is not finite")
    order = [names.index(name) for name in joint_names]
    size = (len(seconds), len(names))
    positions = _matrix("positions", trajectory.positions, size)[:, order]
    velocities, accelerations = (
        (
            None
            if (values := getattr(trajectory, what, None)) is None
            else _matrix(what, values, size)[:, order]
        )
        for what in ("velocities", "accelerations")
    )
    if velocities is not None and not allow_moving_end and np.abs(velocities[-1]).max() > _REST:
        name = joint_names[int(np.abs(velocities[-1]).argmax())]
        raise TrajectoryRejected(f"velocities: the last point of {name} still moves; end at rest")
    times = [round(1e9 * time) for time in seconds.tolist()]
    end = stamp + times[-1] + round(1e9 * getattr(trajectory, "hold_s", 0.0))
    if stamp and end < now:
        late = 1e-9 * (now - end)
        raise TrajectoryRejected(
            f"the trajectory ends in the past: its last point was due {late:.3f} s ago"
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise TrajectoryRejected("time_from_start must rise from point to point")
    rows = range(len(times))
    points = [
        Point(
            times[row],
            positions[row],
            None if velocities is None else velocities[row],
            None if accelerations is None else accelerations[row],
        )
        for row in rows
    ]
    # The message of a trajectory with ``hold_s`` repeats its last point after that time.
    if hold_s := getattr(trajectory, "hold_s", 0.0):
        points.append(replace(points[-1], time=times[-1] + round(1e9 * hold_s)))
    return points


def _matrix(what: str, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    matrix = np.asarray(values, dtype=float)
    if matrix.shape != size:
        raise TrajectoryRejected(
            f"{what} must be {size[0]} points of {size[1]} joints, got shape {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise TrajectoryRejected(f"{what} has a value that is not finite")
    return matrix
