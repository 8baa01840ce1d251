"""Which topics of a contract belong into an episode, and with which types."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sf_policy_node.contract import Contract
from sf_training.recording import messages


class Delivery(StrEnum):
    """How a topic is published, and so how it must be subscribed."""

    SENSOR = "sensor"  # best effort: a lost image is better than a late one
    RELIABLE = "reliable"
    LATCHED = "latched"  # reliable and transient local: a late joiner gets the last message
    STATIC = "static"  # the same with several publishers, of which each one's last message counts


@dataclass(frozen=True)
class RecordedTopic:
    """One topic of an episode. ``required`` ones must be in a bag that is to be trained on."""

    name: str  # in the bag, the same whatever the namespace of the recorder
    type_name: str
    delivery: Delivery
    required: bool = False
    live_name: str = (
        ""  # to subscribe to; a relative name resolves in the namespace of the recorder
    )


_COMMANDS = {
    "joint_trajectory": messages.JOINT_TRAJECTORY,
    "forward_command": messages.NUMBERS,
    "servo_twist": messages.TWIST,
    "servo_pose": messages.POSE,
}


def absolute(topic: str) -> str:
    """A topic name as it stands in a bag."""
    return "/" + topic.lstrip("/")


def _recorded(
    topic: str, type_name: str, delivery: Delivery, required: bool = False
) -> RecordedTopic:
    return RecordedTopic(absolute(topic), type_name, delivery, required, live_name=topic)


def camera_pose_topic(camera: str) -> str:
    """Where the pose of a camera's optical frame in the base frame is recorded, when it is
    known.
    """
    return f"/{camera}_camera/pose"


def episode_topics(contract: Contract) -> list[RecordedTopic]:
    """All topics of an episode, cameras first."""
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
    return topics


def context_topics(contract: Contract) -> list[RecordedTopic]:
    """All topics that a recorder keeps beside those of the contract: what a viewer or a later
    conversion needs.
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
