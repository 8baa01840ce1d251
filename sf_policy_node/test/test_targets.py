"""Tests of joint targets of chunk steps in each action space, and of unreachable steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import HOME, contract_for, kinematics, make_chunk, sim_arm, straight

from sf_policy_node.contract import ActionSpace
from sf_policy_node.motion.arm.kinematics import ToolPose
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.chunks.targets import TargetMaker

H = sim_arm().action.horizon


def make(contract, data, **changes):
    maker = TargetMaker(contract, kinematics(), Workspace(contract, kinematics()))
    chunk = make_chunk(contract, data, **changes)
    return maker.make(chunk, maker.absolute(chunk, chunk.step_s * np.arange(1, len(data) + 1)))


def tools(targets):
    return np.array([kinematics().forward(row[:6]).position for row in targets.positions])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6))
def test_inverse_kinematics_inverts_forward_kinematics(shares):
    limits = JointLimits.of(sim_arm())
    joints = HOME[:6] + 0.3 * np.array(shares)
    joints = np.clip(joints, limits.lower[:6], limits.upper[:6])
    pose = kinematics().forward(joints)
    solution = kinematics().inverse(pose, HOME[:6])
    again = kinematics().forward(solution.positions)
    assert solution.reached
    assert np.allclose(again.position, pose.position, atol=1e-3) and np.allclose(
        again.rotation, pose.rotation, atol=1e-2
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_the_chain_of_a_whole_motion_agrees_with_pinocchio(seed):
    rng = np.random.default_rng(seed)
    joints, speeds = rng.uniform(-1.0, 1.0, (5, 6)), rng.normal(size=(5, 6))
    positions, velocities = kinematics().tool_motion(joints, speeds)
    for n in range(5):
        assert np.allclose(positions[n], kinematics().forward(joints[n]).position, atol=1e-12)
        assert np.allclose(
            velocities[n], kinematics().jacobian(joints[n])[:3] @ speeds[n], atol=1e-12
        )


def test_inverse_kinematics_reports_an_unreachable_target():
    solution = kinematics().inverse(ToolPose(np.array([3.0, 0.0, 0.2]), np.eye(3)), HOME[:6])
    assert not solution.reached and solution.position_error > 1.0


def test_ee_delta_steps_are_relative_to_the_tool_at_the_reference():
    targets = make(sim_arm(), straight(sim_arm(), (0.01, -0.01, 0.005)))
    start = kinematics().forward(HOME[:6]).position
    assert np.allclose(
        tools(targets), start + np.outer(np.arange(1, H + 1), [0.01, -0.01, 0.005]), atol=1e-3
    )


def test_ee_delta_rotates_about_the_axes_of_the_base_frame():
    contract = contract_for(ActionSpace.EE_DELTA, rotation=True)
    data = np.zeros((H, 7))
    data[:, 5] = 0.02 * np.arange(1, H + 1)
    rotation = kinematics().forward(make(contract, data).positions[-1][:6]).rotation
    turn = rotation @ kinematics().forward(HOME[:6]).rotation.T
    angle = 0.02 * H
    assert np.allclose(
        turn,
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]],
        atol=0.02,
    )


def test_ee_pose_steps_are_poses_in_the_base_frame():
    contract = contract_for(ActionSpace.EE_POSE)
    start = kinematics().forward(HOME[:6]).position
    data = np.hstack([start + 0.005 * np.arange(1, H + 1)[:, None], np.ones((H, 1))])
    assert np.allclose(tools(make(contract, data)), data[:, :3], atol=1e-3)


def test_joint_delta_steps_are_added_to_the_reference():
    contract = contract_for(ActionSpace.JOINT_DELTA)
    data = np.zeros((H, 7))
    data[:, 0] = 0.02 * np.arange(H)
    targets = make(contract, data)
    assert np.allclose(targets.positions[:, 0], HOME[0] + data[:, 0])
    assert np.allclose(targets.positions[:, 1:6], HOME[1:6])


def test_joint_position_steps_are_clipped_to_the_limits_and_counted():
    contract = contract_for(ActionSpace.JOINT_POSITION)
    near = HOME.copy()
    near[5] = 2.9
    data = np.tile(np.append(near[:6], 1.0), (H, 1))
    data[:3, 5] = 99.0
    targets = make(contract, data, reference=near)
    assert (targets.positions[:3, 5] == 3.0).all()
    assert targets.position_clips.tolist() == [0, 0, 0, 0, 0, 3, 0]


def test_joint_steps_with_the_tool_outside_the_box_are_dropped():
    contract = contract_for(ActionSpace.JOINT_POSITION)
    data = np.tile(np.append(HOME[:6], 1.0), (H, 1))
    data[:, 0] = 0.25 * np.arange(1, H + 1)  # sideways, out of the box
    targets = make(contract, data)
    assert 2 < len(targets.positions) < H
    assert targets.workspace_clips == H - len(targets.positions)
    assert "out of the workspace box" in targets.note


@pytest.mark.parametrize("space", [ActionSpace.JOINT_POSITION, ActionSpace.JOINT_DELTA])
def test_steps_from_a_jump_on_are_dropped_and_counted_for_its_joint(space):
    contract = contract_for(space)
    start = HOME[:6] if space is ActionSpace.JOINT_POSITION else np.zeros(6)
    data = np.tile(np.append(start, 1.0), (H, 1))
    data[3:, 2] += sim_arm().joints[2].step + 0.01
    targets = make(contract, data)
    assert len(targets.positions) == 3
    assert targets.step_clips.tolist() == [0, 0, H - 3, 0, 0, 0, 0]
    assert "joint3" in targets.note and "joints[].step" in targets.note


def test_near_a_singularity_the_arm_is_slowed_and_steps_are_counted():
    stretched = HOME.copy()  # the elbow is almost straight
    far = ToolPose(np.array([0.4516, -0.2753, 0.1293]), kinematics().forward(HOME[:6]).rotation)
    stretched[:6] = kinematics().inverse(far, HOME[:6]).positions
    targets = make(sim_arm(), straight(sim_arm(), (0.0, 0.0, 0.0)), reference=stretched)
    assert targets.singular_rows == len(targets.positions) > 0
    assert targets.speed < 0.5
    assert make(sim_arm(), straight(sim_arm())).speed == 1.0


def test_tool_targets_outside_the_box_are_clipped_to_its_wall_and_counted():
    targets = make(sim_arm(), straight(sim_arm(), (0.0, 0.0, -0.04)))
    assert targets.workspace_clips == 3
    assert tools(targets)[:, 2].min() == pytest.approx(sim_arm().workspace.lower[2], abs=1e-3)


def test_steps_from_the_first_unreachable_one_are_dropped():
    data = straight(sim_arm(), (0.0, 0.0, 0.0))
    data[5:, :3] = [0.13, 0.29, 0.17]  # a far corner, out of reach with the tool pointing down
    targets = make(sim_arm(), data)
    assert len(targets.positions) == 5
    assert targets.ik_failures == H - 5
    assert targets.note.startswith("steps from 5 on")


def test_a_binary_gripper_is_open_or_closed_and_never_averaged():
    data = straight(sim_arm(), (0.0, 0.0, 0.0))
    data[:, 3] = [0.0, 0.2, 0.49, 0.5, 0.51, 0.9, 1.0, 7.0]
    assert make(sim_arm(), data).positions[:, 6].tolist() == [0.0] * 3 + [0.035] * 5
