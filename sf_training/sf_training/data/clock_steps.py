"""Cut a recording into sections at clock steps. Times are int64 nanoseconds.

All topics are cut together

- where the stamps of a topic go back by more than :data:`BACK_NS` (a clock was set back),
- where they gain more than :data:`AHEAD_NS` on the times of receipt (a clock was set forward),
- where the states of an arm joint are missing for more than :data:`AHEAD_NS`.

Each publisher of a topic is checked by itself, because its clock may be another one. Publishers of
joints that are not in the contract, such as wheels, are not checked. A gripper may pause.

Nothing is matched or interpolated across a cut. An unnecessary cut only costs a few labels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.joint_messages import JointMessages
from sf_training.data.stream import Stream
from sf_training.recording.topics import absolute

BACK_NS = 100_000_000  # messages that arrive out of order are closer together than this
AHEAD_NS = 500_000_000


def cut_at_clock_steps(
    streams: Mapping[str, Stream], clocks: Collection[str], contract: Contract
) -> list[dict[str, Stream]]:
    """Return the sections of a recording; nearly always it is one.

    Args:
        clocks: topics whose stamps are checked.
        contract: names the joints, and the topic of the joint states.
    """
    steps = [
        _steps(source)
        for topic in clocks
        for source in streams[topic].sources()
        if _names_any(source, contract.command_joints)
    ]
    states = streams[absolute(contract.topics.joint_states)]
    cuts = np.unique(
        np.concatenate([np.empty(0, np.int64), *steps, *_gaps(states, contract.arm_joints)])
    )
    if not len(cuts):
        return [dict(streams)]
    borders = [0, *cuts.tolist(), np.iinfo(np.int64).max]
    return [
        {
            topic: stream.take(np.flatnonzero((stream.order >= begin) & (stream.order < end)))
            for topic, stream in streams.items()
        }
        for begin, end in pairwise(borders)
    ]


def section_note(stamps: np.ndarray, start: int, problem: str) -> list[str]:
    """Return a sentence about a section that is not used; an empty list if it is short, as between
    the steps of two topics.

    Args:
        stamps: of its images (N,) [ns].
        start: first image of the recording [ns].
    """
    if not len(stamps) or np.ptp(stamps) <= AHEAD_NS:
        return []
    begin, end = ((int(each) - start) * 1e-9 for each in (stamps.min(), stamps.max()))
    section = f"section from {begin:.2f} to {end:.2f} s, cut at clock steps or gaps of joint states"
    return [f"{section}: {problem}"]


def _names_any(source: Stream, joints: Collection[str]) -> bool:
    """Return whether messages name one of the joints, or are of a type that does not name any."""
    contents = source.messages
    return not isinstance(contents, JointMessages) or not contents.names().isdisjoint(joints)


def _steps(stream: Stream) -> np.ndarray:
    """Return the order of the messages at which a clock was set."""
    passed, received = np.diff(stream.stamps), np.diff(stream.log_times)
    return stream.order[1:][(passed < -BACK_NS) | (passed - received > AHEAD_NS)]


def _gaps(states: Stream, arm_joints: Collection[str]) -> list[np.ndarray]:
    """Return the order of the messages after a gap in the states of an arm joint.

    All messages with a joint are taken together: a driver may send different sets of joints.
    """
    if not isinstance(states.messages, JointMessages):
        return []
    columns = [states.messages.column(joint)[0] for joint in arm_joints]
    found = []
    for rows in {column.tobytes(): column for column in columns}.values():
        passed = np.diff(states.stamps[rows])
        if len(passed) and np.median(passed) < AHEAD_NS / 2:  # another rate is no gap
            found.append(states.order[rows[1:]][passed > AHEAD_NS])
    return found
