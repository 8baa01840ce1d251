"""Frames that are fixed to the robot, as /tf_static tells them."""

from __future__ import annotations

import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile

from sf_policy_node.motion.chunks.frames import FixedFrames
from sf_policy_node.nodes.lifecycle import ManagedNode

try:  # not on PyPI: comes with ROS 2
    from tf2_msgs.msg import TFMessage
except ImportError:
    TFMessage = None

_TOPIC = "/tf_static"
_QOS = QoSProfile(
    depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL
)  # every broadcaster has its own message


def listen(node: ManagedNode, frames: FixedFrames) -> None:
    """Pass received frames to ``frames``. Without tf2_msgs none are received, and only links of the
    URDF are known.
    """
    if TFMessage is None:
        return

    def receive(message: TFMessage) -> None:
        for each in message.transforms:
            place, turn = each.transform.translation, each.transform.rotation
            position, quaternion = (
                np.array([place.x, place.y, place.z]),
                np.array([turn.x, turn.y, turn.z, turn.w]),
            )
            try:
                frames.set(
                    each.child_frame_id.lstrip("/"),
                    each.header.frame_id.lstrip("/"),
                    position,
                    quaternion,
                )
            except ValueError as error:
                node.get_logger().warning(f"{_TOPIC}: {error}")

    node.subscribe(TFMessage, _TOPIC, receive, _QOS)
