"""The scripted expert: how a person would pick the named cube, as a rule on the state that a policy
can see.

It answers for any cube of the scene, not only for the one that is picked: these answers are the
contrastive labels that make language the only cue (``data/dataset.py``).
"""

from __future__ import annotations

import numpy as np

from sf_training.simulation.scene import CUBE_HALF
from sf_training.simulation.sim_model import Grip

STEP_MAX = 0.03  # m in one action step: 0.3 m/s at 10 Hz
_NEAR_GAIN = 0.6  # share of the remaining way taken in one step, near the goal
_FUNNEL_SLOPE = 2.5  # approach height per sideways error
_ALIGNED = 0.008  # m: close enough to descend, and to close the gripper
_CRUISE = 0.155  # m above the table, for crossing other cubes
_APPROACH_MIN = 0.07  # m above the goal
_LIFT = 0.12  # m above the support
_CLEARANCE = 0.03  # m above a cube: from here another cube can be approached
_CLOSING_STEPS = 2
_USUAL = Grip()


def expert_chunk(
    tool: np.ndarray,
    opening: float,
    cube: np.ndarray,
    support: float,
    rows: int,
    *,
    grip: Grip = _USUAL,
) -> np.ndarray:
    """The expert's next ``rows`` actions from a measured state, rolled out kinematically.

    Args:
        tool: tool position (3,) in the base frame [m].
        opening: gripper, 0 (closed) to 1 (open).
        cube: centre of the cube to pick (3,) [m].
        support: height of what it stands on [m].
        grip: how the gripper holds a cube; default as that of the simulated arm.

    Returns:
        (rows, 4): tool displacement from ``tool`` [m] and gripper opening (0 or ``grip.wide``), as
        ``ee_delta``.
    """
    place, cube = tool.astype(float).copy(), cube.astype(float).copy()
    closed = opening < grip.gripped
    held = closed and bool(np.linalg.norm(cube - place) < 0.03)
    if closed and not held:  # closed on nothing: open before anything else
        return np.column_stack([np.zeros((rows, 3)), np.full(rows, grip.wide)])
    closing = _CLOSING_STEPS if held else 0
    actions = np.empty((rows, 4))
    for row in range(rows):
        if closing >= _CLOSING_STEPS:
            goal, close = np.array([place[0], place[1], support + CUBE_HALF + _LIFT]), True
        else:
            goal, close = _approach(place, cube, grip.depth)
            close = close or closing > 0
        way = goal - place
        distance = float(np.linalg.norm(way))
        if closing == 0 or closing >= _CLOSING_STEPS:  # stand still while the fingers close
            move = way * min(
                1.0, STEP_MAX / max(distance, 1e-9), max(_NEAR_GAIN, 0.004 / max(distance, 1e-9))
            )
            place = place + move
            if closing >= _CLOSING_STEPS:
                cube = cube + move
        if close:
            closing += 1
        actions[row] = [*(place - tool), 0.0 if close else grip.wide]
    return actions


def can_approach(
    tool: np.ndarray, opening: float, cube: np.ndarray, *, grip: Grip = _USUAL
) -> bool:
    """True when the expert could still go for this cube: gripper open and tool well above it."""
    return bool(opening >= grip.gripped and tool[2] > cube[2] + CUBE_HALF + _CLEARANCE)


def _approach(place: np.ndarray, cube: np.ndarray, depth: float) -> tuple[np.ndarray, bool]:
    """Goal of the next step on a funnel above the cube, and whether to close now."""
    bottom = cube[2] - depth
    sideways = float(np.linalg.norm(place[:2] - cube[:2]))
    height = np.clip(
        _FUNNEL_SLOPE * (sideways - _ALIGNED), 0.0, max(_APPROACH_MIN, _CRUISE - bottom)
    )
    close = sideways < _ALIGNED and abs(place[2] - bottom) < _ALIGNED
    return np.array([cube[0], cube[1], bottom + height]), close
