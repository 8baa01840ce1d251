"""Cut and join finished episodes into new ones; the originals are never changed. No rclpy here.

Messages are copied as bytes, with the message definitions of their bag. A window that begins after
the start of its episode also gets the newest earlier message of every latched topic and the last
camera info, stamped with its beginning.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcap.records import Channel, Message, Schema

from sf_training.recording import messages
from sf_training.recording.edit.finished_episode import EditError, FinishedEpisode
from sf_training.recording.topics import Delivery, absolute, context_topics, episode_topics
from sf_training.recording.writer.episode_message import EPISODE_TOPIC
from sf_training.recording.writer.episode_writer import OUTCOMES, EpisodeWriter

SHORTEST_S = 0.1


@dataclass(frozen=True)
class Window:
    """A time window of an episode: log times in [``begin``, ``end``) [ns]."""

    source: FinishedEpisode
    begin: int
    end: int


def window(source: FinishedEpisode, begin_s: float, end_s: float | None) -> Window:
    """Return a window given in seconds after the first message of the episode.

    Args:
        end_s: None means the end of the episode.

    Raises:
        EditError: the window lies outside the episode, or is shorter than 0.1 s.
    """
    last = source.seconds if end_s is None else end_s
    if not (begin_s >= 0.0 and last <= source.seconds + 1e-3):
        raise EditError(
            f"{source.path}: lasts {source.seconds:.2f} s, so it has no {begin_s:g} to {last:g} s;"
            " choose times inside it"
        )
    if not last - begin_s >= SHORTEST_S:
        raise EditError(
            f"{source.path}: {begin_s:g} to {last:g} s is shorter than {SHORTEST_S} s; choose other"
            " times"
        )
    end = (
        source.end + 1
        if end_s is None or last >= source.seconds
        else source.begin + round(last * 1e9)
    )
    return Window(source, source.begin + round(begin_s * 1e9), end)


def pieces(source: FinishedEpisode, times_s: Sequence[float]) -> list[Window]:
    """Cut an episode at some times [s after its first message]; return the windows between them.

    Raises:
        EditError: as for :func:`window`, or the times are not strictly increasing.
    """
    if sorted(set(times_s)) != list(times_s):
        raise EditError(
            f"the times {', '.join(f'{time:g}' for time in times_s)} are not strictly increasing;"
            " give them in order"
        )
    edges = [0.0, *times_s]
    return [window(source, begin, end) for begin, end in zip(edges, [*times_s, None], strict=True)]


def joined(sources: Sequence[FinishedEpisode]) -> list[Window]:
    """Return complete episodes as windows in the order of their time, to merge them.

    Raises:
        EditError: fewer than two episodes, different contracts, or overlapping times.
    """
    if len(sources) < 2:
        raise EditError("one episode cannot be merged; give two or more")
    ordered = sorted(sources, key=lambda source: source.begin)
    first = ordered[0]
    for before, after in itertools.pairwise(ordered):
        if not first.contract.fits(after.contract):
            difference = "; ".join(first.contract.difference(after.contract)[:3])
            raise EditError(
                f"{after.path}: was recorded with another contract than {first.path}"
                f" ({difference}); merge episodes of one contract only"
            )
        if after.begin <= before.end:
            raise EditError(
                f"{after.path}: begins before {before.path} ends; merge episodes that do not"
                " overlap in time"
            )
    return [window(source, 0.0, None) for source in ordered]


def write(windows: Sequence[Window], directory: Path, name: str, outcome: str = "") -> Path:
    """Write windows, in the order of their time, as one new episode; return its directory.

    Args:
        directory: parent directory of the new episode.
        outcome: of the new episode; empty means that of the originals.

    Raises:
        EditError: the originals have different outcomes, and ``outcome`` is empty.
        EpisodeWriteError: the name exists, or the disk is full or cannot be written.
    """
    sources = [each.source for each in windows]
    outcomes = {source.outcome for source in sources}
    if not outcome and len(outcomes) > 1:
        found = ", ".join(f"{source.path.name} {source.outcome}" for source in sources)
        raise EditError(f"the outcomes differ ({found}); choose one with --outcome")
    outcome = outcome or outcomes.pop()
    if outcome not in OUTCOMES:
        raise EditError(
            f"{sources[0].path}: the outcome is {outcome or 'unknown'}; give one of"
            f" {', '.join(OUTCOMES)} with --outcome"
        )
    record, contract = sources[0].record, sources[0].contract
    instruction = sources[0].instruction_at(windows[0].begin)
    operator = ", ".join(dict.fromkeys(source.record.get("operator", "") for source in sources))
    with EpisodeWriter(
        directory, contract, instruction=instruction, operator=operator, name=name
    ) as writer:
        written_instruction = ""
        for each in windows:
            written_instruction = _copy(writer, each, written_instruction)
        verdicts = [source.record.get("verdict", "") for source in sources]
        return writer.finish(
            outcome,
            note=" ".join(dict.fromkeys(filter(None, (_note(source) for source in sources)))),
            drops=_total_drops(sources),
            verdict=max(verdicts, key=("", "PASS", "WARN", "FAIL").index) if all(verdicts) else "",
            reasons=[
                reason
                for source in sources
                for reason in json.loads(source.record.get("reasons", "[]"))
            ],
            more={
                "edited_from": json.dumps([_origin(each) for each in windows]),
                "software": record.get("software", "{}"),
            },
        )


def _copy(writer: EpisodeWriter, cut: Window, instruction: str) -> str:
    """Copy the messages of a window.

    Args:
        instruction: written last to the new episode; it is not repeated.

    Returns:
        The instruction in force at the end of the window.
    """
    source = cut.source
    instruction_topic = absolute(source.contract.topics.instruction)
    segments = {max(begin, cut.begin): text for begin, text in source.segments if begin < cut.end}
    times = sorted(segments)
    latched, has_begun = _LatchedMessages(source), False

    def write_instructions(until: int) -> None:
        nonlocal instruction
        while times and times[0] <= until:
            at = times.pop(0)
            if segments[at] != instruction:
                instruction = segments[at]
                data = bytes(messages.string(instruction))
                writer.add_topic(instruction_topic, messages.STRING)
                writer.write(instruction_topic, data, at)

    for schema, channel, message in source.messages():
        if message.log_time >= cut.end:
            break
        if channel.topic == EPISODE_TOPIC:  # the new episode gets its own
            continue
        if channel.topic == instruction_topic:  # replaced by the segments, which include labels
            _add_topic(writer, schema, channel)
            continue
        if message.log_time < cut.begin:
            latched.add(schema, channel, message)
            continue
        if not has_begun:
            has_begun = True
            for entry in latched.messages():
                _write(writer, *entry, cut.begin)
            write_instructions(cut.begin)
        write_instructions(message.log_time)
        _write(writer, schema, channel, message, message.log_time)
    return instruction


class _LatchedMessages:
    """Collect the messages that a late subscriber would still receive at the start of a window.

    These are the newest message of each latched topic and camera info. On a static topic, such as
    ``/tf_static``, several publishers each latch a message; there every different one counts.
    """

    def __init__(self, source: FinishedEpisode) -> None:
        topics = [*episode_topics(source.contract), *context_topics(source.contract)]
        self._static = {topic.name for topic in topics if topic.delivery == Delivery.STATIC}
        self._latched = {
            topic.name for topic in topics if topic.delivery == Delivery.LATCHED
        } | self._static
        self._latched |= {topic.name for topic in topics if topic.type_name == messages.CAMERA_INFO}
        self._newest: dict[tuple[str, bytes], tuple[Schema, Channel, Message]] = {}

    def add(self, schema: Schema, channel: Channel, message: Message) -> None:
        """Take a message from before the window; other topics are ignored."""
        if channel.topic in self._latched or "transient_local" in channel.metadata.get(
            "offered_qos_profiles", ""
        ):
            key = channel.topic, message.data if channel.topic in self._static else b""
            self._newest[key] = schema, channel, message

    def messages(self) -> Iterator[tuple[Schema, Channel, Message]]:
        """Yield the collected messages."""
        yield from self._newest.values()


def _write(
    writer: EpisodeWriter, schema: Schema, channel: Channel, message: Message, log_time: int
) -> None:
    _add_topic(writer, schema, channel)
    writer.write(channel.topic, message.data, log_time, min(message.publish_time, log_time))


def _add_topic(writer: EpisodeWriter, schema: Schema, channel: Channel) -> None:
    """Declare a topic as the original bag does, with its message definition."""
    described = (schema.data.decode(), channel.metadata.get("topic_type_hash", ""))
    qos_yaml = channel.metadata.get("offered_qos_profiles", "")
    writer.add_topic(channel.topic, schema.name, qos_yaml, described)


def _note(source: FinishedEpisode) -> str:
    return (source.labels and source.labels.note) or source.record.get("note", "")


def _total_drops(sources: Sequence[FinishedEpisode]) -> dict[str, int]:
    """Return the dropped messages per topic over all originals, each original counted once."""
    total: dict[str, int] = {}
    for source in {source.path: source for source in sources}.values():
        for topic, count in json.loads(source.record.get("drops", "{}")).items():
            total[topic] = total.get(topic, 0) + count
    return total


def _origin(cut: Window) -> dict:
    source = cut.source
    begin, end = ((time - source.begin) * 1e-9 for time in (cut.begin, min(cut.end, source.end)))
    return {"episode": source.path.name, "from_s": round(begin, 6), "to_s": round(end, 6)}
