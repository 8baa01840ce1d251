"""Map the channels of a bag to the topics of the contract, and report missing or unusable ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sf_policy_node.contract import Contract
from sf_training.data.bag_files import BagError
from sf_training.data.bag_storage import Channel
from sf_training.recording import messages
from sf_training.recording.topics import absolute, camera_pose_topic, episode_topics

IMAGES = frozenset({messages.IMAGE, messages.COMPRESSED_IMAGE, messages.VIDEO_PACKET})
# Commands without joint names: lists of numbers and single numbers.
NUMBERS = frozenset(
    {
        messages.NUMBERS,
        "std_msgs/msg/Float32MultiArray",
        "std_msgs/msg/Float64",
        "std_msgs/msg/Float32",
        "control_msgs/msg/GripperCommand",
    }
)
TOOL = frozenset({messages.POSE, messages.TWIST})  # Cartesian commands of the tool
COMMANDS = frozenset({messages.JOINT_STATE, messages.JOINT_TRAJECTORY}) | NUMBERS | TOOL
_FOREIGN = {
    "ros1": (
        "messages of ROS 1, which are not read; convert the bag of ROS 1 with `rosbags-convert"
        " --src BAG.bag --dst FOLDER --dst-storage mcap --dst-typestore ros2_humble`, or play it"
        " through ros1_bridge"
    ),
    "json": "JSON, which has no ROS types; record the ROS 2 topics with `ros2 bag record -s mcap`",
    "protobuf": (
        "Protobuf messages, which are not read; record the ROS 2 topics with `ros2 bag record -s"
        " mcap`"
    ),
}


def mapped_channels(
    channels: Sequence[Channel], contract: Contract, *, foreign: bool
) -> dict[int, str]:
    """Return channel number to topic of the contract, for every channel with ROS 2 messages.

    A channel is left out if its topic has a name of the contract, but ``bags`` maps another topic
    to that name: it belongs to another robot. An optional topic with an unexpected type is left
    out, too.
    """
    names = _topic_names(contract) if foreign else {}
    taken = set(names.values())
    types = accepted_types(contract)
    found = {}
    for number, channel in enumerate(channels):
        if channel.encoding != "cdr" or not channel.type_name:
            continue
        topic = absolute(channel.topic)
        ours = names.get(topic, topic)
        if topic not in names and ours in taken:
            continue
        required = any(each.required and each.name == ours for each in episode_topics(contract))
        mapped = topic in names or required
        if ours in types and channel.type_name not in types[ours] and not mapped:
            continue
        found[number] = ours
    return found


def accepted_types(contract: Contract) -> dict[str, frozenset[str]]:
    """Return the readable message types of every topic that is read."""
    topics = contract.topics
    found = {}
    for camera in contract.cameras:
        found[absolute(camera.topic)] = IMAGES
        if camera.depth_topic:
            found[absolute(camera.depth_topic)] = IMAGES - {messages.VIDEO_PACKET}
        if camera.info_topic:
            found[absolute(camera.info_topic)] = frozenset({messages.CAMERA_INFO})
        found[camera_pose_topic(camera.name)] = frozenset({messages.POSE})
    return found | {
        absolute(topics.joint_states): frozenset({messages.JOINT_STATE}),
        absolute(topics.teleop_command): COMMANDS,
        absolute(topics.instruction): frozenset({messages.STRING}),
        absolute(topics.expert_chunk): frozenset({messages.ACTION_CHUNK}),
        absolute(topics.action_chunk): frozenset({messages.ACTION_CHUNK}),
        absolute(topics.control_source): frozenset({messages.CONTROL_SOURCE}),
        absolute(topics.emergency_stop): frozenset({messages.BOOL}),
    }


def check_channels(
    file: Path,
    contract: Contract,
    channels: Sequence[Channel],
    mapped: Mapping[int, str],
    *,
    foreign: bool,
    allow_missing_cameras: bool = False,
) -> dict[str, str]:
    """Check that the required topics of the contract have messages, and that all types can be read.

    Args:
        allow_missing_cameras: images of some cameras, but not of all, may be missing.

    Returns:
        Name of each camera without images, and a sentence about it.

    Raises:
        BagError: a topic is missing, has another type, or is two topics of the bag.
    """
    types = accepted_types(contract)
    for number, ours in mapped.items():
        channel = channels[number]
        if channel.count and ours in types and channel.type_name not in types[ours]:
            which = (
                channel.topic
                if absolute(channel.topic) == ours
                else f"{channel.topic} (read as {ours})"
            )
            needed = " or ".join(sorted(_short(name) for name in types[ours]))
            cure = (
                "map another topic in the contract's bags.topics"
                if foreign
                else "correct its publisher and record again"
            )
            raise BagError(
                f"{file}: {which} holds {_short(channel.type_name)}, but {needed} is needed; {cure}"
            )
    _check_one_source(file, contract, channels, mapped)
    held = {ours for number, ours in mapped.items() if channels[number].count}
    cameras = {absolute(camera.topic): camera.name for camera in contract.cameras}
    may_lack = cameras if allow_missing_cameras and held & set(cameras) else {}
    missing_cameras = {}
    for topic in episode_topics(contract):
        if topic.required and topic.name not in held:
            sentence = _missing(contract, topic.name, channels, foreign=foreign)
            if topic.name not in may_lack:
                raise BagError(f"{file}: {sentence}")
            missing_cameras[cameras[topic.name]] = sentence
    return missing_cameras


def _check_one_source(
    file: Path, contract: Contract, channels: Sequence[Channel], mapped: Mapping[int, str]
) -> None:
    """Raise BagError if the messages of a camera come from two topics of the bag. Joint states and
    commands may: they name their joints.
    """
    of_cameras = {
        absolute(topic): camera.name
        for camera in contract.cameras
        for topic in (camera.topic, camera.depth_topic, camera.info_topic)
        if topic
    }
    for ours, camera in of_cameras.items():
        found = [channels[number] for number, each in mapped.items() if each == ours]
        topics = sorted({channel.topic for channel in found if channel.count})
        types = sorted({_short(channel.type_name) for channel in found if channel.count})
        if len(topics) > 1:
            raise BagError(
                f"{file}: {' and '.join(topics)} are both mapped to {ours} of camera {camera}; map"
                " only one of them in the contract's bags.topics"
            )
        if len(types) > 1:
            raise BagError(
                f"{file}: {topics[0]} of camera {camera} holds {' and '.join(types)}; record each"
                " type on a topic of its own"
            )


def _missing(contract: Contract, topic: str, channels: Sequence[Channel], *, foreign: bool) -> str:
    theirs = (
        {name for name, ours in _topic_names(contract).items() if ours == topic}
        if foreign
        else set()
    )
    for channel in channels:
        if (
            absolute(channel.topic) in theirs | {topic}
            and channel.count
            and channel.encoding != "cdr"
        ):
            problem = _FOREIGN.get(
                channel.encoding,
                f"messages of encoding {channel.encoding!r}, which are not read; record with ROS 2",
            )
            return f"{channel.topic} holds {problem}"
    if not foreign:
        return (
            f"no message on {topic}, which the contract needs; check its publisher and record again"
        )
    named = f" (mapped from {', '.join(sorted(theirs))})" if theirs else ""
    there = ", ".join(sorted({channel.topic for channel in channels if channel.count})) or "none"
    return (
        f"no message on {topic}{named}, which the contract needs; map one of the bag's topics to it"
        f" in the contract's bags.topics ({there})"
    )


def _topic_names(contract: Contract) -> dict[str, str]:
    """Return topic of another recorder to topic of the contract, as ``bags`` maps them."""
    bags = contract.bags
    assert bags is not None  # of a contract for bags of other recorders
    names = {absolute(theirs): absolute(ours) for theirs, ours in bags.topics.items()}
    commands = bags.commands and absolute(bags.commands)
    if commands and names.get(commands, commands) != absolute(contract.topics.joint_states):
        names[commands] = absolute(contract.topics.teleop_command)
    return names


def _short(type_name: str) -> str:
    return type_name.replace("/msg/", "/")
