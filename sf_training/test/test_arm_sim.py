"""Tests of the simulated arm: kinematics, seeds, scoring, and the expert."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pinocchio
import pytest

from sf_policy_node.contract import ActionSpace, load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_training.simulation import rendering
from sf_training.simulation.arm_sim import TOOL_DOWN, ArmSim
from sf_training.simulation.expert import can_approach, expert_chunk
from sf_training.simulation.instructions import Phrasing, canonical, held_out_phrase
from sf_training.simulation.motion_trace import MotionTrace
from sf_training.simulation.operator import demonstrate
from sf_training.spatial_forcing.teachers import View, points_from_depth

CONTRACT = load_contract(Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml")
KINEMATICS = Kinematics(CONTRACT)
SEEDS = range(3)


@pytest.fixture(scope="module")
def sim():
    simulated = ArmSim(CONTRACT)
    yield simulated
    simulated.close()


def test_the_urdf_and_the_simulator_agree_on_the_tool(sim):
    for seed in SEEDS:
        sim.reset(seed)
        pose = KINEMATICS.forward(sim.joint_positions()[:-1])
        np.testing.assert_allclose(pose.position, sim.tool_position(), atol=1e-9)
        np.testing.assert_allclose(pose.rotation, np.diag([-1, 1, -1]), atol=2e-2)


def test_a_seed_gives_the_same_scene_and_images_and_another_seed_does_not(sim):
    first = sim.reset(7)
    image, joints = sim.render("scene"), sim.joint_positions()
    other = sim.reset(8)
    assert not np.array_equal(image, sim.render("scene"))
    assert sim.reset(7) == first != other
    np.testing.assert_array_equal(image, sim.render("scene"))
    np.testing.assert_array_equal(joints, sim.joint_positions())


def test_time_never_decreases(sim):
    sim.step(10)
    before = sim.time
    sim.reset(1)
    assert sim.time >= before


def test_an_arm_without_commands_is_stationary(sim):
    sim.reset(0)
    before = sim.joint_positions()
    sim.step(200)
    np.testing.assert_allclose(sim.joint_positions(), before, atol=1e-3)


def test_depth_and_camera_pose_give_the_positions_of_the_cubes(sim):
    scene = sim.reset(0)
    rotation, position = sim.camera_pose("scene")
    depth = sim.depth("scene")
    pad = np.full((320, 320), 5.0, np.float32)  # square, as points_from_depth expects
    pad[:240] = depth
    points = points_from_depth(
        pad[None], View(sim.intrinsics("scene")[None], rotation[None], position[None])
    )[0, :240]
    for colour in scene.colours:
        nearest = np.linalg.norm(points - sim.cube_position(colour), axis=-1).min()
        assert 0.014 < nearest < 0.02  # the visible face is half a cube from the center


@pytest.mark.parametrize("cubes", [1, 2, 3])
def test_a_scene_has_the_requested_number_of_cubes(sim, cubes):
    assert len(sim.reset(3, cubes).colours) == cubes == len(sim.task_state().objects)


@pytest.mark.parametrize(("seed", "cubes"), [(-1, 0), (0, 4)])
def test_a_bad_reset_is_refused(sim, seed, cubes):
    with pytest.raises(ValueError, match="give a seed of 0 or more, and 0 to 3"):
        sim.reset(seed, cubes)


def test_the_expert_picks_the_named_cube_and_moves_no_other(sim):
    for seed in SEEDS:
        scene = sim.reset(seed)
        frames = list(demonstrate(sim, CONTRACT, KINEMATICS, np.random.default_rng(seed)))
        cubes = {cube.colour: cube for cube in sim.task_state().objects}
        assert cubes[scene.target].lifted
        assert not any(cube.touched for colour, cube in cubes.items() if colour != scene.target)
        # Contrastive labels: the first frame has a chunk for every cube, and the chunks differ.
        answers = [chunk for _, chunk in frames[0].answers]
        assert len(answers) == len(scene.colours)
        assert all(np.abs(answers[0] - other).max() > 0.03 for other in answers[1:])


def test_demonstrations_have_the_contracts_action_space_of_the_tool(sim):
    """The labels of one frame, in each space, give the tool the same poses."""
    poses = {}
    for space in ("ee_delta", "ee_pose"):
        names = ["gripper", "x", "y", "z", "rx", "ry", "rz"]
        update = {"space": ActionSpace(space), "names": names}
        contract = CONTRACT.model_copy(update={"action": CONTRACT.action.model_copy(update=update)})
        sim.reset(1)
        frame = next(demonstrate(sim, contract, KINEMATICS, np.random.default_rng(1)))
        start = KINEMATICS.forward(frame.reference[:6])
        actions = frame.answers[0][1]
        assert set(actions[:, 0]) <= {0.0, 1.0}
        position = actions[:, 1:4] + (start.position if space == "ee_delta" else 0.0)
        turn = pinocchio.exp3(actions[0, 4:])
        poses[space] = position, turn @ start.rotation if space == "ee_delta" else turn
    (first, down), (second, other) = poses.values()
    np.testing.assert_allclose(first, second, atol=1e-9)
    np.testing.assert_allclose(down, other, atol=1e-9)
    np.testing.assert_allclose(down, TOOL_DOWN, atol=1e-9)


def test_the_expert_reopens_the_gripper_after_a_failed_grasp():
    chunk = expert_chunk(np.array([0.3, 0.0, 0.2]), 0.0, np.array([0.3, 0.1, 0.05]), 0.03, 8)
    np.testing.assert_array_equal(chunk[:, 3], 1.0)
    np.testing.assert_array_equal(chunk[:, :3], 0.0)


def test_the_expert_approaches_another_cube_only_from_above():
    cube = np.array([0.3, 0.0, 0.05])
    assert can_approach(np.array([0.3, 0.1, 0.2]), 1.0, cube)
    assert not can_approach(np.array([0.3, 0.1, 0.06]), 1.0, cube)
    assert not can_approach(np.array([0.3, 0.1, 0.2]), 0.4, cube)


def test_held_out_sentences_are_never_used_in_demonstrations():
    rng = np.random.default_rng(0)
    for colour in ("red", "green", "blue", "yellow"):
        shown = {Phrasing.draw(rng).say(colour, rng) for _ in range(2000)}
        assert not shown & {held_out_phrase(colour, rng) for _ in range(200)}
        assert not shown & {held_out_phrase(colour, rng, new_colour_word=False) for _ in range(200)}
        assert canonical(colour) in shown


def test_a_missing_gl_library_gives_one_sentence_with_the_packages(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(rendering.RenderingError, match=r"install libegl1 .* or libosmesa6"):
        rendering.choose_gl()


def test_the_motion_trace_is_consistent_and_does_not_change_the_motion(sim):
    def move(trace):
        sim.trace = trace
        sim.reset(3)
        start = sim.joint_positions()
        target = start + np.array([0.3, -0.1, 0.1, 0.1, 0.1, -0.3, -0.02])
        times = np.array([0.0, 0.5])
        positions = np.array([start, target])
        command = SimpleNamespace(
            stamp=sim.time,
            joint_names=CONTRACT.command_joints,
            times=times,
            positions=positions,
            velocities=None,
        )
        sim.controller.accept(command, sim.time)
        sim.step(100)
        sim.trace = None
        return sim.joint_positions()

    trace = MotionTrace()
    moved = move(trace)
    motion = trace.take()
    np.testing.assert_allclose(move(None), moved, atol=1e-12)  # the clock differs
    assert len(motion.positions) == 100
    np.testing.assert_allclose(
        np.diff(motion.positions, axis=0) / sim.TIMESTEP, motion.velocities[1:], atol=1e-6
    )
    for joints, tool in zip(motion.positions, motion.tool, strict=True):
        np.testing.assert_allclose(KINEMATICS.forward(joints[:-1]).position, tool, atol=1e-9)
    assert np.abs(motion.setpoints - motion.positions)[:, :6].max() < 0.1
