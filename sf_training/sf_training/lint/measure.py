"""Measure one episode: rates, gaps, skew, motion and images. ``checks`` judges the measures."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.bag_files import known_outcome
from sf_training.data.clock_offsets import check_clocks, with_one_clock
from sf_training.data.commands import Commands, command_topic
from sf_training.data.episode_index import missing_camera_notes
from sf_training.data.episode_reader import BagError, EpisodeReader, Stream
from sf_training.data.instructions import Instructions
from sf_training.data.joint_messages import JointMessages
from sf_training.data.plausibility import (
    check_all_joints,
    check_commands_are_near,
    check_joints,
    check_one_source,
)
from sf_training.data.synchronisation import JointStream, Observations, align_cameras, nearest
from sf_training.data.targets import is_commanded, no_labels, unlabelled
from sf_training.lint.cameras import CameraMeasure, measure_cameras
from sf_training.lint.image_faults import ImageFaults, image_faults
from sf_training.lint.motion import Motion, measure_motion
from sf_training.lint.thresholds import Thresholds
from sf_training.recording.topics import absolute

# Stamps that far from their receipt are on another clock, such as simulated time.
_OTHER_CLOCK_S = 3600.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class StreamMeasure:
    """Times of one topic.

    Attributes:
        expected_hz: 0 if the contract gives no rate.
        hz, period_s: measured rate, and median time between sorted stamps.
        longest_gap_s, gap_at_s: longest time between sorted stamps, and its start [s after the
            first image].
        repeated, backwards: stamps that equal the previous one, or are before it.
        age_p99_s, age_least_s: receipt minus stamp, 99 % quantile and minimum; NaN if the two are
            on different clocks (simulated time).
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
    age_p99_s: float
    age_least_s: float


@dataclass(frozen=True)
class EpisodeMeasure:
    """Everything that lint measures in an episode.

    Attributes:
        broken: why the bag cannot be read; empty if it can.
        skew_p99_s, skew_beyond: distance between the images of the cameras, 99 % quantile, and
            share beyond ``camera_skew_s``.
        steps, usable: number of policy steps in its duration, and of those with an observation.
        motion: None if there is no usable step; ``problem`` says why.
        labels: "expert", "operator" or empty: what the labels are made from.
        lost: topic to number of lost messages, from the recorder.
        instructions: each text once, in order.
        faults: why training leaves the episode out; one sentence with a cure each.
        notes: anomalies; one sentence with a cure each.
        messages, commands: number of headers and of commands that were read.
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
    problem: str = ""
    instructions: tuple[str, ...] = ()
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: list[ImageFaults] = field(default_factory=list)
    messages: int = 0
    commands: int = 0

    @property
    def robot(self) -> Contract:
        """Contract of an episode that is not ``broken``."""
        assert self.contract is not None
        return self.contract

    @property
    def joints(self) -> Motion:
        """Motion of an episode that has a usable step."""
        assert self.motion is not None
        return self.motion


def measure_episode(
    path: Path, limits: Thresholds, frames: int, contract: Contract | None = None
) -> EpisodeMeasure:
    """Measure one bag. The content of a bag never raises: a bag that cannot be read is ``broken``.

    Args:
        frames: number of images of each camera that are checked for brightness, blur and so on.
        contract: of the robot; needed for bags of other recorders.
    """
    try:
        reader = EpisodeReader(path, contract, allow_missing_cameras=True)
        with reader.cached_in_memory():
            return _measure(reader, limits, frames)
    except BagError as error:
        return EpisodeMeasure(
            path=str(path),
            name=Path(path).stem,
            broken=str(error),
            outcome=_known_outcome(Path(path)),
        )


def _known_outcome(path: Path) -> str:
    """Return the outcome of a bag that cannot be opened; empty if unknown."""
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
    depths = [absolute(camera.depth_topic) for camera in contract.cameras if camera.depth_topic]
    others = [absolute(topics.expert_chunk), absolute(topics.instruction), *depths]
    read = with_one_clock(reader.read([*names, *others]), [*cameras, states])
    missing = [camera.name in reader.missing_cameras for camera in contract.cameras]
    stamps = [read[topic].stamps for topic in cameras]
    colour = [read[absolute(camera.topic)].stamps for camera in reader.recorded_cameras]
    first = min(int(each.min()) for each in colour)
    last = max(int(each.max()) for each in colour)
    observations = align_cameras(stamps, contract, missing=missing)
    skew = _skew(colour)
    given, faults, notes = _commands(reader, read, names, first, observations)
    notes = [*missing_camera_notes(reader), *notes]
    problem, motion, usable = "", None, 0
    try:
        motion, usable = measure_motion(reader, read, observations, first, limits, given)
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
        cameras=measure_cameras(reader, read, motion, first, frames, good),
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
    observations: Observations,
) -> tuple[JointStream | None, list[str], list[str]]:
    """Return the operator's commands (None if unusable), the faults, and the notes.

    Args:
        read: topic to messages.
        names: topics that are measured.
        first: first image [ns].
        observations: observations of the live policy.
    """
    contract, topic = reader.contract, command_topic(reader)
    states = absolute(contract.topics.joint_states)
    given: JointStream | None = None
    faults: list[str] = []
    notes: list[str] = []

    def attempt(check: Callable[[], Result]) -> Result | None:
        try:
            return check()
        except ValueError as error:
            faults.append(str(error).removeprefix(f"{reader.path}: "))
        return None

    def measured() -> JointStream:
        check_one_source(reader, read[states])
        check_all_joints(reader, read[states])
        joints = JointStream(read[states].stamps, read[states].messages, contract.command_joints)
        check_joints(reader, joints, recorded_names[states], first)
        return joints

    def commanded() -> JointStream | None:
        check_one_source(reader, read[topic])
        return Commands(reader, topic, read[topic], first).stream(read[topic], read[states])

    recorded_names = {each: reader.recorded_name(each) for each in names}
    notes += attempt(lambda: check_clocks(reader, read, recorded_names)) or []
    joints = attempt(measured) if len(read[states].stamps) else None
    if len(read[topic].stamps) and topic != states:
        given = attempt(commanded)
        if given is not None:
            name = recorded_names[topic]
            notes += attempt(lambda: check_joints(reader, given, name, first)) or []
            if joints is not None:
                near, far = (stream.held(observations.stamps) for stream in (given, joints))
                attempt(lambda: check_commands_are_near(reader, near, far, name))
            if not len(read[absolute(contract.topics.expert_chunk)].stamps):
                notes += no_labels(is_commanded(contract, observations.stamps, given))
                notes += unlabelled(contract, observations.stamps, given, first)
    return given, faults, notes


def _stream(name: str, topic: str, expected_hz: float, stream: Stream, start: int) -> StreamMeasure:
    count = len(stream.stamps)
    if isinstance(stream.messages, JointMessages):
        stream = stream.take(stream.messages.most_frequent_layout())
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
    """Return the camera skew (N,) [ns] at every image of the slowest camera: the largest distance
    to the nearest image of another camera.
    """
    if len(cameras) < 2:
        return np.empty(0)
    slowest = min(cameras, key=len)
    return np.max(
        [np.abs(stamps[nearest(stamps, slowest)] - slowest) for stamps in cameras], axis=0
    )


def _json(text: str | None, value_type: type[Result]) -> Result:
    """Return a value of one type from JSON text; an empty one if there is none."""
    try:
        value = json.loads(text or "null")
    except ValueError:
        return value_type()
    return value if isinstance(value, value_type) else value_type()
