"""What the operator commanded, whatever type it was published as, and when it was really the
operator who moved the arm.
"""

from __future__ import annotations

import numpy as np

from sf_training.data.bag_topics import COMMANDS, NUMBERS, TOOL
from sf_training.data.bag_units import converted
from sf_training.data.episode_reader import BagError, EpisodeReader, Stream
from sf_training.data.joint_messages import JointMessageBuilder, JointMessages
from sf_training.data.synchronisation import JointStream, Knots
from sf_training.data.tool_commands import ToolCommands
from sf_training.data.trajectories import trajectory_knots
from sf_training.recording import messages
from sf_training.recording.topics import absolute

ALWAYS = np.iinfo(np.int64).max
_NOBODY, _POLICY, _TELEOPERATION = 0, 1, 2  # sf_msgs/ControlSource


def command_topic(reader: EpisodeReader) -> str:
    """The topic of this bag that holds the operator's commands."""
    contract = reader.contract
    joint_states = absolute(contract.topics.joint_states)
    bags = contract.bags
    if bags and bags.commands and reader.foreign:
        names = {absolute(theirs): absolute(ours) for theirs, ours in bags.topics.items()}
        if names.get(absolute(bags.commands), absolute(bags.commands)) == joint_states:
            return joint_states
    return absolute(contract.topics.teleop_command)


