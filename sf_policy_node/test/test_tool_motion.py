"""The tool's pose and twist against finite differences, with the base frame where URDFs put it and turned."""

from functools import cache

import numpy as np
import pinocchio
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import CONTRACT_PATH, kinematics, sim_arm

from sf_policy_node.contract import parse_contract
from sf_policy_node.motion.tool_motion import ToolMotion

STEP = 1e-5  # s
BASES = ("base_link", "cell")
LOWER, UPPER = (np.array([getattr(joint, limit) for joint in sim_arm().joints]) for limit in ("lower", "upper"))
inside = st.lists(st.floats(0.02, 0.98), min_size=6, max_size=6).map(lambda share: LOWER + np.array(share) * (UPPER - LOWER))
speeds = st.lists(st.floats(-2.0, 2.0), min_size=6, max_size=6).map(np.array)


@cache
def tool_motion(base: str) -> ToolMotion:
    """The simulated arm; its base frame is the arm's own, or a cell that is turned and shifted against it."""
    data = yaml.safe_load(CONTRACT_PATH.read_text()) | {"base_frame": base}
    cell = (
        '<link name="cell"/><joint name="cell_joint" type="fixed"><parent link="base_link"/><child link="cell"/>'
        '<origin xyz="0.4 -0.2 0.1" rpy="0.3 -0.8 1.9"/></joint></robot>'
    )
    return ToolMotion(parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml.replace("</robot>", cell)))


def rotation(quaternion):
    """Matrix (3, 3) of x y z w, written out."""
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@pytest.mark.parametrize("base", BASES)
@settings(deadline=None, max_examples=100)
@given(positions=inside, velocities=speeds)
def test_the_twist_is_the_derivative_of_the_pose(base, positions, velocities):
    motion = tool_motion(base)
    before, after = (motion.pose(positions + side * STEP * velocities) for side in (-0.5, 0.5))
    linear = (after.position - before.position) / STEP
    angular = pinocchio.log3(rotation(after.quaternion) @ rotation(before.quaternion).T) / STEP
    np.testing.assert_allclose(motion.twist(positions, velocities), [*linear, *angular], atol=1e-6)


def test_pose_and_twist_are_given_in_the_base_frame_of_the_contract():
    positions, velocities = np.array([0.3, 0.5, 1.2, 0.9, -0.2, 0.4]), np.array([0.5, -0.3, 0.2, 0.1, 0.7, -0.4])
    axes, origin = pinocchio.rpy.rpyToMatrix(0.3, -0.8, 1.9), np.array([0.4, -0.2, 0.1])
    arm, cell = (tool_motion(base).pose(positions) for base in BASES)
    np.testing.assert_allclose(axes @ cell.position + origin, arm.position, atol=1e-12)
    np.testing.assert_allclose(axes @ rotation(cell.quaternion), rotation(arm.quaternion), atol=1e-12)
    arm, cell = (tool_motion(base).twist(positions, velocities) for base in BASES)
    np.testing.assert_allclose(axes @ cell[:3], arm[:3], atol=1e-12)
    np.testing.assert_allclose(axes @ cell[3:], arm[3:], atol=1e-12)


@given(positions=inside)
@settings(deadline=None, max_examples=50)
def test_the_pose_is_that_of_the_kinematics(positions):
    place, tool = tool_motion("base_link").pose(positions), kinematics().forward(positions)
    np.testing.assert_allclose(place.position, tool.position, atol=1e-12)
    np.testing.assert_allclose(rotation(place.quaternion), tool.rotation, atol=1e-12)


def test_joints_that_stand_still_have_no_twist():
    assert not tool_motion("base_link").twist(np.full(6, 0.3), np.zeros(6)).any()
