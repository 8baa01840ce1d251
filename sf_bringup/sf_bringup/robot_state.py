"""Publish ``robot_description``, ``/tf`` and ``/tf_static`` where robot_state_publisher is not
installed, so that viewers draw the arm and episodes contain its frames.

Topics, types and QoS are those of robot_state_publisher. Without tf2_msgs, which is not on PyPI,
the node warns and publishes only the description.
"""

from __future__ import annotations

import sys
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from sf_bringup.frame_tree import FrameTree, LinkPose
from sf_bringup.plain_node import run
from sf_policy_node.contract import load_contract
from sf_policy_node.nodes.rotations import quaternion_from_matrix

try:  # not on PyPI: comes with ROS 2
    from tf2_msgs.msg import TFMessage
except ImportError:
    TFMessage = None

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_TF = QoSProfile(depth=100)


class RobotState(Node):
    """Publish the URDF of the contract and, for each joint state, the poses of the links.

    Raises:
        ContractError: the contract does not load.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("robot_state", **options)
        path = self._declare("contract", "", "path of the robot's contract (YAML)")
        contract = load_contract(path, namespace=self.get_namespace())
        span = FloatingPointRange(from_value=0.1, to_value=1000.0, step=0.0)
        rate = self._declare(
            "publish_frequency", 20.0, "highest rate of /tf [Hz]", floating_point_range=[span]
        )
        self._tree = FrameTree(contract.urdf_xml)
        self._period_ns = round(1e9 / rate)
        self._next_ns = 0
        self._description = self.create_publisher(String, "robot_description", _LATCHED)
        self._description.publish(String(data=contract.urdf_xml))
        if TFMessage is None:
            self.get_logger().warning(
                "tf2_msgs is not installed: only robot_description is published, no /tf"
            )
            return
        self._frames = self.create_publisher(TFMessage, "/tf", _TF)
        self._fixed_frames = self.create_publisher(TFMessage, "/tf_static", _LATCHED)
        now = self.get_clock().now().to_msg()
        self._fixed_frames.publish(
            TFMessage(transforms=[_message(pose, now) for pose in self._tree.fixed()])
        )
        self.create_subscription(
            JointState, contract.topics.joint_states, self._on_joint_state, qos_profile_sensor_data
        )

    def _declare(self, name: str, default: Any, description: str, **constraints: Any) -> Any:
        descriptor = ParameterDescriptor(description=description, read_only=True, **constraints)
        return self.declare_parameter(name, default, descriptor).value

    def _on_joint_state(self, message: JointState) -> None:
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if self._next_ns - self._period_ns <= stamp_ns < self._next_ns:
            return  # too early; a much older stamp means that the clock was set back
        self._next_ns = stamp_ns + self._period_ns
        poses = self._tree.moving(dict(zip(message.name, message.position, strict=False)))
        self._frames.publish(
            TFMessage(transforms=[_message(pose, message.header.stamp) for pose in poses])
        )


def _message(pose: LinkPose, stamp: Time) -> TransformStamped:
    message = TransformStamped(child_frame_id=pose.link)
    message.header.stamp, message.header.frame_id = stamp, pose.parent
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = pose.position.tolist()
    rotation.x, rotation.y, rotation.z, rotation.w = quaternion_from_matrix(pose.rotation).tolist()
    return message


def main(args: list[str] | None = None) -> int:
    """Run ``ros2 run sf_bringup robot_state``; return the exit code."""
    return run("robot_state", RobotState, args)


if __name__ == "__main__":
    sys.exit(main())
