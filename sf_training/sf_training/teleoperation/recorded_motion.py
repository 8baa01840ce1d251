"""Read the joint motion of an episode, to replay it. No ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.data.episode_reader import EpisodeReader, Stream
from sf_training.recording.topics import absolute

Follow = Literal["commanded", "measured"]
SAMPLE_S = 0.02
_LONGEST_GAP_S = 0.5  # between two joint states; the motion in a longer gap is unknown
_NS = 1e-9


class ReplayError(ValueError):
    """The episode cannot be replayed like this; the message is one sentence with the cure."""


@dataclass(frozen=True)
class RecordedMotion:
    """Joints (N, J) [rad, m] every :data:`SAMPLE_S` from the first joint state on.

    Attributes:
        described: source of the positions, in words.
    """

    positions: np.ndarray
    described: str

    @property
    def duration(self) -> float:
        """Duration at the recorded speed [s]."""
        return SAMPLE_S * (len(self.positions) - 1)


def recorded_motion(reader: EpisodeReader, follow: Follow) -> RecordedMotion:
    """Read the motion of an episode.

    With ``commanded``, the commands to the arm (of the executor, else of the operator), because
    measured positions of a gripper would not hold an object. Where there was no command, or a joint
    was further from it than its tracking error, the measured joints.

    Raises:
        ReplayError: joint states are missing, or have a gap.
    """
    contract, names = reader.contract, reader.contract.command_joints
    topics, controllers = contract.topics, list(contract.command_groups)
    streams = reader.read(
        [absolute(name) for name in (topics.joint_states, topics.teleop_command, *controllers)]
    )
    states = streams[absolute(topics.joint_states)]
    measured = _by_joint(states, names)
    missing = [name for name, (stamps, _) in zip(names, measured, strict=True) if not len(stamps)]
    if missing:
        topic = absolute(topics.joint_states)
        raise ReplayError(
            f"{reader.path}: {topic}: joint {', '.join(missing)} is never named; replay another"
            " episode"
        )
    # Arm and gripper may have separate publishers: use the time in which every joint is known.
    begin, end = max(stamps[0] for stamps, _ in measured), min(stamps[-1] for stamps, _ in measured)
    gap = _NS * max(float(np.diff(stamps).max(initial=0)) for stamps, _ in measured)
    if gap > _LONGEST_GAP_S:
        raise ReplayError(
            f"{reader.path}: joint states have a gap of {gap:.2f} s, in which the motion is"
            " unknown; replay another episode"
        )
    times = np.arange(begin, end + 1, round(SAMPLE_S / _NS))
    if len(times) < 2:
        raise ReplayError(
            f"{reader.path}: holds only {_NS * (end - begin):.2f} s of joint states; replay another"
            " episode"
        )
    positions = np.stack([np.interp(times, *joint) for joint in measured], axis=-1)
    if follow == "measured":
        return RecordedMotion(positions, f"as measured on {absolute(topics.joint_states)}")
    sent = np.full_like(positions, np.nan)
    sources = []
    teleoperation = streams[absolute(topics.teleop_command)]
    if len(teleoperation.stamps):
        _overwrite(sent, _teleoperated(teleoperation, names, times))
        sources.append(f"as commanded on {absolute(topics.teleop_command)}")
    commanded = {name: streams[absolute(name)] for name in controllers}
    commanded = {name: stream for name, stream in commanded.items() if len(stream.stamps)}
    if commanded and contract.output == "joint_trajectory":
        for stream in commanded.values():
            _overwrite(sent, _trajectories(stream, names, times))
        sources.insert(0, f"as sent on {' and '.join(map(absolute, commanded))}")
    tracking_error = JointLimits.of(contract).tracking_error
    known = np.isfinite(sent) & (np.abs(sent - positions) <= tracking_error)
    described = ", else ".join([*sources, "as measured"])
    return RecordedMotion(np.where(known, sent, positions), described)


def _overwrite(sent: np.ndarray, newer: np.ndarray) -> None:
    known = np.isfinite(newer)
    sent[known] = newer[known]


def _by_joint(stream: Stream, names: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return increasing stamps (N,) [ns] and positions (N,) of each joint; empty if never named."""
    found = []
    for name in names:
        pairs = [
            (stamp, message.position[list(message.name).index(name)])
            for stamp, message in zip(stream.stamps, stream.messages, strict=True)
            if name in getattr(message, "name", ())  # commands may be of another type
        ]
        stamps, positions = np.array(sorted(pairs)).reshape(-1, 2).T
        found.append((stamps, positions))
    return found


def _teleoperated(stream: Stream, names: Sequence[str], times: np.ndarray) -> np.ndarray:
    """Return the operator's commands, interpolated linearly; NaN before the first and for joints
    that were never named.
    """
    sent = np.full((len(times), len(names)), np.nan)
    for column, (stamps, positions) in enumerate(_by_joint(stream, names)):
        if len(stamps):
            sent[:, column] = np.interp(times, stamps, positions, left=np.nan)
    return sent


def _trajectories(stream: Stream, names: Sequence[str], times: np.ndarray) -> np.ndarray:
    """Return the joints of the newest trajectory that had been sent by each time; NaN before the
    first.
    """
    sent = np.full((len(times), len(names)), np.nan)
    order = np.argsort(stream.stamps, kind="stable")
    bounds = [*np.searchsorted(times, stream.stamps[order]), len(times)]
    for index, first, last in zip(order, bounds[:-1], bounds[1:], strict=True):
        message = stream.messages[index]
        if first == last or not message.points:
            continue
        ahead = [
            point.time_from_start.sec + _NS * point.time_from_start.nanosec
            for point in message.points
        ]
        due = stream.stamps[index] + np.array(ahead) / _NS
        named = list(message.joint_names)
        for column, name in enumerate(names):
            if name in named:
                positions = [point.positions[named.index(name)] for point in message.points]
                sent[first:last, column] = np.interp(times[first:last], due, positions)
    return sent
