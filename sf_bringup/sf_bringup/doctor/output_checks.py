"""Checks of what goes out: who listens to commands, who else commands, and the controller
behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from sf_bringup.doctor.findings import Finding, failed, passed, warned
from sf_bringup.doctor.seen import Controller, Seen
from sf_policy_node.contract import Contract

_TYPES = {
    "joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
    "forward_command": "std_msgs/msg/Float64MultiArray",
    "servo_twist": "geometry_msgs/msg/TwistStamped",
    "servo_pose": "geometry_msgs/msg/PoseStamped",
}
_OURS = {"chunk_executor"}


def check_commands(contract: Contract, seen: Seen) -> Iterator[Finding]:
    """Yield who listens to the arm's and the gripper's commands, and who else sends them."""
    command = contract.command
    outputs = [("arm commands", "command.topic", command.topic, _TYPES[command.output])]
    gripper = command.gripper
    if gripper and gripper.output == "forward_command":
        kind = _TYPES["forward_command"]
        outputs.append(("gripper commands", "command.gripper.topic", gripper.topic, kind))
    for subject, key, topic, kind in outputs:
        yield from _output(subject, key, seen.resolve(topic), kind, seen)
    if gripper and gripper.output == "parallel_gripper":
        action = seen.resolve(gripper.topic)
        if f"{action}/_action/send_goal" in seen.services:
            yield passed("gripper action", f"{action} is served")
        else:
            cure = "start the gripper's controller, or set command.gripper.topic"
            yield failed("gripper action", f"nobody serves the action {action}", cure)


def check_controller(contract: Contract, seen: Seen) -> Iterator[Finding]:
    """Yield the state and the joints of the controller behind ``command.topic``."""
    subject = "controller"
    if seen.controller_refusal:
        yield failed(subject, seen.controller_refusal, "set its parameters as the sentence says")
    for remark in seen.controller_remarks:
        yield warned(subject, remark, "set its parameters as the sentence says")
    if seen.controllers_unread:
        yield warned(subject, f"not looked at: {seen.controllers_unread}", _INSTALL)
        return
    if seen.controllers is None:
        yield passed(subject, "no controller_manager in this graph, nothing to compare")
        return
    name = seen.resolve(contract.command.topic).strip("/").split("/")[-2:-1]
    found = next((each for each in seen.controllers if [each.name] == name), None)
    if found is None:
        known = ", ".join(each.name for each in seen.controllers) or "none"
        cure = "spawn it (ros2 run controller_manager spawner NAME), or set command.topic"
        yield failed(subject, f"{''.join(name)} is not loaded; loaded are {known}", cure)
        return
    yield from _controller(found, contract, seen.controllers)


def check_nodes(contract: Contract, seen: Seen) -> Iterator[Finding]:
    """Yield nodes that run twice, and whether an emergency stop is there."""
    twice = sorted({name for name in seen.nodes if seen.nodes.count(name) > 1})
    if twice:
        cure = "stop one of them, or give each graph its own ROS_DOMAIN_ID"
        yield failed("nodes", f"running twice: {', '.join(twice)}", cure)
    else:
        yield passed("nodes", f"{len(seen.nodes)}, none twice")
    topic = seen.resolve(contract.topics.emergency_stop)
    stream = seen.stream(topic)
    if not stream.publishers:
        cure = "start the node of your button; without it only the arm's own stop is left"
        yield warned("emergency stop", f"nobody publishes {topic}", cure)
    else:
        yield passed("emergency stop", f"{topic} from {', '.join(sorted(stream.publishers))}")


_INSTALL = "install ros-$ROS_DISTRO-controller-manager-msgs, or run: ros2 control list_controllers"


def _output(subject: str, key: str, topic: str, kind: str, seen: Seen) -> Iterator[Finding]:
    stream = seen.stream(topic)
    listeners = [name for name in stream.subscribers if name not in _OURS]
    if not listeners:
        cure = f"start and activate the controller that listens there, or set {key}"
        yield failed(subject, f"nobody listens on {topic}", cure)
    elif stream.types - {kind}:
        kinds = ", ".join(sorted(stream.types - {kind}))
        cure = f"set {key} or command.output: the contract sends {kind}"
        yield failed(subject, f"{topic} is used with {kinds}", cure)
    else:
        yield passed(subject, f"{', '.join(sorted(set(listeners)))} on {topic}")
    others = sorted(name for name in stream.publishers if name not in _OURS)
    if others:
        cure = (
            "stop it before the executor is activated: two commanders on one arm fight each other"
        )
        yield failed("who else commands", f"{', '.join(others)} publishes {topic}", cure)
    else:
        yield passed("who else commands", f"nobody on {topic}")


def _controller(
    found: Controller, contract: Contract, controllers: list[Controller]
) -> Iterator[Finding]:
    if found.state != "active":
        rivals = [
            each.name
            for each in controllers
            if each.state == "active" and set(each.joints) & set(found.joints)
        ]
        first = f"deactivate {', '.join(rivals)}, then " if rivals else ""
        cure = f"{first}ros2 control set_controller_state {found.name} active"
        yield failed("controller", f"{found.name} is {found.state}", cure)
    wanted = contract.arm_joints if contract.command.gripper else contract.command_joints
    if found.joints and sorted(found.joints) != sorted(wanted):
        extra = sorted(set(found.joints) ^ set(wanted))
        cure = "give controller and contract the same joints; a gripper of its own: command.gripper"
        yield failed("controller", f"{found.name} and contract differ in {', '.join(extra)}", cure)
    elif found.state == "active":
        yield passed("controller", f"{found.name} is active ({found.kind})")
