"""Measure how a simulated gripper holds a cube, from the shapes of its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_training.simulation.scene import CUBE_HALF
from sf_training.simulation.sim_model import Grip, Servos, set_joints

_ROOM = 0.016  # m between a finger and the cube during the approach
_CLOSING_S = 0.02  # s of closing before the contact from which a gripper counts as closed
_BEFORE = (0.01, 0.09)  # bounds of that, as change of the opening
_TOUCH = 0.0005  # m: distance that counts as contact
_SAMPLES = 81  # openings that are tried
_NEARLY = 0.9  # above this opening, the gripper approaches fully open
_FROM_JAW = 0.002  # m from the cube to a jaw that does not move
_ASIDE = 0.006  # m further from such a jaw during the approach: closing pushes the cube to it
_ABOVE_SUPPORT = 0.003  # m from the fingers to the support when they hold


def measure_grip(
    model: Any,
    data: Any,
    servos: Servos,
    home: np.ndarray,
    contract: Contract,
    arm: str,
    hand: Sequence[int],
    fingers: Sequence[int],
) -> Grip:
    """Return how the gripper of an arm holds a cube at its tool.

    The gripper is closed in steps from open until a finger touches the cube. A binary gripper, and
    one that never touches the cube, approaches fully open.

    Args:
        home: all commanded joints (J,), with the tool of ``arm`` free of contacts.
        hand: geoms of the hand.
        fingers: those of them that move with the gripper.
    """
    import mujoco

    gripper = contract.arms[arm].gripper
    if gripper is None or not fingers:
        return Grip()
    columns = contract.columns.commands.indices(ColumnKind.GRIPPER, arm=arm)
    joints, cube, aside = home.copy(), model.geom("cube0").id, np.zeros(3)
    start, offset, touch, wide = model.joint("cube0").qposadr[0], np.zeros(3), None, 1.0

    def distance(geoms: Sequence[int], opening: float, offset: np.ndarray) -> float:
        joints[columns] = gripper.to_joints(opening)
        set_joints(model, data, servos, joints)
        mujoco.mj_forward(model, data)
        tool = data.site(f"tool/{arm}")
        centre = tool.xpos + tool.xmat.reshape(3, 3) @ offset
        data.qpos[start : start + 7] = [*centre, 1.0, 0.0, 0.0, 0.0]
        mujoco.mj_forward(model, data)
        return min(mujoco.mj_geomDistance(model, data, geom, cube, 1.0, None) for geom in geoms)

    fixed = [geom for geom in hand if geom not in fingers]
    if fixed and distance(fixed, 1.0, offset) < _FROM_JAW:
        # Find the smallest shift of the cube that clears the fixed jaw.
        axes = [sign * axis for axis in np.eye(3) for sign in (1.0, -1.0)]
        shifts = [length * axis for length in np.arange(0.002, 0.03, 0.002) for axis in axes]
        free = (each for each in shifts if distance(fixed, 1.0, each) >= _FROM_JAW)
        offset = next(free, offset)
        aside = _ASIDE * offset / max(float(np.linalg.norm(offset)), 1e-9)
    for opening in np.linspace(1.0, 0.0, _SAMPLES):
        room = distance(fingers, float(opening), offset)
        if room >= _ROOM:
            wide = float(opening)
        if room <= _TOUCH:
            touch = float(opening)
            break
    if touch is None:
        return Grip()
    below = float(data.site(f"tool/{arm}").xpos[2]) - min(
        _lowest(model, data, finger) for finger in hand
    )
    depth = min(Grip.depth, CUBE_HALF - _ABOVE_SUPPORT - below)
    closing = gripper.velocity * _CLOSING_S / abs(gripper.open - gripper.closed)
    held = touch + float(np.clip(closing, *_BEFORE))
    x, y, z = (offset + aside).tolist()
    if gripper.binary or wide > _NEARLY:
        return Grip(held, 1.0, depth, (x, y, z))
    return Grip(held, max(wide, held + 0.1), depth, (x, y, z))


def _lowest(model: Any, data: Any, geom: int) -> float:
    """Return the height of the lowest corner of a geom's bounding box [m]."""
    centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
    signs = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, -1).T
    corners = (centre + signs * half) @ data.geom_xmat[geom].reshape(3, 3).T
    return float(data.geom_xpos[geom][2] + corners[:, 2].min())
