"""Subscribe the simulated controllers to the topics in the ``command`` parts of a contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from sf_bringup.gripper_action import serve_gripper
from sf_bringup.sim_controller import SimController
from sf_bringup.sim_messages import to_trajectory
from sf_policy_node.contract import Contract
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.controller_base import CommandRejected, Controller
from sf_training.simulation.controllers import ControllerPart
from sf_training.simulation.servo_controller import ToolTarget, ToolTwist


def takes_single_commands(contract: Contract) -> bool:
    """Return whether commands are single points, sent at ``command.rate_hz``, so that each must be
    received on time.
    """
    return any(
        arm.command.output != "joint_trajectory" or arm.command.gripper is not None
        for arm in contract.arms.values()
    )


def listen_for_commands(
    node: Node,
    parts: Sequence[ControllerPart],
    sim: ArmSim,
    values: Callable[[Sequence[str]], Mapping[str, object]],
    contract: Contract,
) -> list[SimController]:
    """Subscribe to the commands of each controller and pass them on to it.

    Args:
        node: subscribes.
        parts: the simulated controllers.
        values: returns the parameters of a trajectory controller for the names of its joints.
        contract: of the robot.

    Returns:
        A node for each trajectory controller whose topic is below a node's name.

    Raises:
        ContractError: the contract asks for a gripper action and control_msgs is not installed.
    """
    served = {
        arm.command.gripper.topic: arm
        for arm in contract.arms.values()
        if arm.command.gripper and arm.command.gripper.action
    }
    nodes = []
    for part in parts:
        topic = node.resolve_topic_name(part.topic)
        if part.output == "joint_trajectory" and topic.count("/") > 1:
            nodes.append(SimController(topic, values(part.names), part, sim))
        elif part.topic in served:
            serve_gripper(node, part, sim, served[part.topic])
        else:
            message_type, convert = _COMMANDS[part.output]
            _listen(node, message_type, part.topic, convert, part.controller, sim)
    return nodes


def _listen(
    node: Node,
    message_type: type,
    topic: str,
    convert: Callable,
    controller: Controller,
    sim: ArmSim,
) -> None:
    what = "trajectory" if message_type is JointTrajectory else "command"

    def accept(message: Any) -> None:
        try:
            controller.accept(convert(message), sim.time)
        except CommandRejected as error:
            node.get_logger().warning(f"{what} rejected: {error}", throttle_duration_sec=1.0)

    node.create_subscription(message_type, topic, accept, 10)


def _to_positions(message: Float64MultiArray) -> np.ndarray:
    return np.array(message.data)


def _to_twist(message: TwistStamped) -> ToolTwist:
    linear, angular = message.twist.linear, message.twist.angular
    twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
    return ToolTwist(_seconds(message), message.header.frame_id, twist)


def _to_target(message: PoseStamped) -> ToolTarget:
    position, rotation = message.pose.position, message.pose.orientation
    return ToolTarget(
        _seconds(message),
        message.header.frame_id,
        np.array([position.x, position.y, position.z]),
        np.array([rotation.x, rotation.y, rotation.z, rotation.w]),
    )


def _seconds(message: TwistStamped | PoseStamped) -> float:
    return message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec


_COMMANDS = {
    "joint_trajectory": (JointTrajectory, to_trajectory),
    "forward_command": (Float64MultiArray, _to_positions),
    "servo_twist": (TwistStamped, _to_twist),
    "servo_pose": (PoseStamped, _to_target),
}
