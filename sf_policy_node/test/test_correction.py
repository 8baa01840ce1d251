"""Tests of the limits of corrections of a drifted tool."""

import numpy as np
from motion_cases import HOME, kinematics, sim_arm

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.tool_motion import ToolMotion
from sf_policy_node.motion.arm.workspace import TOLERANCE, Workspace
from sf_policy_node.motion.safety.correction import CorrectionLimits

PERIOD = 0.02  # s
TOOL = ToolMotion(sim_arm())
X, _, Z = TOOL.pose(HOME[:6]).position.tolist()
STILL = np.zeros(6)


def limits_of(*, wall: float | None = None, floor: float | None = None) -> CorrectionLimits:
    """Return the limits beside a wall of the workspace box at x [m] and above a floor at z [m]."""
    contract: Contract = sim_arm()
    ((name, arm),) = contract.arms.items()
    if wall is not None:
        upper = [wall, *arm.workspace.upper[1:]]
        arm = arm.model_copy(
            update={"workspace": arm.workspace.model_copy(update={"upper": upper})}
        )
    boxes = contract.collision.model_dump()["boxes"]
    if floor is not None:
        boxes += [{"name": "floor", "lower": [-1.0, -1.0, floor - 0.1], "upper": [1.0, 1.0, floor]}]
    section = type(contract.collision)(**contract.collision.model_dump() | {"boxes": boxes})
    contract = contract.model_copy(update={"arms": {name: arm}, "collision": section})
    return CorrectionLimits(contract, Workspace.of(contract, kinematics()))


def twist(x=0.0, z=0.0):
    return np.array([x, 0.0, z, 0.0, 0.0, 0.0])


def test_a_correction_of_a_tool_outside_its_box_does_not_lead_into_a_collision():
    """Before, the box was the only reason, and the correction did not leave it further."""
    limits = limits_of(wall=X - 0.01, floor=Z - 0.008)
    outward = TOOL.joint_velocities(HOME[:6], twist(x=0.05))
    down = limits.limit(HOME, outward, twist(x=-0.01, z=-0.1))
    assert down[2] > -0.1 and "floor" in limits.reason


def test_a_correction_away_from_an_obstacle_is_not_limited_while_the_motion_nears_it():
    limits = limits_of(floor=Z - 0.0055)
    down = TOOL.joint_velocities(HOME[:6], twist(z=-0.05))
    up = twist(z=0.005)
    np.testing.assert_array_equal(limits.limit(HOME, down, up), up)
    assert not limits.reason


def test_a_correction_stops_gradually_before_a_wall():
    """Before, it dropped to half and to a quarter in one period each."""
    limits, wanted, joints = limits_of(wall=X + 0.004), twist(x=0.06), HOME.copy()
    before, speeds = limits.limit(joints, STILL, 0.1 * wanted), []
    for share in np.linspace(0.1, 1.0, 10).tolist() + [1.0] * 20:
        speeds.append(limits.limit(joints, STILL, share * wanted)[0])
        joints[:6] += PERIOD * TOOL.joint_velocities(joints[:6], twist(x=speeds[-1]))
    steps = np.diff([before[0], *speeds])
    assert steps.min() >= -0.2 * 0.06 - 1e-9 and steps.max() <= 0.2 * 0.06 + 1e-9
    assert TOOL.pose(joints[:6]).position[0] <= X + 0.004 + TOLERANCE
    assert min(speeds) < 0.01 < max(speeds)


def test_a_correction_that_breaks_a_limit_in_the_next_period_ends_at_once():
    limits, wanted = limits_of(wall=X), twist(x=0.1)
    closer = HOME.copy()
    closer[:6] += TOOL.joint_velocities(HOME[:6], twist(x=-0.05))
    np.testing.assert_array_equal(limits.limit(closer, STILL, wanted), wanted)
    assert not limits.limit(HOME, STILL, wanted)[0] > 0.01 + 1e-9
