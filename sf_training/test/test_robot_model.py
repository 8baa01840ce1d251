"""Tests of simulating other robots from contract and URDF."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from sf_policy_node.contract import Contract, load_contract, parse_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.operator import demonstrate

PATH = Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml"


@cache
def other_robot() -> Contract:
    """Return the simulated arm's kinematics under another name, which gets its own model."""
    data = yaml.safe_load(PATH.read_text()) | {"robot": "other"}
    return parse_contract(yaml.safe_dump(data), load_contract(PATH).urdf_xml)


@pytest.fixture(scope="module")
def sim():
    simulated = ArmSim(other_robot())
    yield simulated
    simulated.close()


def test_the_tool_pose_equals_the_urdf(sim):
    kinematics = Kinematics(other_robot())
    for seed in range(3):
        sim.reset(seed)
        pose = kinematics.forward(sim.joint_positions()[:-1])
        np.testing.assert_allclose(pose.position, sim.tool_position(), atol=1e-9)
        assert pose.rotation[2, 2] < -0.999  # the tool points down


def test_the_arm_is_stationary_without_commands(sim):
    sim.reset(0)
    before = sim.joint_positions()
    sim.step(200)
    np.testing.assert_allclose(sim.joint_positions(), before, atol=2e-3)


def test_servos_follow_a_smooth_command(sim):
    sim.reset(1)
    begin = sim.joint_positions()
    targets = begin + np.array([0.5, -0.2, 0.3, -0.3, 0.4, 0.5, -0.02])

    class Smooth:
        def sample(self, now, measured=None):
            share = np.clip((now - start) / 1.0, 0.0, 1.0)
            blend = 10 * share**3 - 15 * share**4 + 6 * share**5
            slope = 30 * share**2 - 60 * share**3 + 30 * share**4
            return begin + blend * (targets - begin), slope * (targets - begin)

        def hold(self, positions):
            pass

    start, controller, worst = sim.time, sim.controller, 0.0
    sim.controller = Smooth()
    for _ in range(200):
        wanted = sim.controller.sample(sim.time)[0]
        worst = max(worst, float(np.abs(sim.joint_positions() - wanted)[:6].max()))
        sim.step()
    sim.controller = controller
    assert worst < 0.02
    np.testing.assert_allclose(sim.joint_positions(), targets, atol=2e-3)


def test_the_mimic_finger_follows_a_blocked_leader(sim):
    sim.reset(0)
    model, data = sim._model, sim._data
    points = [model.joint(f"joint/{name}").qposadr[0] for name in ("gripper", "right_finger_joint")]
    assert data.qpos[points[0]] == data.qpos[points[1]] == other_robot().gripper.open
    servo = model.actuator("servo6").id
    strength = model.actuator_gainprm[servo, 0]
    model.actuator_gainprm[servo, 0] = 0.0  # the motor is off, a force pushes one finger
    data.qpos[points[0]] = 0.02
    sim.step(100)
    model.actuator_gainprm[servo, 0] = strength
    assert abs(data.qpos[points[0]] - data.qpos[points[1]]) < 1e-3


def test_cameras_see_the_cubes(sim):
    scene = sim.reset(0)
    for camera in ("scene", "wrist"):
        pixels = sim.render(camera).astype(int)
        vivid = pixels.max(axis=-1) - pixels.min(axis=-1) > 90
        assert vivid.sum() > 50, camera
    assert len(scene.colours) >= 2


def test_the_scripted_expert_picks_with_another_robot(sim):
    contract, picked = other_robot(), 0
    for seed in range(2):
        sim.reset(seed)
        list(demonstrate(sim, contract, Kinematics(contract), np.random.default_rng(seed)))
        state = sim.task_state()
        picked += any(cube.lifted and cube.colour == state.target for cube in state.objects)
    assert picked == 2


def test_the_table_is_below_a_workspace_that_begins_below_the_base():
    data = yaml.safe_load(PATH.read_text()) | {"robot": "on_a_post"}
    data["workspace"]["lower"][2], data["workspace"]["upper"][2] = -0.15, 0.3
    contract = parse_contract(yaml.safe_dump(data), load_contract(PATH).urdf_xml)
    sim = ArmSim(contract, render=False)
    for colour in sim.reset(0).colours:
        assert -0.16 <= sim.support_height(colour) <= -0.05
    sim.step(100)
    assert all(cube.position[2] > -0.15 for cube in sim.task_state().objects)


def test_poses_of_cameras_and_table_equal_the_contract():
    data = yaml.safe_load(PATH.read_text()) | {"robot": "mounted"}
    mount = {
        "frame": "hand",
        "position": [0.1, 0.0, 0.0],
        "look_at": [0.0, 0.0, 0.2],
        "up": [1, 0, 0],
        "field_of_view": 70,
    }
    data["simulation"] = {"table_height": -0.05, "cameras": {"wrist": mount}}
    contract = parse_contract(yaml.safe_dump(data), load_contract(PATH).urdf_xml)
    sim = ArmSim(contract, render=False)
    assert -0.06 < min(sim.support_height(colour) for colour in sim.reset(0).colours) < 0.04
    rotation, position = sim.camera_pose("wrist")
    toward = sim.tool_position() - position
    assert np.linalg.norm(toward) == pytest.approx(
        np.hypot(0.1, 0.1), abs=1e-6
    )  # tool0 is 0.1 m ahead of hand
    assert rotation[:, 2] @ toward > 0.0
    focal = sim.intrinsics("wrist")[0, 0]
    assert focal == pytest.approx(0.5 * 240 / np.tan(np.deg2rad(35)))


def test_a_second_finger_with_commands_of_its_own_is_simulated():
    data = yaml.safe_load(PATH.read_text()) | {"robot": "other"}
    finger = {"joint": "right_finger_joint", "open": 0.035, "closed": 0.0}
    data["gripper"] |= {"fingers": [finger], "binary": False}
    urdf = load_contract(PATH).urdf_xml.replace('<mimic joint="gripper"/>', "")
    simulated = ArmSim(parse_contract(yaml.safe_dump(data), urdf), render=False)
    simulated.reset(0)
    np.testing.assert_allclose(simulated.joint_positions()[-2:], 0.035, atol=1e-6)
