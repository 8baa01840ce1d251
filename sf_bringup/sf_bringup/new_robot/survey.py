"""Collect description, cameras, joint states and controllers of a robot from a running graph."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from sf_policy_node.perception.images import ImageError, decode_compressed

_DISCOVERY_S = 1.5
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_IMAGE = "sensor_msgs/msg/Image"
_KINDS = {_IMAGE: Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
_NO_COLOUR = ("depth", "infra", "mask", "disparity")


@dataclass
class CameraSeen:
    """One image topic; ``rate_hz`` is 0 if fewer than two images were received."""

    topic: str
    transport: str
    width: int = 0
    height: int = 0
    frame: str = ""
    rate_hz: float = 0.0
    received: list[float] = field(default_factory=list)


@dataclass
class Survey:
    """What was received.

    Attributes:
        description: URDF; empty if none was published.
        joint_topics: joint names of every topic with joint states.
        command_topics: topics of trajectories that have a subscriber.
    """

    description: str = ""
    cameras: list[CameraSeen] = field(default_factory=list)
    joint_topics: dict[str, set[str]] = field(default_factory=dict)
    command_topics: list[str] = field(default_factory=list)


def survey(node: Node, seconds: float) -> Survey:
    """Subscribe for ``seconds`` [s] and return what was received; publish nothing."""
    seen, executor = Survey(), SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    node.create_subscription(
        String,
        "robot_description",
        lambda message: setattr(seen, "description", message.data),
        _LATCHED,
    )
    _spin(executor, _DISCOVERY_S)
    for topic, kinds in sorted(node.get_topic_names_and_types()):
        if not node.count_publishers(topic):
            if _TRAJECTORY in kinds and node.count_subscribers(topic):
                seen.command_topics.append(topic)
        elif "sensor_msgs/msg/JointState" in kinds:
            _listen_to_joints(node, topic, seen)
        elif kind := next((each for each in kinds if each in _KINDS), ""):
            _listen_to_images(node, topic, kind, seen)
    _spin(executor, seconds)
    for camera in seen.cameras:
        span = camera.received[-1] - camera.received[0] if len(camera.received) > 1 else 0.0
        camera.rate_hz = (len(camera.received) - 1) / span if span > 0.0 else 0.0
    seen.cameras = _without_copies([each for each in seen.cameras if each.received])
    return seen


def _listen_to_joints(node: Node, topic: str, seen: Survey) -> None:
    names = seen.joint_topics.setdefault(topic, set())
    node.create_subscription(
        JointState, topic, lambda message: names.update(message.name), qos_profile_sensor_data
    )


def _listen_to_images(node: Node, topic: str, kind: str, seen: Survey) -> None:
    if any(word in topic.lower() for word in _NO_COLOUR):
        return
    camera = CameraSeen(topic, "raw" if kind == _IMAGE else "compressed")
    seen.cameras.append(camera)

    def take(message: Image | CompressedImage) -> None:
        camera.received.append(time.monotonic())
        camera.frame = message.header.frame_id
        if isinstance(message, Image):
            camera.width, camera.height = message.width, message.height
        elif not camera.width:
            try:
                shape = decode_compressed(message.format, message.data).shape
            except ImageError:
                return
            camera.height, camera.width = shape[:2]

    node.create_subscription(_KINDS[kind], topic, take, qos_profile_sensor_data)


def _without_copies(cameras: list[CameraSeen]) -> list[CameraSeen]:
    """Return the cameras without compressed copies of raw topics."""
    raw = {camera.topic for camera in cameras if camera.transport == "raw"}
    return [
        each for each in cameras if each.topic.removesuffix("/compressed") not in raw - {each.topic}
    ]


def _spin(executor: SingleThreadedExecutor, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0.0:
        executor.spin_once(timeout_sec=left)
