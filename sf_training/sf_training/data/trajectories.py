"""Recorded trajectories as positions over time: each holds until its last point, or until the next
one replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sf_training.data.synchronisation import Knots


def trajectory_knots(
    stamps: np.ndarray, trajectories: Sequence, names: Sequence[str]
) -> dict[str, Knots]:
    """Return the positions that trajectories command.

    A trajectory begins at its stamp, from where the one before has the joint then; the first one
    begins at its first point. Between two points the position goes evenly. An empty trajectory
    stops the motion, as the controller does.

    Args:
        stamps: (N,) sorted [ns].
        trajectories: N messages ``trajectory_msgs/JointTrajectory``.
        names: wanted joints.

    Raises:
        ValueError: a trajectory cannot be followed.
    """
    found: dict[str, list[list]] = {}
    for start, message in zip(stamps.tolist(), trajectories, strict=True):
        times = [start + _nanoseconds(point.time_from_start) for point in message.points]
        if any(after < before for after, before in zip(times[1:], times, strict=False)):
            raise ValueError(
                "a trajectory's points are not in the order of their time_from_start; correct its"
                " publisher"
            )
        joints = list(message.joint_names)
        if any(len(point.positions) != len(joints) for point in message.points):
            raise ValueError(
                f"a trajectory's point does not hold {len(joints)} positions; correct its publisher"
            )
        for name in found if not message.points else [name for name in names if name in joints]:
            column = joints.index(name) if name in joints else -1
            values = [float(point.positions[column]) for point in message.points]
            _replace(found.setdefault(name, []), start, times, values)
    return {
        name: Knots(
            np.array([k[0] for k in knots], np.int64),
            np.array([k[1] for k in knots]),
            np.array([k[2] for k in knots], bool),
        )
        for name, knots in found.items()
    }


def _replace(knots: list[list], start: int, times: list[int], values: list[float]) -> None:
    """Let a trajectory (times [ns] and values of one joint) take over at its start."""
    before = None
    while knots and knots[-1][0] > start:
        before = knots.pop()
    if not times or times[0] > start:  # else its first point holds at once
        if knots:
            value = knots[-1][1]
            if before is not None and knots[-1][2]:
                share = (start - knots[-1][0]) / (before[0] - knots[-1][0])
                value += share * (before[1] - value)
            knots.append([start, value, bool(times)])
        elif times:
            knots.append([start, values[0], False])
    knots += [
        [time, value, place < len(times) - 1]
        for place, (time, value) in enumerate(zip(times, values, strict=True))
    ]


def _nanoseconds(duration) -> int:
    return duration.sec * 1_000_000_000 + duration.nanosec
