"""Read the operator's commands from messages of any supported type, and find when teleoperation had
control.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sf_training.data.bag_topics import COMMANDS, NUMBERS, TOOL
from sf_training.data.bag_units import converted
from sf_training.data.episode_reader import BagError, EpisodeReader, Stream
from sf_training.data.joint_messages import JointMessageBuilder, JointMessages
from sf_training.data.synchronisation import JointStream, Knots
from sf_training.data.tool_commands import ToolCommands, commanded_arm
from sf_training.data.trajectories import trajectory_knots
from sf_training.recording import messages
from sf_training.recording.topics import absolute

ALWAYS = np.iinfo(np.int64).max
_NOBODY, _POLICY, _TELEOPERATION = 0, 1, 2  # sf_msgs/ControlSource


def command_topic(reader: EpisodeReader) -> str:
    """Return the topic of a bag that holds the operator's commands."""
    contract = reader.contract
    joint_states = absolute(contract.topics.joint_states)
    bags = contract.bags
    if bags and bags.commands and reader.foreign:
        names = {absolute(theirs): absolute(ours) for theirs, ours in bags.topics.items()}
        if names.get(absolute(bags.commands), absolute(bags.commands)) == joint_states:
            return joint_states
    return absolute(contract.topics.teleop_command)


class Commands:
    """The operator's commands in one bag, from several topics and message types.

    Args:
        topic: of the commands.
        recording: all messages of the topic. They decide which joints the values of messages
            without joint names belong to.
        start: first image of the recording [ns], for messages.

    Raises:
        BagError: the joints of a command are unknown, or its type holds no joint positions.
    """

    def __init__(self, reader: EpisodeReader, topic: str, recording: Stream, start: int) -> None:
        self._reader, self._topic, self._start = reader, topic, start
        self._contract = reader.contract
        self._is_joint_states = isinstance(recording.messages, JointMessages)
        self._columns = {} if self._is_joint_states else self._joints_of_values(recording)
        self._recording = recording
        self._tools: dict[str, ToolCommands] = {}

    def stream(self, section: Stream, states: Stream) -> JointStream | None:
        """Return the commands in a section of the recording; None if it lacks one of a joint.

        Args:
            section: messages of the topic between two clock steps.
            states: joint states of the same section; tool commands start from them.

        Raises:
            BagError: a joint is never commanded in the recording, or a tool command cannot be used.
        """
        if not len(section.stamps):
            return None
        knots = self._knots(section, states)
        names = self._contract.command_joints
        missing = [name for name in names if name not in knots]
        if missing:
            never = set(missing) - self._commanded()
            if never:
                raise BagError(
                    f"{self._reader.path}: {self._reader.recorded_name(self._topic)}: joint"
                    f" {', '.join(sorted(never))} is never commanded; correct bags.joints, or map"
                    " the topic that commands it"
                )
            return None
        return JointStream.of_knots(names, knots)

    def uncommanded(self, section: Stream, states: Stream) -> list[str]:
        """Return the joints without a command in a section; arguments as for :meth:`stream`."""
        knots = self._knots(section, states) if len(section.stamps) else {}
        return [name for name in self._contract.command_joints if name not in knots]

    def _commanded(self) -> set[str]:
        """Return the joints that are commanded at least once in the whole recording."""
        if self._is_joint_states:
            joints = self._recording.joint_messages
            return {name for name in joints.names() if len(joints.column(name)[0])}
        found: set[str] = set().union(*self._columns.values())
        for channel, message in zip(
            self._recording.channels.tolist(), self._recording.messages, strict=True
        ):
            found |= self._named(channel, message)
        return found

    def _named(self, channel: int, message: Any) -> set[str]:
        """Return the joints that a message names; empty for messages without joint names."""
        type_name = self._reader.channel(channel).type_name
        if type_name in TOOL:
            return set(self._contract.arms[self._arm_of(channel, message)].joint_names)
        if type_name == messages.JOINT_TRAJECTORY:
            return set(message.joint_names) if message.points else set()
        if type_name == messages.JOINT_STATE:
            return set(message.name[: len(message.position)])
        return set()

    def _knots(self, section: Stream, states: Stream) -> dict[str, Knots]:
        if self._is_joint_states:
            joints = section.joint_messages
            names = joints.names() & set(self._contract.command_joints)
            columns = {name: joints.column(name) for name in names}
            found = {
                name: Knots(section.stamps[rows], values, np.zeros(len(rows), bool))
                for name, (rows, values) in columns.items()
            }
            return {name: knots for name, knots in found.items() if len(knots.stamps)}
        by_joint: dict[str, list[Knots]] = {}
        topics: dict[str, str] = {}
        for channel in np.unique(section.channels).tolist():
            rows = np.flatnonzero(section.channels == channel)
            topic = self._reader.channel(channel).topic
            for name, knots in self._of_channel(channel, section, rows, states).items():
                if topics.setdefault(name, topic) != topic:
                    raise BagError(
                        f"{self._reader.path}: joint {name} is commanded on {topics[name]} and on"
                        f" {topic}; map only one of these topics in bags.topics"
                    )
                by_joint.setdefault(name, []).append(knots)
        return {
            name: Knots(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
            for name, found in by_joint.items()
        }

    def _of_channel(
        self, channel: int, section: Stream, rows: np.ndarray, states: Stream
    ) -> dict[str, Knots]:
        """Return the knots of the messages ``rows`` of one channel, by joint."""
        type_name = self._reader.channel(channel).type_name
        stamps = section.stamps[rows]
        contents = [section.messages[row] for row in rows.tolist()]
        if type_name in TOOL:
            return self._tool_commands(channel, stamps, contents, states)
        if type_name == messages.JOINT_TRAJECTORY:
            order = np.argsort(stamps, kind="stable")
            try:
                found = trajectory_knots(
                    stamps[order],
                    [contents[row] for row in order.tolist()],
                    self._contract.command_joints,
                    self._start,
                )
            except ValueError as error:
                raise BagError(
                    f"{self._reader.path}: {self._reader.channel(channel).topic}: {error}"
                ) from None
        else:
            builder = JointMessageBuilder({})
            for message in contents:
                if type_name == messages.JOINT_STATE:
                    builder.add(message.name, message.position)
                else:
                    builder.add(self._columns[channel], numbers_of(message).tolist())
            joints = builder.built()
            self._check_named_once(channel, joints)
            columns = {
                name: joints.column(name)
                for name in joints.names() & set(self._contract.command_joints)
            }
            found = {
                name: Knots(stamps[at], values, np.zeros(len(at), bool))
                for name, (at, values) in columns.items()
                if len(at)
            }
        conversions = self._reader.conversions(channel)
        return {
            name: knots._replace(values=converted(knots.values, conversions.get(name)))
            for name, knots in found.items()
        }

    def _check_named_once(self, channel: int, joints: JointMessages) -> None:
        """Raise BagError if a message commands one joint twice."""
        twice = joints.repeated()
        if twice and twice in self._contract.command_joints:
            raise BagError(
                f"{self._reader.path}: {self._reader.channel(channel).topic}: joint {twice} is"
                " named twice in one message; correct its publisher, or bags.columns"
            )

    def _tool_commands(
        self, channel: int, stamps: np.ndarray, contents: list, states: Stream
    ) -> dict[str, Knots]:
        arms = np.array([self._arm_of(channel, message) for message in contents])
        recorded = self._reader.channel(channel)
        found: dict[str, Knots] = {}
        try:
            joints = JointStream(states.stamps, states.messages, self._contract.command_joints)
            for arm in np.unique(arms).tolist():
                if arm not in self._tools:
                    self._tools[arm] = ToolCommands(self._contract, arm)
                rows = np.flatnonzero(arms == arm)
                chosen = [contents[row] for row in rows.tolist()]
                found |= self._tools[arm].knots(
                    recorded.type_name, stamps[rows], chosen, joints, self._start
                )
        except ValueError as error:
            raise BagError(f"{self._reader.path}: {recorded.topic}: {error}") from None
        return found

    def _arm_of(self, channel: int, message: Any) -> str:
        """Return the arm whose tool a message commands."""
        topic = self._reader.channel(channel).topic
        try:
            return commanded_arm(self._contract, topic, message.header.frame_id)
        except ValueError as error:
            raise BagError(f"{self._reader.path}: {topic}: {error}") from None

    def _joints_of_values(self, recording: Stream) -> dict[int, list[str]]:
        """Return the joint of each value in every channel without joint names."""
        type_names = {
            channel: self._reader.channel(channel).type_name
            for channel in np.unique(recording.channels).tolist()
        }
        wrong = [type_name for type_name in type_names.values() if type_name not in COMMANDS]
        if wrong:
            raise BagError(
                f"{self._reader.path}: {self._topic} is a {wrong[0]}, which holds no command; use"
                " JointState, JointTrajectory, joint positions as Float64MultiArray or Float64, or"
                " PoseStamped or TwistStamped of the tool"
            )
        named: set[str] = set()
        for channel, message in zip(recording.channels.tolist(), recording.messages, strict=True):
            named |= self._named(channel, message)
        free = [name for name in self._contract.command_joints if name not in named]
        counts: dict[int, set[int]] = {
            channel: set() for channel, type_name in type_names.items() if type_name in NUMBERS
        }
        for channel, message in zip(recording.channels.tolist(), recording.messages, strict=True):
            if channel in counts:
                counts[channel].add(len(numbers_of(message)))
        found = {}
        for channel in sorted(counts, key=lambda channel: -max(counts[channel], default=0)):
            found[channel] = self._names(channel, counts[channel], free)
            free = [name for name in free if name not in found[channel]]
        return found

    def _names(self, channel: int, counts: set[int], free: list[str]) -> list[str]:
        """Return the joint of each value in a channel.

        Args:
            counts: how many values its messages hold.
            free: joints that no other topic commands, in the order of the contract.
        """
        contract = self._contract
        topic = self._reader.channel(channel).topic
        if len(counts) > 1:
            few, many = min(counts), max(counts)
            raise BagError(
                f"{self._reader.path}: {topic}: messages hold {few} to {many} values; publish the"
                " same number in every message"
            )
        (count,) = counts
        bags = contract.bags if self._reader.foreign else None
        columns = bags.columns if bags else {}
        given = next(
            (names for name, names in columns.items() if absolute(name) == absolute(topic)), None
        )
        if bags is not None and given is not None:
            if len(given) != count:
                raise BagError(
                    f"{self._reader.path}: {topic}: {count} values, but bags.columns has"
                    f" {len(given)} names; correct bags.columns"
                )
            renamed = bags.joints
            return [renamed.get(name, name) for name in given]
        if count == len(free):
            return free
        if count == len(contract.arm_joints) and free[:count] == contract.arm_joints:
            return contract.arm_joints
        raise BagError(
            f"{self._reader.path}: {topic}: {count} values for {len(free)} joints"
            f" ({', '.join(free) or 'none is left'}); name their joints in the contract:"
            f" bags.columns: {{{topic}: [one name for each value]}}"
        )


def numbers_of(message: Any) -> np.ndarray:
    """Return the values (n,) of a command without joint names."""
    return np.atleast_1d(
        np.asarray(message.data if hasattr(message, "data") else message.position, np.float64)
    )


def teleoperated_until(stamps: np.ndarray, recording: Stream, section: Stream) -> np.ndarray:
    """Return until when (N,) [ns] teleoperation keeps control after each stamp; -1 where another
    source has control.

    In a recording in which the policy never had control, it is always the operator's.

    Args:
        stamps: (N,) [ns], in one section of the recording.
        recording: all ``sf_msgs/ControlSource`` of the recording.
        section: those of the section. The last message before it gives its first source.
    """
    if _POLICY not in [message.source for message in recording.messages]:
        return np.full(len(stamps), ALWAYS)
    began = section.order[0] if len(section.order) else ALWAYS
    before = [
        message.source
        for message, order in zip(recording.messages, recording.order, strict=True)
        if order < began
    ]
    order = np.argsort(section.stamps, kind="stable")
    # The first message of a recording is latched and gives the source at its start. Before it
    # nobody has control.
    times = np.concatenate([[np.iinfo(np.int64).min], section.stamps[order]])
    source = np.array(
        [
            before[-1] if before else _NOBODY,
            *(section.messages[row].source for row in order.tolist()),
        ]
    )
    until = np.append(times[1:], ALWAYS)
    for row in range(len(source) - 2, -1, -1):  # merge consecutive messages of the same source
        if source[row] == source[row + 1]:
            until[row] = until[row + 1]
    index = np.searchsorted(times, stamps, side="right") - 1
    return np.where(source[index] == _TELEOPERATION, until[index], -1)
