"""The topics on which the simulated arm takes commands, by ``command`` of the contract, as its
controllers would offer them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
from sf_training.simulation.controllers import ArmAndGripper
from sf_training.simulation.servo_controller import ToolTarget, ToolTwist


def takes_single_commands(contract: Contract) -> bool:
    """Whether commands come one by one at ``command.rate_hz``, so that each must be taken when it
    comes.
    """
    return contract.command.output != "joint_trajectory" or contract.command.gripper is not None


def listen_for_commands(
    node: Node, contract: Contract, sim: ArmSim, values: Mapping[str, object]
) -> SimController | None:
    """Subscribe to what the contract's output sends, and hand it to the simulated arm's
    controllers.

    Returns:
        The trajectory controller's own node, with the parameters ``values``, where there is one.

    Raises:
        ValueError: the contract asks for the gripper action and control_msgs is not installed.
    """
    controller, command = sim.controller, contract.command
    arm = controller.arm if isinstance(controller, ArmAndGripper) else controller
    kind, convert = _ARM_COMMANDS[command.output]
    of_its_own, topic = None, node.resolve_topic_name(command.topic)
    if kind is JointTrajectory and topic.count("/") > 1:
        of_its_own = SimController(topic, values, arm, sim)
    else:
        _listen(node, kind, command.topic, convert, arm, sim)
    if isinstance(controller, ArmAndGripper):
        if command.gripper.output == "parallel_gripper":
            serve_gripper(node, command.gripper.topic, controller.gripper, sim)
        else:
            _listen(
                node,
                Float64MultiArray,
                command.gripper.topic,
                _to_positions,
                controller.gripper,
                sim,
            )
    return of_its_own


def _listen(
    node: Node, kind: type, topic: str, convert: Callable, controller: Controller, sim: ArmSim
) -> None:
    what = "trajectory" if kind is JointTrajectory else "command"

    def take(message) -> None:
        try:
            controller.accept(convert(message), sim.time)
        except CommandRejected as error:
            node.get_logger().warning(f"{what} rejected: {error}", throttle_duration_sec=1.0)

    node.create_subscription(kind, topic, take, 10)


def _to_positions(message: Float64MultiArray) -> np.ndarray:
    return np.array(message.data)


def _to_twist(message: TwistStamped) -> ToolTwist:
    linear, angular = message.twist.linear, message.twist.angular
    twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
    return ToolTwist(_seconds(message), message.header.frame_id, twist)


def _to_target(message: PoseStamped) -> ToolTarget:
    place, turn = message.pose.position, message.pose.orientation
    position, quaternion = (
        np.array([place.x, place.y, place.z]),
        np.array([turn.x, turn.y, turn.z, turn.w]),
    )
    return ToolTarget(_seconds(message), message.header.frame_id, position, quaternion)


def _seconds(message: TwistStamped | PoseStamped) -> float:
    return message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec


_ARM_COMMANDS = {
    "joint_trajectory": (JointTrajectory, to_trajectory),
    "forward_command": (Float64MultiArray, _to_positions),
    "servo_twist": (TwistStamped, _to_twist),
    "servo_pose": (PoseStamped, _to_target),
}
