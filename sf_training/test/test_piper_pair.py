"""Tests of two arms in one simulation: the pair of Piper arms, scene, controllers, expert."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sf_policy_node.contract import ActionSpace, ColumnKind, Contract, ContractError, load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_training.simulation import demonstrations
from sf_training.simulation.arm_sim import ArmSim, scatter
from sf_training.simulation.controllers import ControllerGroup, make_controller
from sf_training.simulation.joint_expert import JointExpert, assignment
from sf_training.simulation.joint_operator import demonstrate_joints
from sf_training.simulation.one_arm import one_arm

PATH = Path(__file__).parents[2] / "sf_bringup/config/robots/piper_pair.yaml"
ONE, TWO = 9, 14  # seeds: one named cube for the right arm; two, one for each arm
LEFT, RIGHT = slice(0, 7), slice(7, 14)


@cache
def pair() -> Contract:
    """Return the pair's contract with small images: rendering takes most of the time."""
    contract = load_contract(PATH)
    small = [camera.model_copy(update={"width": 64, "height": 48}) for camera in contract.cameras]
    return contract.model_copy(update={"cameras": small})


@pytest.fixture(scope="module")
def sim():
    simulated = ArmSim(pair())
    yield simulated
    simulated.close()


@pytest.fixture(scope="module")
def expert(sim):
    return JointExpert(pair(), sim)


def test_each_tool_pose_equals_the_urdf(sim):
    sim.reset(3)
    joints = sim.joint_positions()
    for arm, columns in (("left", LEFT), ("right", RIGHT)):
        pose = Kinematics(one_arm(pair(), arm)).forward(joints[columns][:6])
        np.testing.assert_allclose(pose.position, sim.tool_position(arm), atol=1e-6)
    assert sim.tool_position("left")[1] > 0.0 > sim.tool_position("right")[1]


def test_cubes_are_within_reach_of_their_arm(sim, expert):
    arms = set()
    for seed in range(6):
        scene = sim.reset(seed)
        for colour in scene.colours:
            arm = scene.arm_of(colour)
            arms.add(arm)
            hand = next(hand for hand in sim.hands if hand.arm == arm)
            kinematics = Kinematics(one_arm(pair(), arm))
            above = sim.cube_position(colour) + [0.0, 0.0, 0.1]
            for position in (sim.cube_position(colour), above):
                target = ToolPose(position, hand.approach.at(position))
                found = kinematics.inverse(target, hand.home[:6])
                assert found.reached, (seed, colour, position)
    assert arms == {"left", "right"}


def test_scenes_of_one_arm_do_not_change_with_a_second_area():
    """Seeds of published evaluations give the same scenes: one area draws no owner."""
    area = np.array([0.2, -0.2]), np.array([0.4, 0.2])
    alone, owners = scatter(np.random.default_rng(5), [area])
    rng = np.random.default_rng(5)
    expected = rng.uniform(*area, (3, 2))
    while np.linalg.norm(expected[[0, 0, 1]] - expected[[1, 2, 2]], axis=1).min() < 0.105:
        expected = rng.uniform(*area, (3, 2))
    np.testing.assert_array_equal(alone, expected)
    assert owners.tolist() == [0, 0, 0]


def test_each_arm_has_its_controller(sim):
    group = make_controller(pair())
    assert isinstance(group, ControllerGroup)
    assert [part.topic for part in group.parts] == [
        arm.command.topic for arm in pair().arms.values()
    ]
    assert [name for part in group.parts for name in part.names] == pair().command_joints
    sim.reset(0)
    start = sim.joint_positions()
    group.hold(start)
    np.testing.assert_allclose(group.sample(0.0)[0], start)


def test_labels_of_joint_deltas_are_relative_to_the_measured_joints(sim, expert):
    scene = sim.reset(ONE)
    action = pair().action.model_copy(update={"space": ActionSpace.JOINT_DELTA})
    deltas = JointExpert(pair().model_copy(update={"action": action}), sim)
    absolute = expert.answers(scene.targets)[scene.targets]
    relative = deltas.answers(scene.targets)[scene.targets]
    grippers, joints = pair().columns.action.grippers, sim.joint_positions()
    np.testing.assert_array_equal(relative[:, grippers], absolute[:, grippers])
    joints[grippers] = 0.0
    np.testing.assert_allclose(relative + joints, absolute, atol=1e-12)


