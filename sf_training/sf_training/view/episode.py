"""Load what is shown of an episode: joints, message times, control source and events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import ColumnKind
from sf_training.data.clock_offsets import with_one_clock
from sf_training.data.commands import Commands, command_topic
from sf_training.data.episode_reader import BagError, EpisodeReader, Stream
from sf_training.data.synchronisation import JointStream
from sf_training.recording.topics import absolute

# In the order of the constants of sf_msgs/ControlSource.
SOURCES = ("nobody", "policy", "teleoperation", "replay", "way home")
_FPS_MAX = 60.0
_LONGEST_S = 86_400.0  # images that span a longer time have a wrong stamp


@dataclass(frozen=True)
class Event:
    """An event at time ``at`` [s after the first image]."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """Joints over time: ``times`` (N,) [s after the first image], ``positions`` (N, J) [rad, m]."""

    times: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Episode:
    """An episode, ready to be drawn. Times are in seconds after the first image.

    Attributes:
        fps: rate of the video [Hz].
        indices: (F, V) message index of each camera in each video frame.
        commanded: None if there are no commands.
        arrivals: stream to message times.
        control: (from, to, control source).
    """

    reader: EpisodeReader
    duration_s: float
    fps: float
    indices: np.ndarray
    joints: list[str]
    measured: Curve
    commanded: Curve | None
    arrivals: dict[str, np.ndarray]
    control: list[tuple[float, float, str]]
    events: list[Event]


def load(reader: EpisodeReader) -> Episode:
    """Read everything except pixels.

    Raises:
        BagError: the joints cannot be read, or a stamp is wrong.
    """
    contract, topics = reader.contract, reader.contract.topics
    cameras = {absolute(camera.topic): f"{camera.name} camera" for camera in contract.cameras}
    others = {
        command_topic(reader): "operator's commands",
        absolute(topics.joint_states): "joint states",
        absolute(topics.expert_chunk): "expert's chunks",
        absolute(topics.action_chunk): "policy's chunks",
    }
    event_topics = [
        absolute(name)
        for name in (topics.instruction, topics.control_source, topics.emergency_stop)
    ]
    read = with_one_clock(
        reader.read([*cameras, *others, *event_topics]), [*cameras, absolute(topics.joint_states)]
    )
    stamps = [np.sort(read[topic].stamps) for topic in cameras]
    start, end = min(int(each[0]) for each in stamps), max(int(each[-1]) for each in stamps)
    duration = max((end - start) * 1e-9, 1e-3)
    if duration > _LONGEST_S:
        raise BagError(
            f"{reader.path}: its images span {duration / 86_400:.0f} days, so a stamp is wrong;"
            " `python3 -m sf_training lint` shows which"
        )
    fps = _rate(stamps)
    moments = start + (np.arange(int(duration * fps) + 1) / fps * 1e9).astype(np.int64)
    states = read[absolute(topics.joint_states)]
    try:
        measured = _curve(
            JointStream(states.stamps, states.messages, contract.command_joints),
            states.stamps,
            start,
        )
    except ValueError as error:
        raise BagError(f"{reader.path}: {error}; map the names in bags.joints") from None
    given = command_topic(reader)
    commands = (
        None
        if given == absolute(topics.joint_states)
        else Commands(reader, given, read[given], start).stream(read[given], states)
    )
    commanded = None if commands is None else _curve(commands, read[given].stamps, start)
    return Episode(
        reader=reader,
        duration_s=duration,
        fps=fps,
        indices=np.stack([_shown(read[topic].stamps, moments, fps) for topic in cameras], axis=1),
        joints=contract.command_joints,
        measured=measured,
        commanded=commanded,
        arrivals={
            name: (np.sort(read[topic].stamps) - start) * 1e-9
            for topic, name in (cameras | others).items()
            if len(read[topic].stamps)
        },
        control=_control(read[absolute(topics.control_source)], start, duration),
        events=_events(reader, read, start, measured),
    )


def _rate(cameras: list[np.ndarray]) -> float:
    """Return the rate of the fastest camera, by its median period [Hz]."""
    periods = [float(np.median(np.diff(stamps))) * 1e-9 for stamps in cameras if len(stamps) > 1]
    return float(
        np.clip(round(1.0 / max(min(periods, default=1.0), 1.0 / _FPS_MAX), 2), 1.0, _FPS_MAX)
    )


def _shown(stamps: np.ndarray, moments: np.ndarray, fps: float) -> np.ndarray:
    """Return the index of the newest message up to half a frame after each moment; the first
    message before that.
    """
    order = np.argsort(stamps, kind="stable")
    newest = np.searchsorted(stamps[order], moments + round(0.5e9 / fps), side="right") - 1
    return order[np.maximum(newest, 0)]


def _curve(joints: JointStream, stamps: np.ndarray, start: int) -> Curve:
    times = np.unique(stamps)
    return Curve((times - start) * 1e-9, joints.held(times))


def _control(stream: Stream, start: int, duration: float) -> list[tuple[float, float, str]]:
    """Return the control source between changes, as (from, to, source)."""
    changes = sorted(
        (max(0.0, (int(stamp) - start) * 1e-9), message.source)
        for stamp, message in zip(stream.stamps, stream.messages, strict=True)
    )
    ends = [*(at for at, _ in changes[1:]), duration]
    return [
        (at, min(end, duration), SOURCES[who] if who < len(SOURCES) else str(who))
        for (at, who), end in zip(changes, ends, strict=False)
        if at < end
    ]


def _events(
    reader: EpisodeReader, read: dict[str, Stream], start: int, measured: Curve
) -> list[Event]:
    contract = reader.contract
    found = []
    instructions = read[absolute(contract.topics.instruction)]
    found += [
        Event((int(stamp) - start) * 1e-9, f"“{message.data}”")
        for stamp, message in zip(instructions.stamps, instructions.messages, strict=True)
    ]
    stops = read[absolute(contract.topics.emergency_stop)]
    found += [
        Event((int(stamp) - start) * 1e-9, "emergency stop")
        for stamp, message in zip(stops.stamps, stops.messages, strict=True)
        if message.data
    ]
    for column in contract.columns.action:
        if column.kind is not ColumnKind.GRIPPER:
            continue
        gripper = contract.arms[column.arm].fitted_gripper
        fingers = contract.columns.commands.indices(ColumnKind.GRIPPER, arm=column.arm)
        openings = [gripper.mean_opening(row) for row in measured.positions[:, fingers]]
        opened = np.array(openings) > 0.8
        name = column.name.replace("/", " ")
        found += [
            Event(
                float(measured.times[row + 1]),
                f"{name} opens" if opened[row + 1] else f"{name} closes",
            )
            for row in np.flatnonzero(np.diff(opened.astype(int)))
        ]
    return sorted(
        (Event(max(event.at, 0.0), event.text) for event in found), key=lambda event: event.at
    )
