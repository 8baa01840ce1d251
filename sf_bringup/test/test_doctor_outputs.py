"""The doctor's checks of controllers, of their QoS and of the machine."""

from types import SimpleNamespace

import pytest
import rclpy
from rclpy.action import ActionClient, ActionServer
from rclpy.qos import DurabilityPolicy, QoSProfile
from trajectory_msgs.msg import JointTrajectory

from sf_bringup.doctor.findings import Level
from sf_bringup.doctor.listen import Listener, _joints_of
from sf_bringup.doctor.machine_checks import check_machine
from sf_bringup.doctor.output_checks import check_commands, check_controller
from sf_bringup.doctor.seen import Controller, Seen
from sf_bringup.graph import find_robot
from sf_bringup.simulated_contract import is_simulated
from sf_msgs.action import GoHome
from sf_policy_node.contract import load_contract

CONTRACT = load_contract(find_robot("sim_arm"))


def failures_of(findings) -> list:
    return [finding for finding in findings if finding.level is Level.FAIL]


def test_forward_command_needs_the_order_of_the_controller():
    command_section = CONTRACT.command.model_copy(
        update={"output": "forward_command", "topic": "forward_position_controller/commands"}
    )
    contract = CONTRACT.model_copy(update={"command": command_section})
    joints = tuple(CONTRACT.command_joints)
    for order, count in ((joints, 0), (joints[::-1], 1)):
        found = Controller("forward_position_controller", "F", "active", order)
        failures = failures_of(check_controller(contract, Seen(controllers=[found])))
        assert len(failures) == count
    assert "has the order gripper, joint6" in failures[0].seen
    assert "the contract joint1, joint2" in failures[0].seen
    jtc = Controller("joint_trajectory_controller", "JTC", "active", joints[::-1])
    # Trajectories name their joints.
    assert failures_of(check_controller(CONTRACT, Seen(controllers=[jtc]))) == []


def test_required_interfaces_give_the_order_of_the_joints():
    listed = SimpleNamespace(required_command_interfaces=["b/position", "a/position"])
    assert _joints_of(["a/position", "b/position"], listed) == ("b", "a")


@pytest.mark.ros
def test_a_controller_that_the_commands_do_not_reach_is_named(ros_domain):
    rclpy.init()
    node, driver = rclpy.create_node("doctor"), rclpy.create_node("controller")
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    [topic] = CONTRACT.command_groups
    driver.create_subscription(JointTrajectory, topic, lambda _: None, qos)
    try:
        findings = list(check_commands(CONTRACT, Listener(node, CONTRACT).listen(0.1)))
    finally:
        node.destroy_node()
        driver.destroy_node()
        rclpy.try_shutdown()
    [failure] = failures_of(findings)
    assert "/controller does not receive commands, which are volatile" in failure.seen


def test_the_disk_that_the_readme_asks_for_is_half_of_what_passes():
    levels = [
        next(
            each.level
            for each in check_machine(CONTRACT, Seen(free_disk_gb=size))
            if each.subject == "disk"
        )
        for size in (1.0, 7.0, 9.0)
    ]
    assert levels == [Level.FAIL, Level.WARN, Level.PASS]


def test_a_gripper_action_that_is_not_served_in_simulation_gives_the_argument():
    gripper = load_contract(find_robot("fr3"))
    [cure] = [
        finding.cure
        for finding in check_commands(gripper, Seen(has_clock=True))
        if "action" in finding.seen
    ]
    assert "give sim:=true" in cure
    assert is_simulated(CONTRACT, False) and not is_simulated(gripper, False)


@pytest.mark.parametrize(
    ("robot", "other", "output"),
    [
        ("fr3", "control_msgs/action/ParallelGripperCommand", "parallel_gripper"),
        ("xarm7", "control_msgs/action/ParallelGripperCommand", "parallel_gripper"),
        ("ur5e_robotiq", "control_msgs/action/GripperCommand", "gripper_command"),
    ],
)
def test_a_gripper_action_of_the_other_type_fails_with_both_types_and_the_cure(
    robot, other, output
):
    contract = load_contract(find_robot(robot))
    command = contract.command.gripper
    (finding,) = (
        each
        for each in check_commands(contract, Seen(actions={f"/{command.topic}": {other}}))
        if each.subject == "gripper action"
    )
    assert finding.level is Level.FAIL
    assert f"/{command.topic} is served as {other}" in finding.seen
    assert f"{command.output} sends {command.action}" in finding.seen
    assert finding.cure == f"set command.gripper.output: {output}"
    (finding,) = (
        each
        for each in check_commands(contract, Seen(actions={f"/{command.topic}": {command.action}}))
        if each.subject == "gripper action"
    )
    assert finding.level is Level.PASS


@pytest.mark.ros
@pytest.mark.parametrize("namespace", ["", "left"])
def test_the_type_of_a_running_action_server_is_compared_and_a_client_is_no_server(
    ros_domain, namespace
):
    contract = load_contract(find_robot("fr3"))
    rclpy.init()
    node, driver = rclpy.create_node("doctor"), rclpy.create_node("driver", namespace=namespace)
    elsewhere = rclpy.create_node("driver", namespace="elsewhere")
    topic = contract.command.gripper.topic

    def finding():
        seen = Listener(node, contract, namespace).listen(0.1)
        (found,) = (
            each for each in check_commands(contract, seen) if each.subject == "gripper action"
        )
        return found

    client = ActionClient(driver, GoHome, topic)
    servers = [ActionServer(elsewhere, GoHome, topic, lambda goal: GoHome.Result())]
    try:
        assert "no node serves the action" in finding().seen
        servers.append(ActionServer(driver, GoHome, topic, lambda goal: GoHome.Result()))
        found = finding()
    finally:
        client.destroy()
        for each in servers:
            each.destroy()
        for each in (node, driver, elsewhere):
            each.destroy_node()
        rclpy.try_shutdown()
    assert found.level is Level.FAIL
    assert "is served as sf_msgs/action/GoHome" in found.seen
    assert "gripper_command sends control_msgs/action/GripperCommand" in found.seen
    assert found.cure.startswith("set command.gripper.topic to the action")
