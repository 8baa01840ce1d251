"""Tests of the goals and results of the simulated gripper's action, without control_msgs."""

from types import SimpleNamespace

import pytest
import yaml

from sf_bringup.graph import find_robot
from sf_bringup.gripper_action import GoalFormat
from sf_policy_node.contract import load_contract, parse_contract


def arm_of(**command):
    path = find_robot("fr3")
    data = yaml.safe_load(path.read_text())
    data["command"]["gripper"] = {"topic": "gripper/cmd", **command}
    (arm,) = parse_contract(
        yaml.safe_dump(data), path.with_suffix(".urdf").read_text()
    ).arms.values()
    return arm


def goal(position):
    return SimpleNamespace(command=SimpleNamespace(position=position))


def test_a_goal_is_read_as_the_position_of_the_joint():
    parallel = GoalFormat(arm_of(output="parallel_gripper"))
    assert parallel.position(goal([0.01])).tolist() == [0.01]
    assert len(parallel.position(goal([0.01, 0.02]))) == 2, "the controller rejects it"
    assert GoalFormat(arm_of(output="gripper_command")).position(goal(0.01)).tolist() == [0.01]
    width = GoalFormat(arm_of(output="gripper_command", open=0.08))
    assert width.position(goal(0.02)).tolist() == pytest.approx([0.01])


def test_a_result_has_the_position_in_the_units_of_the_goal():
    result = GoalFormat(arm_of(output="gripper_command", open=0.08)).fill(
        SimpleNamespace(), 0.01, 0.0, "stalled"
    )
    assert (result.position, result.stalled, result.reached_goal) == (
        pytest.approx(0.02),
        True,
        False,
    )
    result = GoalFormat(arm_of(output="parallel_gripper")).fill(
        SimpleNamespace(), 0.01, 0.1, "reached"
    )
    assert (list(result.state.name), list(result.state.position)) == (
        ["fr3_finger_joint1"],
        [0.01],
    )
    assert (result.stalled, result.reached_goal) == (False, True)


def test_the_shipped_robots_command_what_their_drivers_take():
    fr3, xarm = (load_contract(find_robot(robot)) for robot in ("fr3", "xarm7"))
    # franka_gripper doubles the position, and aborts what is wider than about 0.08 m.
    command, gripper = fr3.command.gripper, fr3.gripper
    assert (command.to_goal(gripper, 0.0), command.to_goal(gripper, 0.04)) == (0.0, 0.039)
    assert command.max_effort and not command.replaces_goals and gripper.binary
    # xarm_driver sends 850 - 1000 * position: 850 is open.
    command, gripper = xarm.command.gripper, xarm.gripper
    pulses = [850 - 1000 * command.to_goal(gripper, end) for end in (gripper.open, gripper.closed)]
    assert pulses == [850, 0] and not command.replaces_goals
