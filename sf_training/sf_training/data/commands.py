"""What the operator commanded, whatever type it was published as, and when it was really the operator who moved the arm."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.episode_reader import BagError, EpisodeReader, Stream
from sf_training.recording import messages
from sf_training.recording.topics import absolute

ALWAYS = np.iinfo(np.int64).max
_NOBODY, _POLICY, _TELEOPERATION = 0, 1, 2  # sf_msgs/ControlSource


def command_topic(reader: EpisodeReader) -> str:
    """The topic of this bag that holds the operator's commands."""
    contract = reader.contract
    joint_states = absolute(contract.topics.joint_states)
    bags = contract.bags
    if bags and bags.commands and not reader.metadata:
        names = {absolute(theirs): absolute(ours) for theirs, ours in bags.topics.items()}
        if names.get(absolute(bags.commands), absolute(bags.commands)) == joint_states:
            return joint_states
    return absolute(contract.topics.teleop_command)


def as_joint_states(reader: EpisodeReader, topic: str, stream: Stream) -> list:
    """Messages with ``name`` and ``position``.

    Raises:
        BagError: the topic is of a type that says no joint positions.
    """
    kind = reader.topics.get(topic, messages.JOINT_STATE)
    if kind == messages.JOINT_STATE:
        return stream.messages
    if kind == messages.JOINT_TRAJECTORY:
        return [
            SimpleNamespace(name=message.joint_names, position=message.points[-1].positions if message.points else [])
            for message in stream.messages
        ]
    if kind == messages.NUMBERS:
        return [SimpleNamespace(name=_joints(reader.contract, message.data.size), position=message.data) for message in stream.messages]
    raise BagError(f"{reader.path}: {topic} is a {kind}; commands must be JointState, JointTrajectory or Float64MultiArray of positions")


def operators_time(stamps: np.ndarray, whole: Stream, part: Stream) -> np.ndarray:
    """Until when (N,) [ns] the operator goes on leading the arm after each time; -1 where somebody else does.

    In an episode in which no policy moved the arm it is the operator's all the time.

    Args:
        stamps: (N,) [ns], of one part of the recording.
        whole: ``sf_msgs/ControlSource`` of the whole recording.
        part: of that part; who led when it began is told by the last message before.
    """
    if _POLICY not in [message.source for message in whole.messages]:
        return np.full(len(stamps), ALWAYS)
    began = part.order[0] if len(part.order) else ALWAYS
    before = [message.source for message, order in zip(whole.messages, whole.order, strict=True) if order < began]
    order = np.argsort(part.stamps, kind="stable")
    # At the very beginning of a recording the latched message tells who has led for long; nobody did before it.
    times = np.concatenate([[np.iinfo(np.int64).min], part.stamps[order]])
    who = np.array([before[-1] if before else _NOBODY, *(part.messages[row].source for row in order.tolist())])
    ends = np.append(times[1:], ALWAYS)
    for row in range(len(who) - 2, -1, -1):  # two stretches of the operator that follow each other are one
        if who[row] == who[row + 1]:
            ends[row] = ends[row + 1]
    index = np.searchsorted(times, stamps, side="right") - 1
    return np.where(who[index] == _TELEOPERATION, ends[index], -1)


def _joints(contract: Contract, count: int) -> list[str]:
    """Names of a message that holds numbers only: the arm's joints in order, then the gripper's where there is one number more."""
    return contract.command_joints[:count]