class Commands:
    """The operator's commands of one bag: from several topics and types, trajectories by the times
    of their points.

    Args:
        whole: of the whole recording, which tells what the numbers of unnamed commands mean.

    Raises:
        BagError: a command does not say which joints it is for, or is of a type that holds no joint
            positions.
    """

    def __init__(self, reader: EpisodeReader, topic: str, whole: Stream) -> None:
        self._reader, self._topic = reader, topic
        self._contract = reader.contract
        self._is_plain = isinstance(whole.messages, JointMessages)
        self._columns = {} if self._is_plain else self._numbered(whole)
        self._whole = whole
        self._tool: ToolCommands | None = None

    def stream(self, part: Stream, states: Stream) -> JointStream | None:
        """Return the commands in a part of the recording; None where not every joint is commanded
        in it.

        Args:
            states: joint states of the same part, from which commands for the tool start.

        Raises:
            BagError: a joint is never commanded, or a command is not a finite number.
        """
        if not len(part.stamps):
            return None
        knots = self._knots(part, states)
        names = self._contract.command_joints
        missing = [name for name in names if name not in knots]
        if missing:
            never = set(missing) - self._commanded()
            if never:
                raise BagError(
                    f"{self._reader.path}: {self._reader.recorded_name(self._topic)}: joint"
                    f" {', '.join(sorted(never))} is never commanded; correct bags.joints, or map the topic"
                    " that commands it, too"
                )
            return None
        return JointStream.of_knots(names, knots)

    def _commanded(self) -> set[str]:
        """Return the joints that are commanded at least once in the whole recording."""
        if self._is_plain:
            joints = self._whole.messages
            return {name for name in joints.names() if len(joints.column(name)[0])}
        found: set[str] = set().union(*self._columns.values())
        for channel, message in zip(
            self._whole.channels.tolist(), self._whole.messages, strict=True
        ):
            found |= self._named(self._reader.channel(channel).type_name, message)
        return found

    def _named(self, kind: str, message: object) -> set[str]:
        """Return the joints that a message commands by their names; none of numbers."""
        if kind in TOOL:
            return set(self._contract.arm_joints)
        if kind == messages.JOINT_TRAJECTORY:
            return set(message.joint_names) if message.points else set()
        if kind == messages.JOINT_STATE:
            return set(message.name[: len(message.position)])
        return set()

    def _knots(self, part: Stream, states: Stream) -> dict[str, Knots]:
        if self._is_plain:
            names = part.messages.names() & set(self._contract.command_joints)
            columns = {name: part.messages.column(name) for name in names}
            found = {
                name: Knots(part.stamps[rows], values, np.zeros(len(rows), bool))
                for name, (rows, values) in columns.items()
            }
            return {name: knots for name, knots in found.items() if len(knots.stamps)}
        parts: dict[str, list[Knots]] = {}
        for channel in np.unique(part.channels).tolist():
            rows = np.flatnonzero(part.channels == channel)
            for name, knots in self._of_channel(channel, part, rows, states).items():
                parts.setdefault(name, []).append(knots)
        return {
            name: Knots(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
            for name, found in parts.items()
        }

    def _of_channel(
        self, channel: int, part: Stream, rows: np.ndarray, states: Stream
    ) -> dict[str, Knots]:
        kind = self._reader.channel(channel).type_name
        stamps = part.stamps[rows]
        contents = [part.messages[row] for row in rows.tolist()]
        if kind in TOOL:
            return self._for_the_tool(channel, stamps, contents, states)
        if kind == messages.JOINT_TRAJECTORY:
            order = np.argsort(stamps, kind="stable")
            try:
                found = trajectory_knots(
                    stamps[order],
                    [contents[row] for row in order.tolist()],
                    self._contract.command_joints,
                )
            except ValueError as error:
                raise BagError(
                    f"{self._reader.path}: {self._reader.channel(channel).topic}: {error}"
                ) from None
        else:
            builder = JointMessageBuilder({})
            for message in contents:
                if kind == messages.JOINT_STATE:
                    builder.add(message.name, message.position)
                else:
                    builder.add(self._columns[channel], numbers_of(message))
            joints = builder.built()
            columns = {
                name: joints.column(name)
                for name in joints.names() & set(self._contract.command_joints)
            }
            found = {
                name: Knots(stamps[at], values, np.zeros(len(at), bool))
                for name, (at, values) in columns.items()
                if len(at)
            }
        lines = self._reader.lines(channel)
        found = {
            name: knots._replace(values=converted(knots.values, lines.get(name)))
            for name, knots in found.items()
        }
        return found

    def _for_the_tool(
        self, channel: int, stamps: np.ndarray, contents: list, states: Stream
    ) -> dict[str, Knots]:
        self._tool = self._tool or ToolCommands(self._contract)
        recorded = self._reader.channel(channel)
        try:
            joints = JointStream(states.stamps, states.messages, self._contract.command_joints)
            return self._tool.knots(recorded.type_name, stamps, contents, joints)
        except ValueError as error:
            raise BagError(f"{self._reader.path}: {recorded.topic}: {error}") from None

    def _numbered(self, whole: Stream) -> dict[int, list[str]]:
        """Return the joints of the numbers in every channel without names."""
        kinds = {
            channel: self._reader.channel(channel).type_name
            for channel in np.unique(whole.channels).tolist()
        }
        wrong = [kind for kind in kinds.values() if kind not in COMMANDS]
        if wrong:
            raise BagError(
                f"{self._reader.path}: {self._topic} is a {wrong[0]}; commands must be JointState,"
                " JointTrajectory, numbers (Float64MultiArray, Float64) that are joint positions,"
                " PoseStamped or TwistStamped of the tool"
            )
        named: set[str] = set()
        for channel, message in zip(whole.channels.tolist(), whole.messages, strict=True):
            named |= self._named(kinds[channel], message)
        free = [name for name in self._contract.command_joints if name not in named]
        counts: dict[int, set[int]] = {
            channel: set() for channel, kind in kinds.items() if kind in NUMBERS
        }
        for channel, message in zip(whole.channels.tolist(), whole.messages, strict=True):
            if channel in counts:
                counts[channel].add(len(numbers_of(message)))
        found = {}
        for channel in sorted(counts, key=lambda channel: -max(counts[channel], default=0)):
            found[channel] = self._names(channel, counts[channel], free)
            free = [name for name in free if name not in found[channel]]
        return found

    def _names(self, channel: int, counts: set[int], free: list[str]) -> list[str]:
        """Return the names of the numbers in a channel, given the joints that no other topic
        commands.
        """
        contract = self._contract
        topic = self._reader.channel(channel).topic
        if len(counts) > 1:
            few, many = min(counts), max(counts)
            raise BagError(
                f"{self._reader.path}: {topic}: messages hold {few} to {many} numbers; they must"
                " all be alike"
            )
        (count,) = counts
        columns = contract.bags.columns if contract.bags and self._reader.foreign else {}
        given = next(
            (names for name, names in columns.items() if absolute(name) == absolute(topic)), None
        )
        if given is not None:
            if len(given) != count:
                raise BagError(
                    f"{self._reader.path}: {topic}: {count} numbers, but bags.columns names"
                    f" {len(given)}; correct it"
                )
            renamed = contract.bags.joints
            return [renamed.get(name, name) for name in given]
        if count == len(free):
            return free
        if count == len(contract.arm_joints) and free[:count] == contract.arm_joints:
            return contract.arm_joints
        raise BagError(
            f"{self._reader.path}: {topic}: {count} numbers for {len(free)} joints"
            f" ({', '.join(free) or 'none is left'}); say which is which in the contract:"
            f" bags.columns: {{{topic}: [one name for each number]}}"
        )


def numbers_of(message: object) -> np.ndarray:
    """Return the numbers (n,) of a command without joint names."""
    return np.atleast_1d(
        np.asarray(message.data if hasattr(message, "data") else message.position, float)
    )


def operators_time(stamps: np.ndarray, whole: Stream, part: Stream) -> np.ndarray:
    """Until when (N,) [ns] the operator goes on leading the arm after each time; -1 where somebody
    else does.

    In an episode in which no policy moved the arm it is the operator's all the time.

    Args:
        stamps: (N,) [ns], of one part of the recording.
        whole: ``sf_msgs/ControlSource`` of the whole recording.
        part: of that part; who led when it began is told by the last message before.
    """
    if _POLICY not in [message.source for message in whole.messages]:
        return np.full(len(stamps), ALWAYS)
    began = part.order[0] if len(part.order) else ALWAYS
    before = [
        message.source
        for message, order in zip(whole.messages, whole.order, strict=True)
        if order < began
    ]
    order = np.argsort(part.stamps, kind="stable")
    # At the very beginning of a recording the latched message tells who has led for long; nobody
    # did before it.
    times = np.concatenate([[np.iinfo(np.int64).min], part.stamps[order]])
    who = np.array(
        [before[-1] if before else _NOBODY, *(part.messages[row].source for row in order.tolist())]
    )
    ends = np.append(times[1:], ALWAYS)
    for row in range(
        len(who) - 2, -1, -1
    ):  # two stretches of the operator that follow each other are one
        if who[row] == who[row + 1]:
            ends[row] = ends[row + 1]
    index = np.searchsorted(times, stamps, side="right") - 1
    return np.where(who[index] == _TELEOPERATION, ends[index], -1)