def test_a_process_that_cannot_record_ends_the_command_with_the_reason(monkeypatch, tmp_path):
    """An exception while a process of a pool starts would only start the next one."""
    monkeypatch.setattr(demonstrations, "_refusal", None)
    names = [f"{arm}/{axis}" for arm in ("left", "right") for axis in "xyz"]
    update = {"space": ActionSpace.EE_POSE, "names": names}
    action = pair().action.model_copy(update=update)
    demonstrations._start_worker(pair().model_copy(update={"action": action}), tmp_path, False)
    with pytest.raises(ContractError, match="has the arms left, right, and this part works with"):
        demonstrations._record_seed(0)


def test_one_named_cube_is_picked_by_its_arm_while_the_other_moves_home(sim, expert):
    scene = sim.reset(ONE)
    (arm,) = assignment(sim, scene.targets)
    other = next(hand for hand in sim.hands if hand.arm != arm)
    frames = list(demonstrate_joints(sim, pair(), np.random.default_rng(ONE), expert))
    state = sim.task_state()
    assert state.picked() and len(frames) < 40
    held = {cube.colour: cube.held_by for cube in state.objects if cube.lifted}
    assert held == {scene.target: arm}
    assert not any(cube.touched for cube in state.objects if cube.colour != scene.target)
    columns = LEFT if other.arm == "left" else RIGHT
    assert np.abs(sim.joint_positions()[columns][:6] - other.home[:6]).max() < 0.1


def test_two_named_cubes_are_picked_by_two_arms_at_once(sim, expert):
    scene = sim.reset(TWO)
    assert len(scene.targets) == 2 and " and " in scene.instruction
    together = 0
    for frame in demonstrate_joints(sim, pair(), np.random.default_rng(TWO), expert):
        speeds = np.abs([sample.velocities for sample in frame.motion]).max(axis=0)
        together += speeds[LEFT][:6].max() > 0.1 and speeds[RIGHT][:6].max() > 0.1
    state = sim.task_state()
    assert state.picked() and together >= 5
    assert {cube.held_by for cube in state.objects if cube.lifted} == {"left", "right"}


def test_the_expert_demonstrates_recovery_from_a_failed_grasp(sim, expert):
    scene = sim.reset(ONE)
    arm = expert.arms[scene.arm_of(scene.target)]
    column = pair().columns.action.indices(ColumnKind.GRIPPER, arm=arm.arm)
    opened = 0  # frames with an empty closed gripper; the expert opens it in all of them
    frames = demonstrate_joints(sim, pair(), np.random.default_rng(ONE), expert, slips=True)
    for frame in frames:
        closed = arm.opening(frame.reference) < 0.05
        if closed and not arm.holds(sim, scene.target):
            assert (frame.answers[0][1][:, column] > 0.5).all()
            opened += 1
    assert opened >= 1 and sim.task_state().picked()


def test_the_expert_has_chunks_for_every_cube_and_for_two_at_once(sim, expert):
    scene = sim.reset(TWO)
    answers = expert.answers(scene.targets)
    assert {frozenset(goal) for goal in answers} == {frozenset(goal) for goal in expert.goals()}
    action, commands = pair().columns.action, pair().columns.commands
    measured = sim.joint_positions()
    for goal, chunk in answers.items():
        assert chunk.shape == (50, 14) and np.isfinite(chunk).all()
        joints = chunk[:, action.indices(ColumnKind.JOINT)]
        first = measured[commands.indices(ColumnKind.JOINT)]
        assert np.abs(np.diff(joints, axis=0, prepend=first[None])).max() < 0.1, goal
        openings = chunk[:, action.indices(ColumnKind.GRIPPER)]
        assert set(np.unique(openings)) <= {0.0, 1.0}
    one, two = answers[scene.targets[:1]], answers[scene.targets]
    arm = scene.arm_of(scene.targets[0])
    same = action.indices(arm=arm)
    np.testing.assert_allclose(one[:, same], two[:, same], err_msg="arms do not know each other")
