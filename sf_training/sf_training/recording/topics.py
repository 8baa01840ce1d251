"""List the topics of an episode with their types and kinds of delivery."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sf_policy_node.contract import Contract
from sf_training.recording import messages


class Delivery(StrEnum):
    """How a topic is published, which decides the QoS of a subscription."""

    SENSOR = "sensor"  # best effort: a lost image is better than a late one
    RELIABLE = "reliable"
    LATCHED = "latched"  # reliable and transient local: a late subscriber gets the last message
    STATIC = "static"  # latched by several publishers; the last message of each counts


@dataclass(frozen=True)
class RecordedTopic:
    """One topic of an episode.

    Attributes:
        name: absolute name in the bag, independent of the recorder's namespace.
        required: training needs messages of this topic.
        live_name: to subscribe to; a relative name resolves in the recorder's namespace.
    """

    name: str
    type_name: str
    delivery: Delivery
    required: bool = False
    live_name: str = ""


_COMMANDS = {
    "joint_trajectory": messages.JOINT_TRAJECTORY,
    "forward_command": messages.NUMBERS,
    "servo_twist": messages.TWIST,
    "servo_pose": messages.POSE,
}


def absolute(topic: str) -> str:
    """Return the absolute name that a topic has in a bag."""
    return "/" + topic.lstrip("/")


def _recorded(
    topic: str, type_name: str, delivery: Delivery, required: bool = False
) -> RecordedTopic:
    return RecordedTopic(absolute(topic), type_name, delivery, required, live_name=topic)


def camera_pose_topic(camera: str) -> str:
    """Return the topic of the pose of a camera's optical frame in the base frame."""
    return f"/{camera}_camera/pose"


def episode_topics(contract: Contract) -> list[RecordedTopic]:
    """Return the topics of a contract that are recorded, cameras first."""
    topics = []
    for camera in contract.cameras:
        colour = messages.IMAGE if camera.transport == "raw" else messages.COMPRESSED_IMAGE
        topics.append(_recorded(camera.topic, colour, Delivery.SENSOR, required=True))
        if camera.info_topic:
            topics.append(_recorded(camera.info_topic, messages.CAMERA_INFO, Delivery.SENSOR))
        if camera.depth_topic:
            topics.append(_recorded(camera.depth_topic, messages.IMAGE, Delivery.SENSOR))
        topics.append(_recorded(camera_pose_topic(camera.name)[1:], messages.POSE, Delivery.SENSOR))
    names = contract.topics
    topics += [
        _recorded(names.joint_states, messages.JOINT_STATE, Delivery.SENSOR, required=True),
        _recorded(names.instruction, messages.STRING, Delivery.LATCHED),
        _recorded(names.teleop_command, messages.JOINT_STATE, Delivery.RELIABLE),
        _recorded(names.replay_command, messages.JOINT_STATE, Delivery.RELIABLE),
        _recorded(names.expert_chunk, messages.ACTION_CHUNK, Delivery.RELIABLE),
        _recorded(names.action_chunk, messages.ACTION_CHUNK, Delivery.RELIABLE),
        _recorded(names.policy_status, messages.POLICY_STATUS, Delivery.RELIABLE),
        _recorded(names.executor_status, messages.EXECUTOR_STATUS, Delivery.RELIABLE),
        _recorded(names.control_source, messages.CONTROL_SOURCE, Delivery.LATCHED),
        _recorded(names.emergency_stop, messages.BOOL, Delivery.RELIABLE),
    ]
    topics += [
        _recorded(topic, _COMMANDS[contract.output], Delivery.RELIABLE)
        for topic in contract.command_groups
    ]
    grippers = [arm.command.gripper for arm in contract.arms.values() if arm.command.gripper]
    # The goals of an action are on no topic.
    topics += [
        _recorded(gripper.topic, _COMMANDS[gripper.output], Delivery.RELIABLE)
        for gripper in grippers
        if gripper.output in _COMMANDS
    ]
    return topics


def context_topics(contract: Contract) -> list[RecordedTopic]:
    """Return the topics that are recorded beside those of the contract, for viewers and
    converters.
    """
    known = {topic.name for topic in episode_topics(contract)}
    context = (
        RecordedTopic("/tf", messages.TF, Delivery.SENSOR),
        RecordedTopic("/tf_static", messages.TF, Delivery.STATIC),
        RecordedTopic(
            "/robot_description", messages.STRING, Delivery.LATCHED, live_name="robot_description"
        ),
        RecordedTopic("/diagnostics", messages.DIAGNOSTICS, Delivery.RELIABLE),
        RecordedTopic("/markers", messages.MARKERS, Delivery.LATCHED, live_name="markers"),
    )
    return [topic for topic in context if topic.name not in known]
