"""One episode in numbers: rates, gaps, skew, motion and pictures. Measures only; ``checks``
judges.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.bag_files import known_outcome
from sf_training.data.commands import Commands, command_topic
from sf_training.data.episode_reader import BagError, EpisodeReader, Stream
from sf_training.data.instructions import Instructions
from sf_training.data.joint_messages import JointMessages
from sf_training.data.one_clock import check_clocks, with_one_clock
from sf_training.data.plausibility import (
    check_all_joints,
    check_commands_are_near,
    check_joints,
    check_one_source,
)
from sf_training.data.synchronisation import JointStream, Observations, align_cameras, nearest
from sf_training.data.targets import is_commanded, no_labels
from sf_training.lint.images import ImageFaults, image_faults
from sf_training.lint.motion import Motion, measure_motion
from sf_training.lint.pictures import CameraMeasure, measure_pictures
from sf_training.lint.thresholds import Thresholds
from sf_training.recording.topics import absolute

_OTHER_CLOCK_S = (
    3600.0  # stamps that far from their receipt are of another clock, such as simulated time
)


@dataclass(frozen=True)
class StreamMeasure:
    """Times of one topic. ``expected_hz`` is 0 where the contract gives none; gaps are between
    sorted stamps [s].
    """

    name: str
    topic: str
    expected_hz: float
    hz: float
    period_s: float
    count: int
    longest_gap_s: float
    gap_at_s: float
    repeated: int
    backwards: int
    age_p99_s: (
        float  # receipt minus stamp; NaN where the two are of different clocks (simulated time)
    )
    age_least_s: float


@dataclass(frozen=True)
class EpisodeMeasure:
    """Everything that lint knows about an episode; ``broken`` is the one sentence of a bag that
    cannot be read.
    """

    path: str
    name: str
    broken: str = ""
    instruction: str = ""
    operator: str = ""
    outcome: str = ""
    checksum: str = ""
    contract: Contract | None = None
    duration_s: float = 0.0
    streams: list[StreamMeasure] = field(default_factory=list)
    skew_p99_s: float = 0.0
    skew_beyond: float = 0.0
    steps: int = 0
    usable: int = 0
    motion: Motion | None = None
    labels: str = ""
    lost: dict[str, int] = field(default_factory=dict)
    recorder_verdict: str = ""
    recorder_reasons: str = ""
    cameras: list[CameraMeasure] = field(default_factory=list)
    problem: str = ""  # why there is no motion
    instructions: tuple[str, ...] = ()  # each text once, in order
    faults: list[str] = field(
        default_factory=list
    )  # why training leaves the episode out; sentences with a cure
    notes: list[str] = field(default_factory=list)  # what is odd; sentences with a cure
    images: list[ImageFaults] = field(default_factory=list)
    messages: int = 0  # headers that were read
    commands: int = 0  # of them, commands that were read whole


def measure_episode(
    path: Path, limits: Thresholds, frames: int, contract: Contract | None = None
) -> EpisodeMeasure:
    """Measure one bag; at most ``frames`` images of each camera are decoded. Never raises for what
    is in the bag.

    Args:
        contract: of the robot; bags of other recorders need it.
    """
    try:
        reader = EpisodeReader(path, contract)
        with reader.kept_in_memory():
            return _measure(reader, limits, frames)
    except BagError as error:
        return EpisodeMeasure(
            path=str(path),
            name=Path(path).stem,
            broken=str(error),
            outcome=_known_outcome(Path(path)),
        )


def _known_outcome(path: Path) -> str:
    """Return the outcome of a bag that cannot be opened; empty where it is not known."""
    try:
        return known_outcome(path) or ""
    except BagError:
        return ""


def _measure(reader: EpisodeReader, limits: Thresholds, frames: int) -> EpisodeMeasure:
    contract = reader.contract
    topics = contract.topics
    names = {
        absolute(camera.topic): (f"{camera.name} camera", camera.rate_hz)
        for camera in contract.cameras
    }
    names[absolute(topics.joint_states)] = ("joint states", 0.0)
    names.setdefault(command_topic(reader), ("operator's commands", 0.0))
    cameras, states = (
        [absolute(camera.topic) for camera in contract.cameras],
        absolute(topics.joint_states),
    )
    others = [absolute(topics.expert_chunk), absolute(topics.instruction)]
    read = with_one_clock(reader.read([*names, *others]), [*cameras, states])
    colour = [read[topic].stamps for topic in cameras]
    first = min(int(stamps.min()) for stamps in colour)
    last = max(int(stamps.max()) for stamps in colour)
    seen = align_cameras(colour, contract)
    skew = _skew(colour)
    given, faults, notes = _commands(reader, read, names, first, seen)
    problem, motion, usable = "", None, 0
    try:
        motion, usable = measure_motion(reader, read, seen, first, limits, given)
    except ValueError as error:
        problem = str(error)
    commands, chunks = (
        len(read[topic].stamps) for topic in (command_topic(reader), absolute(topics.expert_chunk))
    )
    texts = Instructions.of_recording(reader, read)
    images = image_faults(reader, read, first)
    good = {each.topic: each.readable for each in images}
    return EpisodeMeasure(
        path=str(reader.path),
        name=reader.name,
        instruction=" | ".join(texts.different),
        operator=reader.operator,
        outcome=reader.outcome,
        checksum=reader.checksum,
        contract=contract,
        duration_s=(last - first) * 1e-9,
        streams=[
            _stream(name, topic, hz, read[topic], first)
            for topic, (name, hz) in names.items()
            if len(read[topic].stamps)
        ],
        skew_p99_s=float(np.quantile(skew, 0.99)) * 1e-9 if len(skew) else 0.0,
        skew_beyond=(
            float(np.mean(skew > contract.budgets.camera_skew_s * 1e9)) if len(skew) else 0.0
        ),
        steps=round((last - first) * 1e-9 / contract.action.step_s) + 1,
        usable=usable,
        motion=motion,
        labels="expert" if chunks else "operator" if commands else "",
        lost={
            topic: count
            for topic, count in _json(reader.metadata.get("drops"), dict).items()
            if count
        },
        recorder_verdict=reader.metadata.get("verdict", ""),
        recorder_reasons="; ".join(map(str, _json(reader.metadata.get("reasons"), list))),
        cameras=measure_pictures(reader, read, motion, first, frames, good),
        problem=problem,
        instructions=tuple(texts.different),
        faults=faults,
        notes=notes,
        images=images,
        messages=sum(len(stream.stamps) for stream in read.values()),
        commands=commands,
    )


def _commands(
    reader: EpisodeReader,
    read: dict[str, Stream],
    names: Collection[str],
    first: int,
    seen: Observations,
) -> tuple[JointStream | None, list[str], list[str]]:
    """Return the operator's commands, why training leaves the episode out, and what is odd.

    Args:
        first: first image [ns].
        seen: what a policy could have seen.
    """
    contract, topic = reader.contract, command_topic(reader)
    states = absolute(contract.topics.joint_states)
    given, faults, notes = None, [], []

    def attempt(check):
        try:
            return check()
        except ValueError as error:
            faults.append(str(error).removeprefix(f"{reader.path}: "))
        return None

    def measured() -> JointStream:
        check_one_source(reader, read[states])
        check_all_joints(reader, read[states])
        joints = JointStream(read[states].stamps, read[states].messages, contract.command_joints)
        check_joints(reader, joints, heard[states], first)
        return joints

    def commanded() -> JointStream | None:
        check_one_source(reader, read[topic])
        return Commands(reader, topic, read[topic]).stream(read[topic], read[states])

    heard = {each: reader.recorded_name(each) for each in names}
    notes += attempt(lambda: check_clocks(contract, read, heard)) or []
    joints = attempt(measured) if len(read[states].stamps) else None
    if len(read[topic].stamps) and topic != states:
        given = attempt(commanded)
        if given is not None:
            notes += attempt(lambda: check_joints(reader, given, heard[topic], first)) or []
            if joints is not None:
                at = [stream.held(seen.stamps) for stream in (given, joints)]
                attempt(lambda: check_commands_are_near(reader, *at, heard[topic]))
            if not len(read[absolute(contract.topics.expert_chunk)].stamps):
                notes += no_labels(is_commanded(contract, seen.stamps, given))
    return given, faults, notes


def _stream(name: str, topic: str, expected_hz: float, stream: Stream, start: int) -> StreamMeasure:
    count = len(stream.stamps)
    if isinstance(stream.messages, JointMessages):
        stream = stream.part(stream.messages.most_alike())
    stamps = stream.stamps
    steps = np.diff(stamps)
    ages = (stream.log_times - stamps) * 1e-9
    if abs(np.median(ages)) > _OTHER_CLOCK_S:
        ages = np.full(len(ages), np.nan)
    ordered = np.sort(stamps)
    gaps = np.diff(ordered) * 1e-9
    span = float(gaps.sum())
    longest = int(np.argmax(gaps)) if len(gaps) else 0
    return StreamMeasure(
        name=name,
        topic=topic,
        expected_hz=expected_hz,
        hz=len(gaps) / span if span > 0 else 0.0,
        period_s=float(np.median(gaps)) if len(gaps) else 0.0,
        count=count,
        longest_gap_s=float(gaps[longest]) if len(gaps) else 0.0,
        gap_at_s=float(ordered[longest] - start) * 1e-9,
        repeated=int((steps == 0).sum()),
        backwards=int((steps < 0).sum()),
        age_p99_s=float(np.quantile(ages, 0.99)),
        age_least_s=float(ages.min()),
    )


def _skew(cameras: list[np.ndarray]) -> np.ndarray:
    """For every image of the slowest camera, how far the nearest image of the worst other camera is
    [ns].
    """
    if len(cameras) < 2:
        return np.empty(0)
    slowest = min(cameras, key=len)
    return np.max(
        [np.abs(stamps[nearest(stamps, slowest)] - slowest) for stamps in cameras], axis=0
    )


def _json(text: str | None, kind: type):
    """A value of one type out of JSON text; empty where there is none."""
    try:
        value = json.loads(text or "null")
    except ValueError:
        return kind()
    return value if isinstance(value, kind) else kind()
