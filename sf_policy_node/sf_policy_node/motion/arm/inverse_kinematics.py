"""Moves a tool to poses by damped least squares, compiled: all steps of a chunk in one call.

One pose of a chunk takes 3 to 5 iterations. Called one by one from Python, they took a third of the
executor's time for a chunk.

Legend, for a chain of A joints: J (6, A) the Jacobian, v = J dq the velocity of the tool in its own
frame, linear [m/s], then angular [rad/s]; e (6,) the error of the pose in the tool's frame, the
logarithm in SE(3), linear [m], then angular [rad]; d the damping; dq = J^T (J J^T + d I)^-1 e the
step of the joints.

Sources: Buss, "Introduction to Inverse Kinematics with Jacobian Transpose, Pseudoinverse and Damped
Least Squares Methods", 2004, there also the null space; Lynch and Park, "Modern Robotics", 2017,
3.3.3, for the logarithm.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from sf_policy_node.motion.arm.tool_chain import multiply_in_place, rotate_about

_MAX_STEP = 0.2  # rad or m in one iteration: keeps the solution on the branch of the seed
_MAX_ITERATIONS = 60
_POSTURE_GAIN = 0.2  # share of the distance to the rest posture that each solution moves ...
_POSTURE_MOST = 0.02  # ... and the largest such motion of a joint [rad or m]
_CLOSE = 5e-5  # m, and ten times as many rad: errors below this end the iteration
REACHED = (1e-3, 1e-2)  # m, rad: a target with a larger error is not reached
_NEAR_PI = math.pi - 1e-2  # rad; from here on the axis is read from the diagonal of the rotation

_CHAIN = "Tuple((f8[:, :, ::1], f8[:, ::1], f8[:, ::1], b1[::1], i8[::1], f8[:, ::1], f8[::1]))"

# Helpers write into existing arrays: allocating small arrays would take most of the time. Without a
# signature a function is compiled with the one that calls it, when this module is imported.


@numba.njit(cache=True)
def _place_tool(chain, q, rotation, position, axes, origins):  # pragma: no cover - compiled
    """Write the pose of the tool, and the axis and origin (A, 3) of each joint, in the root.

    Args:
        chain: see :class:`~sf_policy_node.motion.arm.tool_chain.ToolChain`.
        q: (A,) joints of the arm, in the order of the contract.
    """
    rotations, offsets, directions, slides, order, tool_rotation, tool_offset = chain
    turn, work = np.empty((3, 3)), np.empty((3, 3))
    rotation[:] = 0.0
    rotation[0, 0] = rotation[1, 1] = rotation[2, 2] = 1.0
    position[:] = 0.0
    for j in range(len(order)):
        angle = q[order[j]]
        for i in range(3):
            for k in range(3):
                position[i] += rotation[i, k] * offsets[j, k]
        multiply_in_place(rotation, rotations[j], work)
        for i in range(3):
            along = 0.0
            for k in range(3):
                along += rotation[i, k] * directions[j, k]
            axes[j, i] = along
            if slides[j]:
                position[i] += along * angle
            origins[j, i] = position[i]
        if not slides[j]:
            rotate_about(directions[j], angle, turn)
            multiply_in_place(rotation, turn, work)
    for i in range(3):
        for k in range(3):
            position[i] += rotation[i, k] * tool_offset[k]
    multiply_in_place(rotation, tool_rotation, work)


@numba.njit(cache=True)
def _fill_jacobian(
    chain, rotation, position, axes, origins, jacobian
):  # pragma: no cover - compiled
    """Write J (6, A) from what ``_place_tool`` wrote."""
    slides, order = chain[3], chain[4]
    jacobian[:] = 0.0
    for j in range(len(order)):
        a, r0 = axes[j], position[0] - origins[j, 0]
        r1, r2 = position[1] - origins[j, 1], position[2] - origins[j, 2]
        sweep0, sweep1, sweep2 = a[1] * r2 - a[2] * r1, a[2] * r0 - a[0] * r2, a[0] * r1 - a[1] * r0
        for i in range(3):
            along = rotation[0, i] * a[0] + rotation[1, i] * a[1] + rotation[2, i] * a[2]
            if slides[j]:
                jacobian[i, order[j]] = along
            else:
                jacobian[i, order[j]] = (
                    rotation[0, i] * sweep0 + rotation[1, i] * sweep1 + rotation[2, i] * sweep2
                )
                jacobian[3 + i, order[j]] = along


@numba.njit(cache=True)
def _fill_error(
    rotation, position, goal_rotation, goal_position, error
):  # pragma: no cover - compiled
    """Write e (6,) from a pose to a goal, both in the root."""
    turn, way = np.zeros((3, 3)), np.zeros(3)
    for i in range(3):
        for k in range(3):
            way[i] += rotation[k, i] * (goal_position[k] - position[k])
        for j in range(3):
            for k in range(3):
                turn[i, j] += rotation[k, i] * goal_rotation[k, j]
    cosine = 0.5 * (turn[0, 0] + turn[1, 1] + turn[2, 2] - 1.0)
    cosine = min(1.0, max(-1.0, cosine))
    angle = math.acos(cosine)
    w = error[3:]
    w[0], w[1], w[2] = turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]
    if angle < _NEAR_PI:
        half = 0.5 * (angle / math.sin(angle) if angle > 1e-6 else 1.0)
        for i in range(3):
            w[i] *= half
    else:
        for i in range(3):
            share = max(0.0, (turn[i, i] - cosine) / (1.0 - cosine))
            w[i] = math.copysign(angle * math.sqrt(share), w[i])
    square = w[0] * w[0] + w[1] * w[1] + w[2] * w[2]
    angle = math.sqrt(square)
    if angle > 1e-4:
        bend = (1.0 - 0.5 * angle * math.sin(angle) / (1.0 - math.cos(angle))) / square
    else:
        bend = 1.0 / 12.0
    c0, c1, c2 = (
        w[1] * way[2] - w[2] * way[1],
        w[2] * way[0] - w[0] * way[2],
        w[0] * way[1] - w[1] * way[0],
    )
    error[0] = way[0] - 0.5 * c0 + bend * (w[1] * c2 - w[2] * c1)
    error[1] = way[1] - 0.5 * c1 + bend * (w[2] * c0 - w[0] * c2)
    error[2] = way[2] - 0.5 * c2 + bend * (w[0] * c1 - w[1] * c0)


@numba.njit(cache=True)
def _damped_least_squares(jacobian, error, damping):  # pragma: no cover - compiled
    """Compute dq (A,). By Cholesky decomposition: J J^T + d I is positive definite."""
    size, joints = jacobian.shape
    lower = np.zeros((size, size))
    x = error.copy()
    for i in range(size):
        for j in range(i + 1):
            total = damping if i == j else 0.0
            for k in range(joints):
                total += jacobian[i, k] * jacobian[j, k]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            lower[i, j] = math.sqrt(total) if i == j else total / lower[j, j]
        for k in range(i):
            x[i] -= lower[i, k] * x[k]
        x[i] /= lower[i, i]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, size):
            x[i] -= lower[k, i] * x[k]
        x[i] /= lower[i, i]
    step = np.zeros(joints)
    for i in range(size):
        for k in range(joints):
            step[k] += jacobian[i, k] * x[i]
    return step


@numba.njit(cache=True)
def _solve(
    chain, goal_rotation, goal_position, lower, upper, rest, q
):  # pragma: no cover - compiled
    """Move ``q`` (A,), inside the limits, so that the tool is at a goal in the root.

    Args:
        rest: (A,) posture towards which the first step of an arm with a null space moves; empty:
            none.

    Returns:
        The remaining error [m], [rad].
    """
    joints = len(q)
    rotation, position, error = np.empty((3, 3)), np.empty(3), np.empty(6)
    axes, origins = np.empty((len(chain[4]), 3)), np.empty((len(chain[4]), 3))
    jacobian, posture = np.empty((6, joints)), np.empty(joints)
    distance, angle = 0.0, 0.0
    nearest, found = (math.inf, math.inf), q.copy()  # of all iterations
    for iteration in range(_MAX_ITERATIONS + 1):
        _place_tool(chain, q, rotation, position, axes, origins)
        _fill_error(rotation, position, goal_rotation, goal_position, error)
        distance = math.sqrt(error[0] ** 2 + error[1] ** 2 + error[2] ** 2)
        angle = math.sqrt(error[3] ** 2 + error[4] ** 2 + error[5] ** 2)
        if distance < _CLOSE and angle < 10.0 * _CLOSE:
            return distance, angle
        if distance + 0.1 * angle < nearest[0] + 0.1 * nearest[1]:
            nearest = distance, angle
            found[:] = q
        if iteration == _MAX_ITERATIONS:
            break
        _fill_jacobian(chain, rotation, position, axes, origins, jacobian)
        # Damping decreases with the error: stable near singularities, fast at the end.
        damping = 1e-6 + 1e-2 * (distance * distance + angle * angle)
        if iteration == 0 and len(rest):
            furthest = 1e-12
            for k in range(joints):
                posture[k] = _POSTURE_GAIN * (rest[k] - q[k])
                furthest = max(furthest, abs(posture[k]))
            share = min(1.0, _POSTURE_MOST / furthest)
            for k in range(joints):
                posture[k] *= share
            for i in range(6):
                for k in range(joints):
                    error[i] -= jacobian[i, k] * posture[k]
            step = _damped_least_squares(jacobian, error, damping)
            for k in range(joints):
                step[k] += posture[k]
        else:
            step = _damped_least_squares(jacobian, error, damping)
        furthest = 0.0
        for k in range(joints):
            furthest = max(furthest, abs(step[k]))
        share = _MAX_STEP / furthest if furthest > _MAX_STEP else 1.0
        for k in range(joints):
            q[k] = min(max(q[k] + share * step[k], lower[k]), upper[k])
    # Beside a target that is out of reach the stretched arm swings to and fro.
    q[:] = found
    return nearest


@numba.njit(
    f"Tuple((f8[:, ::1], f8[:, ::1], i8))({_CHAIN}, f8[:, :, ::1], f8[:, ::1], f8[::1], f8[::1],"
    " f8[::1], f8[::1])",
    cache=True,
)
def follow(
    chain, goal_rotations, goal_positions, lower, upper, rest, seed
):  # pragma: no cover - compiled
    """Compute joints (N, A) that move the tool to N goals in the root, one after the other.

    The first is sought from ``seed`` (A,), the second from the first solution, and each other one
    from the two before it, extrapolated: the tool moves about as far in each step of a chunk.

    Args:
        rest: see ``_solve``.

    Returns:
        The joints, the errors (N, 2) [m], [rad], and how many goals were tried: all up to the first
        that is not reached.
    """
    count, joints = len(goal_positions), len(seed)
    solutions, errors = np.empty((count, joints)), np.empty((count, 2))
    q = np.minimum(np.maximum(seed, lower), upper)
    for n in range(count):
        if n > 1:
            for k in range(joints):
                guess = 2.0 * solutions[n - 1, k] - solutions[n - 2, k]
                q[k] = min(max(guess, lower[k]), upper[k])
        distance, angle = _solve(chain, goal_rotations[n], goal_positions[n], lower, upper, rest, q)
        solutions[n] = q
        errors[n, 0], errors[n, 1] = distance, angle
        if not (distance < REACHED[0] and angle < REACHED[1]):
            return solutions, errors, n + 1
    return solutions, errors, count


@numba.njit(f"f8[:, :, ::1]({_CHAIN}, f8[:, ::1])", cache=True)
def jacobians(chain, positions):  # pragma: no cover - compiled
    """Compute J (N, 6, A) at joints (N, A)."""
    count, joints = positions.shape
    found = np.empty((count, 6, joints))
    rotation, position = np.empty((3, 3)), np.empty(3)
    axes, origins = np.empty((len(chain[4]), 3)), np.empty((len(chain[4]), 3))
    for n in range(count):
        _place_tool(chain, positions[n], rotation, position, axes, origins)
        _fill_jacobian(chain, rotation, position, axes, origins, found[n])
    return found
