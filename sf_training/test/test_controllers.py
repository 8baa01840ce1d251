"""Tests of the forward command controller and the MoveIt Servo model, one for each rule."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_policy_node.contract import load_contract, parse_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.arm.tool_motion import ToolMotion
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.controller_base import CommandRejected
from sf_training.simulation.controllers import ControllerGroup, make_controller
from sf_training.simulation.forward_controller import ForwardCommandController
from sf_training.simulation.servo_controller import (
    PUBLISH_PERIOD,
    ServoController,
    ToolTarget,
    ToolTwist,
)

PERIOD = 0.005
HOME = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0])
UP = np.array([0.0, 0.0, 0.1, 0.0, 0.0, 0.0])  # 0.1 m/s
CONTRACT = load_contract(Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml")


@cache
def kinematics():
    return Kinematics(CONTRACT)


def variant(output, gripper=None):
    data = yaml.safe_load(CONTRACT.to_yaml())
    data["arms"]["arm"]["command"] = {
        "output": output,
        "topic": "/arm/commands",
        "rate_hz": 100,
        "gripper": gripper,
    }
    return parse_contract(yaml.safe_dump(data), CONTRACT.urdf_xml)


def forward():
    return ForwardCommandController(
        np.array([-2.0, -1.0]), np.array([2.0, 1.0]), np.array([1.0, 2.0])
    )


@pytest.fixture
def servo():
    servo = ServoController(CONTRACT)
    servo.hold(HOME)
    servo.sample(0.0)
    return servo


def run(controller, start, end, each=lambda now: None):
    """Return samples from one period after ``start`` to ``end``: positions and velocities."""
    samples = []
    for now in np.arange(start + PERIOD, end + PERIOD / 2, PERIOD):
        each(now)
        samples.append(controller.sample(now))
    return tuple(np.array(part) for part in zip(*samples, strict=True))


# ---- forward commands ----


def test_each_command_is_held_until_the_next_without_interpolation():
    controller = forward()
    controller.sample(0.0)
    controller.accept([0.004, 0.008], 0.001)
    positions, velocities = run(controller, 0.0, 0.1)
    assert (positions == [0.004, 0.008]).all() and not velocities.any()
    controller.accept(np.array([0.0, 0.0]), 0.1)
    assert not controller.sample(0.1 + PERIOD)[0].any()


def test_before_the_first_command_the_arm_is_stationary():
    controller = forward()
    controller.hold(np.array([0.5, -0.5]))
    assert (run(controller, 0.0, 1.0)[0] == [0.5, -0.5]).all()


@pytest.mark.parametrize("bad", [[0.0], [0.0, 0.0, 0.0], [0.0, np.nan], [np.inf, 0.0], []])
def test_bad_positions_are_refused_and_the_last_ones_held(bad):
    controller = forward()
    controller.hold(np.array([0.5, -0.5]))
    with pytest.raises(CommandRejected, match="data "):
        controller.accept(bad, 0.0)
    assert (run(controller, 0.0, 0.1)[0] == [0.5, -0.5]).all()


values = st.floats(-5, 5, allow_nan=False)


@settings(deadline=None, max_examples=50)
@given(commands=st.lists(st.tuples(values, values), min_size=1, max_size=8))
def test_positions_and_steps_stay_within_limits_for_any_commands(commands):
    controller, now = forward(), 0.0
    last = controller.sample(now)[0]
    for command in commands:
        controller.accept(command, now)
        for _ in range(20):
            now += PERIOD
            position, _ = controller.sample(now)
            assert (position >= [-2, -1]).all() and (position <= [2, 1]).all()
            assert (np.abs(position - last) <= np.array([1.0, 2.0]) * PERIOD + 1e-12).all()
            last = position


# ---- servo ----


def tool(positions):
    return kinematics().forward(positions)


def test_a_twist_moves_the_tool_along_the_base_frame_and_keeps_its_orientation(servo):
    positions, _ = run(
        servo, 0.0, 0.5, lambda now: servo.accept(ToolTwist(now, "base_link", UP), now)
    )
    np.testing.assert_allclose(
        tool(positions[-1]).position - tool(HOME).position, [0.0, 0.0, 0.05], atol=1e-3
    )
    np.testing.assert_allclose(tool(positions[-1]).rotation, tool(HOME).rotation, atol=5e-3)


def test_a_twist_that_is_not_repeated_times_out_and_the_arm_stops(servo):
    servo.accept(ToolTwist(0.0, "base_link", 3.0 * UP), 0.0)
    positions, velocities = run(servo, 0.0, 0.6)
    moving = np.abs(velocities).max(axis=1) > 1e-9
    assert 0.1 <= PERIOD * moving.sum() < 0.3 and not velocities[-1].any()
    limits = np.array([joint.acceleration for joint in CONTRACT.joints])
    slowing = np.diff(velocities[round(0.1 / PERIOD) :: 2], axis=0) / PUBLISH_PERIOD
    assert (np.abs(slowing) <= limits + 1e-6).all()
    assert (positions[-1] == positions[-20]).all()


def test_commands_with_outdated_stamps_are_ignored(servo):
    servo.accept(ToolTwist(0.0, "base_link", UP), 1.0)  # a source without stamps sends 0
    assert not run(servo, 1.0, 1.2)[1].any()


def test_a_pose_is_reached_and_held(servo):
    target = ToolMotion(CONTRACT).pose(HOME + [0.2, 0.1, -0.1, 0.1, 0.2, 0.3])
    command = (target.position, target.quaternion)
    positions, velocities = run(
        servo, 0.0, 1.5, lambda now: servo.accept(ToolTarget(now, "base_link", *command), now)
    )
    reached = ToolMotion(CONTRACT).pose(positions[-1])
    np.testing.assert_allclose(reached.position, target.position, atol=1e-4)
    assert abs(reached.quaternion @ target.quaternion) == pytest.approx(1.0, abs=1e-6)
    assert np.abs(velocities[-1]).max() < 1e-3
    way = np.array([tool(position).position for position in positions])
    assert (
        np.linalg.norm(np.diff(way, axis=0), axis=1).max() / PERIOD
        < CONTRACT.workspace.tool_speed * 1.02
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (ToolTwist(0.0, "tool0", UP), "frame_id must be base_link, got tool0"),
        (ToolTwist(0.0, "", UP), "got none"),
        (ToolTwist(0.0, "base_link", UP * np.nan), "not finite"),
        (ToolTarget(0.0, "base_link", np.zeros(3), np.zeros(4)), "its length is 0"),
        (
            ToolTarget(0.0, "base_link", np.array([np.inf, 0, 0]), np.array([0, 0, 0, 1.0])),
            "not finite",
        ),
    ],
)
def test_bad_tool_commands_are_refused(servo, command, message):
    with pytest.raises(CommandRejected, match=message):
        servo.accept(command, 0.0)
    assert not run(servo, 0.0, 0.1)[1].any()


@settings(deadline=None, max_examples=30)
@given(twist=st.lists(st.floats(-20, 20), min_size=6, max_size=6))
def test_no_twist_moves_joints_beyond_their_limits(twist):
    servo = ServoController(CONTRACT)
    servo.hold(HOME)
    servo.sample(0.0)
    positions, velocities = run(
        servo, 0.0, 0.5, lambda now: servo.accept(ToolTwist(now, "base_link", np.array(twist)), now)
    )
    lower, upper, speed = (
        np.array([getattr(joint, name) for joint in CONTRACT.joints])
        for name in ("lower", "upper", "velocity")
    )
    assert (positions >= lower).all() and (positions <= upper).all()
    assert (np.abs(velocities) <= speed + 1e-9).all()


# ---- in the simulated arm ----


@pytest.mark.parametrize(
    "output", ["joint_trajectory", "forward_command", "servo_twist", "servo_pose"]
)
def test_the_simulated_arm_is_stationary_without_commands(output):
    contract = variant(output, {"output": "forward_command", "topic": "/gripper/commands"})
    controller = make_controller(contract)
    assert isinstance(controller, ControllerGroup)
    sim = ArmSim(contract, render=False, controller=controller)
    before = sim.joint_positions()
    sim.step(200)
    np.testing.assert_allclose(sim.joint_positions(), before, atol=5e-3)
    sim.reset(3)
    after = sim.joint_positions()
    sim.step(200)
    np.testing.assert_allclose(sim.joint_positions(), after, atol=5e-3)


def test_the_simulated_arm_follows_streamed_positions():
    controller = make_controller(variant("forward_command"))
    sim = ArmSim(CONTRACT, render=False, controller=controller)
    begin = sim.joint_positions()
    end = begin + [0.3, -0.1, 0.1, 0.1, 0.1, -0.3, -0.02]
    for share in np.linspace(0.0, 1.0, 100):
        controller.accept(begin + share * (end - begin), sim.time)
        sim.step(2)
    sim.step(60)
    np.testing.assert_allclose(sim.joint_positions(), end, atol=5e-3)
