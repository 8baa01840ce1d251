"""Models ``positions_upsampling`` of ``joint_trajectory_controller``: adds velocities to a message.

Source: ``preprocess_incoming_trajectory`` and ``fill_cubic_spline_velocities`` of master 94e74de35
(after 6.9.0).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from sf_policy_node.controller.sampling import TrajectoryLike


def upsampled(trajectory: TrajectoryLike, policy_frequency: float) -> TrajectoryLike:
    """Return a trajectory that has only positions with velocities, stationary at both ends.

    One that has velocities or accelerations is returned unchanged. The velocities are None if there
    is only one point or the times do not rise.

    Args:
        trajectory: times (N,) and positions (N, J).
        policy_frequency: points per second for a message whose times are all zero; 0: keep them.
    """
    if trajectory.velocities is not None or getattr(trajectory, "accelerations", None) is not None:
        return trajectory
    times = np.asarray(trajectory.times, dtype=float)
    if policy_frequency > 0.0 and not times.any():
        times = np.arange(1, len(times) + 1) / policy_frequency
    velocities = None
    if len(times) > 1 and (np.diff(times) > 0).all():
        velocities = _spline_velocities(times, np.asarray(trajectory.positions, dtype=float))
    return SimpleNamespace(
        stamp=trajectory.stamp,
        joint_names=trajectory.joint_names,
        times=times,
        positions=trajectory.positions,
        velocities=velocities,
    )


def _spline_velocities(times: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the velocities (N, J) of a cubic spline with continuous accelerations; 0 at both ends.

    Row i of the system sets the accelerations before and after point i equal:
    ``v[i-1] / h0 + 2 (1 / h0 + 1 / h1) v[i] + v[i+1] / h1 = 3 (d1 / h1^2 + d0 / h0^2)`` with the
    velocities ``v`` (J,), and the durations ``h`` [s] and distances ``d`` (J,) of the segments
    before (0) and after (1) the point.
    """
    count = len(times)
    inverse = 1.0 / np.diff(times)
    slopes = np.diff(positions, axis=0) * inverse[:, None] ** 2
    matrix, right_side = np.eye(count), np.zeros_like(positions)
    for row in range(1, count - 1):
        before, after = inverse[row - 1], inverse[row]
        matrix[row, row - 1 : row + 2] = before, 2.0 * (before + after), after
        right_side[row] = 3.0 * (slopes[row] + slopes[row - 1])
    return np.linalg.solve(matrix, right_side)
