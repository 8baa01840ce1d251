"""Convert recorded trajectories to positions over time. Each is followed until its last point or
until the next one replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sf_training.data.synchronisation import Knots


def trajectory_knots(
    stamps: np.ndarray, trajectories: Sequence, names: Sequence[str], begin: int = 0
) -> dict[str, Knots]:
    """Return the positions that trajectories command, by joint.

    A trajectory starts at its stamp, from the position that the previous one has at that time; the
    first one starts at its first point. Positions are interpolated linearly between points. An
    empty trajectory stops the motion, as in joint_trajectory_controller.

    Args:
        stamps: (N,) sorted [ns].
        trajectories: N messages ``trajectory_msgs/JointTrajectory``.
        names: wanted joints.
        begin: first image of the recording [ns], for messages.

    Raises:
        ValueError: a trajectory names a joint twice, or its points are out of order, before its
            start, or hold too few positions.
    """
    found: dict[str, list[list]] = {}
    for start, message in zip(stamps.tolist(), trajectories, strict=True):
        at = f"{(start - begin) * 1e-9:.2f} s"
        times = [start + _nanoseconds(point.time_from_start) for point in message.points]
        if times and times[0] < start:
            raise ValueError(
                f"time_from_start of a trajectory point is {(times[0] - start) * 1e-9:g} s, in the"
                f" trajectory of {at}; correct its publisher"
            )
        if any(after < before for after, before in zip(times[1:], times, strict=False)):
            raise ValueError(
                f"the points of the trajectory of {at} are not in the order of time_from_start;"
                " correct its publisher"
            )
        joints = list(message.joint_names)
        twice = next((name for name in joints if joints.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"the trajectory of {at} names joint {twice} twice; correct its publisher"
            )
        if any(len(point.positions) != len(joints) for point in message.points):
            raise ValueError(
                f"a point of the trajectory of {at} does not hold {len(joints)} positions; correct"
                " its publisher"
            )
        for name in found if not message.points else [name for name in names if name in joints]:
            column = joints.index(name) if name in joints else -1
            values = [float(point.positions[column]) for point in message.points]
            _replace(found.setdefault(name, []), start, times, values)
    return {
        name: Knots(
            np.array([knot[0] for knot in knots], np.int64),
            np.array([knot[1] for knot in knots]),
            np.array([knot[2] for knot in knots], bool),
        )
        for name, knots in found.items()
    }


def _replace(knots: list[list], start: int, times: list[int], values: list[float]) -> None:
    """Replace the knots of one joint after ``start`` by a trajectory.

    Args:
        knots: [time [ns], value, ramp] as in :class:`Knots`; is changed.
        start: of the trajectory [ns].
        times, values: of its points; empty stops the motion.
    """
    replaced = None
    while knots and knots[-1][0] > start:
        replaced = knots.pop()
    if not times or times[0] > start:  # a first point at the start needs no position before it
        if knots:
            value = knots[-1][1]
            if replaced is not None and knots[-1][2]:
                share = (start - knots[-1][0]) / (replaced[0] - knots[-1][0])
                value += share * (replaced[1] - value)
            knots.append([start, value, bool(times)])
        elif times:
            knots.append([start, values[0], False])
    knots += [
        [time, value, index < len(times) - 1]
        for index, (time, value) in enumerate(zip(times, values, strict=True))
    ]


def _nanoseconds(duration: Any) -> int:
    return duration.sec * 1_000_000_000 + duration.nanosec
