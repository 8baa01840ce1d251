"""Check the command topics: subscribers, other publishers, and the controllers behind them."""

from __future__ import annotations

from collections.abc import Iterator

from sf_bringup.doctor.findings import Finding, failed, passed, warned
from sf_bringup.doctor.seen import Controller, Seen
from sf_policy_node.contract import Contract, GripperCommand
from sf_policy_node.nodes.emergency_stop import SHARED_TOPIC
from sf_policy_node.nodes.gripper_action import type_fault

_TYPES = {
    "joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
    "forward_command": "std_msgs/msg/Float64MultiArray",
    "servo_twist": "geometry_msgs/msg/TwistStamped",
    "servo_pose": "geometry_msgs/msg/PoseStamped",
}
_OURS = {"chunk_executor"}


def check_commands(contract: Contract, seen: Seen) -> Iterator[Finding]:
    """Yield the subscribers and the other publishers of the commands to arms and grippers."""
    for topic, arms in _arms_of(contract).items():
        subject, key = (
            _subject("arm commands", arms, contract),
            contract.key_of(arms[0], "command.topic"),
        )
        yield from _output(subject, key, seen.resolve(topic), _TYPES[contract.output], seen)
    for name, arm in contract.arms.items():
        gripper, key = arm.command.gripper, contract.key_of(name, "command.gripper")
        if gripper and gripper.output == "forward_command":
            subject, message_type = (
                _subject("gripper commands", [name], contract),
                _TYPES["forward_command"],
            )
            yield from _output(
                subject, f"{key}.topic", seen.resolve(gripper.topic), message_type, seen
            )
        elif gripper:
            yield from _action(_subject("gripper action", [name], contract), key, gripper, seen)


def check_controller(contract: Contract, seen: Seen) -> Iterator[Finding]:
    """Yield the state and the joints of the controllers behind ``command.topic`` of each arm."""
    subject = "controller"
    if seen.controller_refusal:
        yield failed(subject, seen.controller_refusal, "set its parameters as the sentence says")
    for remark in seen.controller_remarks:
        yield warned(subject, remark, "set its parameters as the sentence says")
    if seen.controllers_unread:
        yield warned(subject, f"not checked: {seen.controllers_unread}", _INSTALL)
        return
    if seen.controllers is None:
        yield passed(subject, "not checked: no controller_manager runs in this graph")
        return
    for topic, joints in contract.command_groups.items():
        name = seen.resolve(topic).strip("/").split("/")[-2:-1]
        found = next((each for each in seen.controllers if [each.name] == name), None)
        if found is None:
            known = ", ".join(each.name for each in seen.controllers) or "none"
            cure = "spawn it (ros2 run controller_manager spawner NAME), or set command.topic"
            yield failed(subject, f"{''.join(name)} is not loaded; loaded are {known}", cure)
            continue
        wanted = [contract.command_joints[joint] for joint in joints]
        ordered = contract.output == "forward_command"
        yield from _controller(found, wanted, seen.controllers, ordered=ordered)
    for arm in contract.arms.values():
        command = arm.command.gripper
        if command is None or command.output != "forward_command":
            continue
        name = seen.resolve(command.topic).strip("/").split("/")[-2:-1]
        for found in seen.controllers:
            if [found.name] == name:
                yield from _controller(found, arm.gripper_joints, seen.controllers, ordered=True)


def check_nodes(contract: Contract, seen: Seen) -> Iterator[Finding]:
    """Yield nodes that run twice, and the publishers of the emergency stop."""
    twice = sorted({name for name in seen.nodes if seen.nodes.count(name) > 1})
    if twice:
        cure = "stop one of them, or give each graph its own ROS_DOMAIN_ID"
        yield failed("nodes", f"running twice: {', '.join(twice)}", cure)
    else:
        yield passed("nodes", f"{len(seen.nodes)}, none twice")
    topics = dict.fromkeys(
        seen.resolve(each) for each in (contract.topics.emergency_stop, SHARED_TOPIC)
    )
    sources = {each: ", ".join(sorted(seen.stream(each).publishers)) for each in topics}
    topic = " or ".join(topics)
    if any(sources.values()):
        found = "; ".join(f"{each} from {names}" for each, names in sources.items() if names)
        yield passed("emergency stop", found)
    elif seen.is_simulated:
        yield passed("emergency stop", f"no node publishes {topic}; a simulated robot needs none")
    else:
        cure = "start the node of your button; without it only the robot's own stop works"
        yield warned("emergency stop", f"no node publishes {topic}", cure)


