"""Compute the chunks of the scripted expert, which picks a cube with rules on the current state.

It gives a chunk for any cube of the scene, not only for the target. The chunks for other cubes are
contrastive labels: at one observation only the instruction differs (``data/targets.py``).
"""

from __future__ import annotations

import numpy as np

from sf_training.simulation.scene import CUBE_HALF
from sf_training.simulation.sim_model import Grip

STEP_MAX = 0.03  # m per action step: 0.3 m/s at 10 Hz
_NEAR_GAIN = 0.6  # share of the remaining distance covered in one step, near the goal
_FUNNEL_SLOPE = 2.5  # height above the goal per horizontal error
_ALIGNED = 0.008  # m: error at which the tool descends, and the gripper closes
_CRUISE = 0.155  # m above the table, to cross other cubes
_APPROACH_MIN = 0.07  # m above the goal
_LIFT = 0.12  # m above the support
_CLEARANCE = 0.03  # m above a cube from which another cube can be approached
_CLOSING_STEPS = 2  # action steps in which the gripper closes
_USUAL = Grip()


def expert_chunk(
    tool: np.ndarray,
    opening: float,
    cube: np.ndarray,
    support: float,
    steps: int,
    *,
    grip: Grip = _USUAL,
) -> np.ndarray:
    """Return the next actions of the expert from a measured state, by a kinematic rollout.

    Each step moves the position p towards a goal g by d = g - p, shortened to at most
    :data:`STEP_MAX` and, near the goal, to 0.6 d (but at least 4 mm). The goal is above the cube on
    a funnel (:func:`_approach`) until the gripper closes, then :data:`_LIFT` above the support.

    Args:
        tool: tool position (3,) in the base frame [m].
        opening: of the gripper, 0 (closed) to 1 (open).
        cube: centre (3,) of the cube to pick in the base frame [m].
        support: height of the surface below the cube [m].
        steps: length of the chunk.
        grip: how the gripper holds a cube; default that of ``sim_arm``.

    Returns:
        (steps, 4): tool displacement from ``tool`` [m] and gripper opening (0 or ``grip.wide``), as
        action space ``ee_delta``.
    """
    position, cube = tool.astype(float).copy(), cube.astype(float).copy()
    closed = opening < grip.gripped
    held = closed and bool(np.linalg.norm(cube - position) < 0.03)
    if closed and not held:  # closed without a cube: open first
        return np.column_stack([np.zeros((steps, 3)), np.full(steps, grip.wide)])
    closing = _CLOSING_STEPS if held else 0
    actions = np.empty((steps, 4))
    for step in range(steps):
        if closing >= _CLOSING_STEPS:
            goal, close = np.array([*position[:2], support + CUBE_HALF + _LIFT]), True
        else:
            goal, close = _approach(position, cube, grip.depth)
            close = close or closing > 0
        remaining = goal - position
        distance = float(np.linalg.norm(remaining))
        if closing == 0 or closing >= _CLOSING_STEPS:  # hold position while the fingers close
            move = remaining * min(
                1.0, STEP_MAX / max(distance, 1e-9), max(_NEAR_GAIN, 0.004 / max(distance, 1e-9))
            )
            position = position + move
            if closing >= _CLOSING_STEPS:
                cube = cube + move
        if close:
            closing += 1
        actions[step] = [*(position - tool), 0.0 if close else grip.wide]
    return actions


def can_approach(
    tool: np.ndarray, opening: float, cube: np.ndarray, *, grip: Grip = _USUAL
) -> bool:
    """Return whether the expert could still approach a cube: gripper open, tool well above it."""
    return bool(opening >= grip.gripped and tool[2] > cube[2] + CUBE_HALF + _CLEARANCE)


def _approach(position: np.ndarray, cube: np.ndarray, depth: float) -> tuple[np.ndarray, bool]:
    """Return the goal (3,) [m] on a funnel above the cube, and whether to close the gripper now.

    With horizontal error e and grip height z: the goal is above the cube at
    z + clip(2.5 (e - 8 mm), 0, max(70 mm, 155 mm - z)).
    """
    bottom = cube[2] - depth
    error = float(np.linalg.norm(position[:2] - cube[:2]))
    height = np.clip(_FUNNEL_SLOPE * (error - _ALIGNED), 0.0, max(_APPROACH_MIN, _CRUISE - bottom))
    close = error < _ALIGNED and abs(position[2] - bottom) < _ALIGNED
    return np.array([cube[0], cube[1], bottom + height]), close
