"""Recordings in memory as other recorders make them, and the formats in which they are stored."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pinocchio
import yaml
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import StoragePlugin, Writer
from synthetic_episodes import HEIGHT, WIDTH, tiny_contract

from sf_policy_node.motion.arm.kinematics import ToolPose
from sf_training.data.dataset import Dataset, load_dataset
from sf_training.lint.checks import check_episode
from sf_training.lint.measure import measure_episode
from sf_training.lint.thresholds import Thresholds
from sf_training.recording import messages

TOP, HAND, STATES, LEADER = "/rig/top", "/rig/hand", "/ur/states", "/spacemouse/target"
ARM = [f"elbow_{n}" for n in "abcdef"]
FINGER = "jaw"
ALL = [*ARM, FINGER]
BAGS = {
    "topics": {
        TOP: "/scene_camera/image_raw",
        HAND: "/wrist_camera/image_raw",
        STATES: "/joint_states",
    },
    "joints": {theirs: f"joint{n}" for n, theirs in enumerate(ARM, 1)} | {FINGER: "gripper"},
    "commands": LEADER,
    "instruction": "stack the bowls",
}
JOINT_SPACE = {
    "space": "joint_position",
    "names": [*(f"joint{n}" for n in range(1, 7)), "gripper"],
    "horizon": 4,
}
SECOND_NS = 10**9
BEGIN = 1_700_000_000 * SECOND_NS
DELAY = 4_000_000
GRIPPER = "/jaw/target"  # of the topic that commands the gripper alone
FLOATS = "std_msgs/msg/Float64"
GEOMETRY = "geometry_msgs/msg/"


@dataclass(frozen=True)
class Entry:
    """A received message; ``at`` is when it was sent [s], ``log`` when it was received [ns]."""

    topic: str
    message_type: str
    at: float
    log: int
    content: object


def contract(**bags):
    """Return the tiny robot's contract with joint positions as actions and a ``bags`` mapping.

    ``topics`` are added to the mapping.
    """
    topics = BAGS["topics"] | bags.pop("topics", {})
    return tiny_contract(bags=BAGS | {"topics": topics} | bags, action=JOINT_SPACE)


def make(message_type: str, *fields):
    """Make a message."""
    return messages.typestore().types[message_type](*fields)


def header(stamp: int, frame: str = "f"):
    """Make a header with a stamp [ns]."""
    return make(
        "std_msgs/msg/Header", make("builtin_interfaces/msg/Time", *divmod(stamp, SECOND_NS)), frame
    )


def pose_at(t: float) -> np.ndarray:
    """Return joints and gripper (7,) at a time [s]."""
    return np.array([0.2 * t, 0.4 + 0.1 * t, 1.4, 1.3, -0.1 * t, 0.0, 0.03 - 0.005 * t])


def joints(stamp: int, names: Sequence[str], positions):
    """Make a joint state."""
    none = np.zeros(0)
    return make(
        messages.JOINT_STATE, header(stamp), list(names), np.asarray(positions, float), none, none
    )


def numbers(values):
    """Make an array message: numbers without names."""
    return make(
        messages.NUMBERS, make("std_msgs/msg/MultiArrayLayout", [], 0), np.asarray(values, float)
    )


def trajectory(stamp: int, names: Sequence[str], points: Sequence[tuple[float, Sequence[float]]]):
    """Make a trajectory of (time from its start [s], positions)."""
    none, made = np.zeros(0), []
    for after, positions in points:
        duration = make(
            "builtin_interfaces/msg/Duration", *divmod(round(after * SECOND_NS), SECOND_NS)
        )
        made.append(
            make(
                "trajectory_msgs/msg/JointTrajectoryPoint",
                np.asarray(positions, float),
                none,
                none,
                none,
                duration,
            )
        )
    return make(messages.JOINT_TRAJECTORY, header(stamp), list(names), made)


def pose(stamp: int, tool: ToolPose, frame: str = "base_link"):
    """A pose of a tool."""
    turn = pinocchio.Quaternion(tool.rotation)
    return make(
        messages.POSE,
        header(stamp, frame),
        make(
            GEOMETRY + "Pose",
            make(GEOMETRY + "Point", *map(float, tool.position)),
            make(GEOMETRY + "Quaternion", turn.x, turn.y, turn.z, turn.w),
        ),
    )


def twist(stamp: int, linear, angular, frame: str = "base_link"):
    """A twist of a tool: velocity [m/s] and angular velocity [rad/s]."""
    vectors = (make(GEOMETRY + "Vector3", *map(float, values)) for values in (linear, angular))
    return make(messages.TWIST, header(stamp, frame), make(GEOMETRY + "Twist", *vectors))


def text(words: str):
    """Make an instruction."""
    return make(messages.STRING, words)


def shot(frame: int, scale: int = 1) -> np.ndarray:
    """Return noise (H, W, 3) that differs from frame to frame."""
    return (
        np.random.default_rng(frame)
        .integers(0, 255, (HEIGHT * scale, WIDTH * scale, 3))
        .astype(np.uint8)
    )


def jpeg(stamp: int, pixels: np.ndarray, suffix: str = ".jpg", what: str = "jpeg"):
    """Make a compressed image."""
    return make(
        messages.COMPRESSED_IMAGE, header(stamp), what, cv2.imencode(suffix, pixels)[1].ravel()
    )


def recording(
    seconds: float = 2.0,
    *,
    stamp: Callable[[str, float], int] = lambda topic, t: BEGIN + round(t * SECOND_NS),
    commands: bool = True,
) -> list[Entry]:
    """Return a recording of two cameras (raw, JPEG; 10 Hz), joint states (50 Hz), commands (25 Hz).

    Args:
        stamp: header stamp of a topic's message at a time [s].
    """
    found = []

    def add(topic: str, message_type: str, t: float, content) -> None:
        found.append(Entry(topic, message_type, t, BEGIN + round(t * SECOND_NS) + DELAY, content))

    for k in range(round(10 * seconds)):
        t = k / 10
        data = shot(k).reshape(-1)
        add(
            TOP,
            messages.IMAGE,
            t,
            make(messages.IMAGE, header(stamp(TOP, t)), HEIGHT, WIDTH, "bgr8", 0, 3 * WIDTH, data),
        )
        add(HAND, messages.COMPRESSED_IMAGE, t, jpeg(stamp(HAND, t), shot(k)))
    for k in range(round(50 * seconds)):
        add(
            STATES,
            messages.JOINT_STATE,
            k / 50,
            joints(stamp(STATES, k / 50), ALL, pose_at(k / 50)),
        )
    for k in range(round(25 * seconds) if commands else 0):
        add(
            LEADER,
            messages.JOINT_STATE,
            k / 25,
            joints(stamp(LEADER, k / 25), ALL, pose_at(k / 25 + 0.04)),
        )
    return sorted(found, key=lambda entry: entry.log)


def entry(topic: str, message_type: str, t: float, content) -> Entry:
    """Return a message that is received a little after ``t`` [s]."""
    return Entry(topic, message_type, t, BEGIN + round(t * SECOND_NS) + DELAY, content)


def merged(*parts: Sequence[Entry]) -> list[Entry]:
    """Merge recordings into one."""
    return sorted((each for part in parts for each in part), key=lambda each: each.log)


def changed(entries: Sequence[Entry], topic: str, change: Callable[[Entry], object]) -> list[Entry]:
    """Return the recording with changed messages on one topic."""
    return [
        replace(each, content=change(each)) if each.topic == topic else each for each in entries
    ]


def without(entries: Sequence[Entry], topic: str) -> list[Entry]:
    """Return the recording without a topic."""
    return [each for each in entries if each.topic != topic]


def write_bag(
    path: Path,
    entries: Sequence[Entry],
    storage=StoragePlugin.MCAP,
    custom: dict[str, str] | None = None,
    compression=None,
) -> Path:
    """Write a bag folder with rosbags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(path, version=9, storage_plugin=storage)
    if compression:
        writer.set_compression(*compression)
    store, connections = messages.typestore(), {}
    with writer:
        for key, value in (custom or {}).items():
            writer.set_custom_data(key, value)
        for each in entries:
            if each.topic not in connections:
                connections[each.topic] = writer.add_connection(
                    each.topic, each.message_type, typestore=store
                )
            writer.write(
                connections[each.topic],
                each.log,
                store.serialize_cdr(each.content, each.message_type),
            )
    return path