_INSTALL = "install ros-$ROS_DISTRO-controller-manager-msgs, or run: ros2 control list_controllers"


def _arms_of(contract: Contract) -> dict[str, list[str]]:
    """Return the command topics, each with the names of its arms."""
    found: dict[str, list[str]] = {}
    for name, arm in contract.arms.items():
        found.setdefault(arm.command.topic, []).append(name)
    return found


def _subject(subject: str, arms: list[str], contract: Contract) -> str:
    """Return the subject of a finding; with the names of ``arms`` if the robot has several."""
    return subject if len(contract.arms) == 1 else f"{subject} of {' and '.join(arms)}"


def _output(subject: str, key: str, topic: str, message_type: str, seen: Seen) -> Iterator[Finding]:
    stream = seen.stream(topic)
    listeners = [name for name in stream.subscribers if name not in _OURS]
    if not listeners:
        cure = f"start and activate the controller that subscribes to it, or set {key}"
        yield failed(subject, f"no node subscribes to {topic}", cure)
    elif stream.qos_faults:
        yield failed(subject, f"{topic}: {'; '.join(stream.qos_faults)}", "change its QoS")
    elif stream.types - {message_type}:
        other_types = ", ".join(sorted(stream.types - {message_type}))
        cure = f"set {key} or command.output: the contract sends {message_type}"
        yield failed(subject, f"{topic} is used with {other_types}", cure)
    else:
        yield passed(subject, f"{', '.join(sorted(set(listeners)))} on {topic}")
    others = sorted(name for name in stream.publishers if name not in _OURS)
    if others:
        cure = "stop it before the executor is activated: an arm must have one source of commands"
        yield failed("other commands", f"{', '.join(others)} publishes {topic}", cure)
    else:
        yield passed("other commands", f"no other node publishes {topic}")


def _action(subject: str, key: str, gripper: GripperCommand, seen: Seen) -> Iterator[Finding]:
    """Yield whether the gripper's action is served, and with the type of its goals.

    Args:
        key: path of ``command.gripper`` in the contract.
    """
    action = seen.resolve(gripper.topic)
    types = seen.actions.get(action, set())
    if not types:
        cure = f"start the gripper's controller, or set {key}.topic"
        if seen.has_clock and not seen.is_simulated:
            cure += "; if the robot is simulated, give sim:=true"
        yield failed(subject, f"no node serves the action {action}", cure)
    elif fault := type_fault(gripper, types, key):
        problem, cure = fault
        yield failed(subject, f"{action} {problem}", cure)
    else:
        yield passed(subject, f"{action} is served as {gripper.action}")


def _controller(
    found: Controller, wanted: list[str], controllers: list[Controller], *, ordered: bool
) -> Iterator[Finding]:
    """Yield the state and the joints of a controller.

    Args:
        ordered: its commands are numbers without names, so the order of the joints matters.
    """
    if found.state != "active":
        rivals = [
            each.name
            for each in controllers
            if each.state == "active" and set(each.joints) & set(found.joints)
        ]
        first = f"deactivate {', '.join(rivals)}, then " if rivals else ""
        cure = f"{first}ros2 control set_controller_state {found.name} active"
        yield failed("controller", f"{found.name} is {found.state}", cure)
    if found.joints and sorted(found.joints) != sorted(wanted):
        extra = sorted(set(found.joints) ^ set(wanted))
        cure = "give controller and contract the same joints; a gripper of its own: command.gripper"
        yield failed("controller", f"{found.name} and contract differ in {', '.join(extra)}", cure)
    elif ordered and found.joints and list(found.joints) != wanted:
        text = (
            f"{found.name} has the order {', '.join(found.joints)}, the contract"
            f" {', '.join(wanted)}; forward_command sends numbers without names"
        )
        cure = "give the controller's parameter joints and the contract the same order"
        yield failed("controller", text, cure)
    elif found.state == "active":
        yield passed("controller", f"{found.name} is active ({found.type})")
