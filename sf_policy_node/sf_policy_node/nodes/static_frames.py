"""Receives static transforms on /tf_static."""

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
# Every broadcaster has its own latched message.
_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def listen(node: ManagedNode, frames: FixedFrames) -> None:
    """Store received transforms in ``frames``.

    Without tf2_msgs none are received, and only links of the URDF are known.
    """
    if TFMessage is None:
        return

    def receive(message: TFMessage) -> None:
        for each in message.transforms:
            shift, turn = each.transform.translation, each.transform.rotation
            position = np.array([shift.x, shift.y, shift.z])
            quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
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