def write_mcap(
    path: Path,
    entries: Sequence[Entry],
    encoding: str = "cdr",
    schema: str = "ros2msg",
    type_name: Callable[[str], str] = str,
    **options,
) -> Path:
    """Write one MCAP file with the mcap library and its options; ``type_name`` changes the names of
    the types.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    store, schemas, channels = messages.typestore(), {}, {}
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start("ros2", "somebody")
        for each in entries:
            if each.message_type not in schemas:
                definition = messages.definition(each.message_type)[0].encode()
                schemas[each.message_type] = writer.register_schema(
                    type_name(each.message_type), schema, definition
                )
            if each.topic not in channels:
                channels[each.topic] = writer.register_channel(
                    each.topic, encoding, schemas[each.message_type]
                )
            data = bytes(store.serialize_cdr(each.content, each.message_type))
            writer.add_message(channels[each.topic], each.log, data, each.log)
        writer.finish()
    return path


def describe(folder: Path, names: Sequence[str], **changes) -> None:
    """Write a metadata.yaml that names some files."""
    information = {
        "version": 9,
        "storage_identifier": "mcap",
        "relative_file_paths": list(names),
        "custom_data": None,
    }
    text = yaml.safe_dump(
        {"rosbag2_bagfile_information": information | {"compression_mode": ""} | changes}
    )
    (folder / "metadata.yaml").write_text(text)


def damaged_jpeg(stamp: int, how: str):
    """Return a JPEG that cannot be decoded to its end."""
    data = cv2.imencode(".jpg", shot(1))[1].ravel()
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "head":
        data = np.concatenate([data[:2], np.frombuffer(struct.pack(">I", 77) * 30, np.uint8)])
    else:
        data = np.zeros(0, np.uint8)
    return make(messages.COMPRESSED_IMAGE, header(stamp), "jpeg", data)


def stamp_of(each: Entry) -> int:
    """Return the header stamp of a message [ns]."""
    stamp = each.content.header.stamp
    return stamp.sec * SECOND_NS + stamp.nanosec


def load(folder: Path, entries: Sequence[Entry] | dict[str, Sequence[Entry]], robot, **options):
    """Write a recording as FOLDER/take, or several by their names; return the training data.

    Args:
        options: of :func:`write_bag`.
    """
    takes = entries if isinstance(entries, dict) else {"take": entries}
    bags = [write_bag(folder / name, each, **options) for name, each in takes.items()]
    return loaded(bags, robot)


def loaded(bags: Sequence[Path], robot, *, depth: bool = True) -> Dataset:
    """Return the training data of some bags."""
    return load_dataset(bags, robot, size=8, workers=1, progress=False, depth=depth)


def findings(folder: Path, entries: Sequence[Entry], robot) -> dict:
    """Return what lint finds in a recording: (level, check) to sentence."""
    bag = write_bag(folder / "lint", entries)
    found = check_episode(measure_episode(bag, Thresholds(), 4, robot), Thresholds())
    return {
        (each.level, each.check): each.text
        for each in found
        if each.check not in ("rate", "frozen")
    }
