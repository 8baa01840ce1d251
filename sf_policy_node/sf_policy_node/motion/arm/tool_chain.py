"""Computes tool positions and velocities for all samples of a motion at once.

A compiled loop takes as long for a complete motion as pinocchio for a few samples. The chain is
read from pinocchio's model.
"""

from __future__ import annotations

import numba
import numpy as np
import pinocchio


class ToolChain:
    """The joints from base to tool of a reduced pinocchio model.

    Args:
        tool: index of the tool's frame.
        base: pose of the base frame in the model's root.
        columns: (J,) index into pinocchio's positions for each arm joint.

    Attributes:
        chain: for compiled functions, along the chain from the root: rotation (C, 3, 3) and offset
            (C, 3) of each of its joints, axis (C, 3), whether it slides (C,), index (C,) among the
            J arm joints; then rotation (3, 3) and offset (3,) of the tool behind the last joint.

    Raises:
        ValueError: a joint has not exactly one coordinate.
    """

    def __init__(
        self, model: pinocchio.Model, tool: int, base: pinocchio.SE3, columns: np.ndarray
    ) -> None:
        frame = model.frames[tool]
        joints = [index for index in model.supports[frame.parentJoint] if index != 0]
        rotations = np.array([model.jointPlacements[j].rotation for j in joints]).reshape(-1, 3, 3)
        offsets = np.array([model.jointPlacements[j].translation for j in joints]).reshape(-1, 3)
        motions = np.array([_axis(model.joints[j]) for j in joints]).reshape(-1, 6)
        slides = np.abs(motions[:, :3]).sum(axis=1) > 0.0
        columns_of = {int(index): n for n, index in enumerate(columns)}
        self.chain = (
            rotations,
            offsets,
            np.where(slides[:, None], motions[:, :3], motions[:, 3:]),
            slides,
            np.array([columns_of[model.joints[j].idx_q] for j in joints], dtype=np.int64),
            np.ascontiguousarray(frame.placement.rotation),
            frame.placement.translation.copy(),
        )
        to_base = base.inverse()
        self._base = (np.ascontiguousarray(to_base.rotation), to_base.translation.copy())

    def move(
        self, positions: np.ndarray, velocities: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return tool positions (N, 3) [m] and velocities (N, 3) [m/s] in the base frame.

        Args:
            positions: (N, J) of the arm joints [rad or m].
            velocities: (N, J); None: 0.
        """
        q = np.ascontiguousarray(positions, dtype=float)
        dq = (
            np.zeros_like(q)
            if velocities is None
            else np.ascontiguousarray(velocities, dtype=float)
        )
        rotations, offsets, axes, slides, order, _, tool = self.chain
        origins, speeds = _move(q, dq, rotations, offsets, axes, slides, order, tool)
        rotation, offset = self._base
        return origins @ rotation.T + offset, speeds @ rotation.T


def _axis(joint: pinocchio.JointModel) -> np.ndarray:
    """Return linear, then angular motion (6,) per unit of a joint."""
    if joint.nq != 1 or joint.nv != 1:
        raise ValueError(f"{joint.shortname()} has {joint.nq} coordinates")
    data = joint.createData()
    joint.calc(data, np.zeros(joint.idx_q + 1), np.zeros(joint.idx_v + 1))
    return np.asarray(data.S, dtype=float).reshape(6)


# The helpers write into existing arrays: allocating small arrays would take most of the time.


@numba.njit("void(f8[:, ::1], f8[::1], f8[::1])", cache=True, inline="always")
def _turn(rotation, vector, out):  # pragma: no cover - compiled
    """Compute out = rotation @ vector."""
    for i in range(3):
        out[i] = (
            rotation[i, 0] * vector[0] + rotation[i, 1] * vector[1] + rotation[i, 2] * vector[2]
        )


@numba.njit("void(f8[:, ::1], f8[:, ::1], f8[:, ::1])", cache=True, inline="always")
def multiply_in_place(first, second, work):  # pragma: no cover - compiled
    """Compute first = first @ second, in place; ``work`` (3, 3) is overwritten."""
    for i in range(3):
        for j in range(3):
            work[i, j] = (
                first[i, 0] * second[0, j] + first[i, 1] * second[1, j] + first[i, 2] * second[2, j]
            )
    first[:] = work


@numba.njit("void(f8[::1], f8[::1], f8[::1])", cache=True, inline="always")
def _add_cross(a, b, out):  # pragma: no cover - compiled
    """Compute out += a x b."""
    out[0] += a[1] * b[2] - a[2] * b[1]
    out[1] += a[2] * b[0] - a[0] * b[2]
    out[2] += a[0] * b[1] - a[1] * b[0]


@numba.njit("void(f8[::1], f8, f8[:, ::1])", cache=True, inline="always")
def rotate_about(axis, angle, out):  # pragma: no cover - compiled
    """Write the rotation matrix (3, 3) about a unit axis (3,) (Rodrigues' formula)."""
    s, c = np.sin(angle), np.cos(angle)
    x, y, z, t = axis[0], axis[1], axis[2], 1.0 - c
    out[0, 0], out[0, 1], out[0, 2] = c + x * x * t, x * y * t - z * s, x * z * t + y * s
    out[1, 0], out[1, 1], out[1, 2] = y * x * t + z * s, c + y * y * t, y * z * t - x * s
    out[2, 0], out[2, 1], out[2, 2] = z * x * t - y * s, z * y * t + x * s, c + z * z * t


@numba.njit(
    "Tuple((f8[:, ::1], f8[:, ::1]))(f8[:, ::1], f8[:, ::1], f8[:, :, ::1], f8[:, ::1], f8[:, ::1],"
    " b1[::1], i8[::1], f8[::1])",
    cache=True,
)
def _move(
    positions, velocities, rotations, offsets, axes, slides, order, tool
):  # pragma: no cover - compiled
    """Compute tool positions and velocities (N, 3) in the root for joints and velocities (N, J).

    Goes along the chain with the frame of each joint: position ``origin`` [m], rotation ``turn``,
    velocity ``linear`` [m/s] and ``angular`` [rad/s], all in the root. Joint j has the value q, the
    axis ``along``, and the vector ``step`` [m] from the frame before it. Then for each joint

        turning: linear += angular x step, origin += step, angular += along * dq
        sliding: step += along * q, linear += along * dq, then the first two of turning

    (outward recursion of link velocities, in any textbook on manipulators).
    """
    count = positions.shape[0]
    origins, speeds = np.zeros((count, 3)), np.zeros((count, 3))
    turn, about, work = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    angular, step, along = np.empty(3), np.empty(3), np.empty(3)
    for n in range(count):
        origin, linear = origins[n], speeds[n]
        turn[:] = 0.0
        turn[0, 0] = turn[1, 1] = turn[2, 2] = 1.0
        angular[:] = 0.0
        for j in range(len(order)):
            q, dq = positions[n, order[j]], velocities[n, order[j]]
            _turn(turn, offsets[j], step)
            multiply_in_place(turn, rotations[j], work)
            _turn(turn, axes[j], along)
            if slides[j]:
                for i in range(3):
                    step[i] += along[i] * q
                    linear[i] += along[i] * dq
            _add_cross(angular, step, linear)
            for i in range(3):
                origin[i] += step[i]
            if not slides[j]:
                for i in range(3):
                    angular[i] += along[i] * dq
                rotate_about(axes[j], q, about)
                multiply_in_place(turn, about, work)
        _turn(turn, tool, step)
        for i in range(3):
            origin[i] += step[i]
        _add_cross(angular, step, linear)
    return origins, speeds
