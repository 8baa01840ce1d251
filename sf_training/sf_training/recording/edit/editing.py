"""Cuts and joins finished episodes: new episodes are written, the originals are never touched. No
rclpy here.

Messages are copied as bytes, with the definitions of their bag. A part that begins later also gets
what held at its
beginning: the newest message of every latched topic, and the last camera info.
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
    """A part of an episode: log times from ``begin`` up to, but not including, ``end`` [ns]."""

    source: FinishedEpisode
    begin: int
    end: int


def window(source: FinishedEpisode, begin_s: float, end_s: float | None) -> Window:
    """Chooses a part by seconds after the episode's first message; ``end_s`` None: to the end.

    Raises:
        EditError: it lies outside the episode, or is shorter than 0.1 s.
    """
    last = source.seconds if end_s is None else end_s
    if not (begin_s >= 0.0 and last <= source.seconds + 1e-3):
        raise EditError(
            f"{source.path}: lasts {source.seconds:.2f} s, and {begin_s:g} to {last:g} s were"
            " asked for"
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
    """Cuts a whole episode at some times.

    Raises:
        EditError: as for :func:`window`, or the times do not rise.
    """
    if sorted(set(times_s)) != list(times_s):
        raise EditError(f"the times {', '.join(f'{time:g}' for time in times_s)} must rise")
    edges = [0.0, *times_s]
    return [window(source, begin, end) for begin, end in zip(edges, [*times_s, None], strict=True)]


def joined(sources: Sequence[FinishedEpisode]) -> list[Window]:
    """Puts whole episodes one after the other, by their time.

    Raises:
        EditError: fewer than two, of other robots or outcomes, or recorded at the same time.
    """
    if len(sources) < 2:
        raise EditError("give two episodes or more to merge")
    ordered = sorted(sources, key=lambda source: source.begin)
    first = ordered[0]
    for before, after in itertools.pairwise(ordered):
        if after.contract.hash != first.contract.hash:
            difference = "; ".join(first.contract.difference(after.contract)[:3])
            raise EditError(
                f"{after.path}: was recorded with another contract than {first.path} ({difference})"
            )
        if after.begin <= before.end:
            raise EditError(
                f"{after.path}: begins before {before.path} ends, so they cannot be one after the"
                " other"
            )
    return [window(source, 0.0, None) for source in ordered]


def write(windows: Sequence[Window], directory: Path, name: str, outcome: str = "") -> Path:
    """Writes windows, which follow each other in time, as one new episode; returns its directory.

    Args:
        outcome: of the new episode; empty: that of the originals.

    Raises:
        EditError: the originals differ in their outcome, and none is given.
        EpisodeWriteError: the name is taken, or the disk refuses.
    """
    sources = [each.source for each in windows]
    outcomes = {source.outcome for source in sources}
    if not outcome and len(outcomes) > 1:
        told = ", ".join(f"{source.path.name} {source.outcome}" for source in sources)
        raise EditError(
            f"the outcomes differ ({told}); say which the new episode has with --outcome"
        )
    outcome = outcome or outcomes.pop()
    if outcome not in OUTCOMES:
        raise EditError(
            f"{sources[0].path}: its outcome is {outcome or 'unknown'}; say one of"
            f" {', '.join(OUTCOMES)} with --outcome"
        )
    record, contract = sources[0].record, sources[0].contract
    instruction = sources[0].instruction_at(windows[0].begin)
    operator = ", ".join(dict.fromkeys(source.record.get("operator", "") for source in sources))
    with EpisodeWriter(
        directory, contract, instruction=instruction, operator=operator, name=name
    ) as writer:
        said = ""
        for each in windows:
            said = _copy(writer, each, said)
        verdicts = [source.record.get("verdict", "") for source in sources]
        return writer.finish(
            outcome,
            note=" ".join(dict.fromkeys(filter(None, (_note(source) for source in sources)))),
            drops=_added(sources),
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


def _copy(writer: EpisodeWriter, part: Window, said: str) -> str:
    """Copies a window's messages; returns the instruction in force at its end."""
    source = part.source
    instruction_topic = absolute(source.contract.topics.instruction)
    segments = {max(begin, part.begin): text for begin, text in source.segments if begin < part.end}
    times = sorted(segments)
    carried, copied = _Carried(source), False

    def say(until: int) -> None:
        nonlocal said
        while times and times[0] <= until:
            at = times.pop(0)
            if segments[at] != said:
                said = segments[at]
                data = bytes(messages.string(said))
                _announce(writer, instruction_topic, messages.STRING, "", None)
                writer.write(instruction_topic, data, at)

    for schema, channel, message in source.messages():
        if message.log_time >= part.end:
            break
        if channel.topic == EPISODE_TOPIC:  # the new episode gets its own
            continue
        if channel.topic == instruction_topic:  # replaced by the segments, in which labels count
            _announce(
                writer,
                channel.topic,
                schema.name,
                channel.metadata.get("offered_qos_profiles", ""),
                _described(schema, channel),
            )
            continue
        if message.log_time < part.begin:
            carried.add(schema, channel, message)
            continue
        if not copied:
            copied = True
            for entry in carried.messages():
                _write(writer, *entry, part.begin)
            say(part.begin)
        say(message.log_time)
        _write(writer, schema, channel, message, message.log_time)
    return said


class _Carried:
    """What held before a window: the newest message of each latched topic, of several publishers'
    static ones each different.
    """

    def __init__(self, source: FinishedEpisode) -> None:
        topics = [*episode_topics(source.contract), *context_topics(source.contract)]
        kinds = {topic.name: topic.delivery for topic in topics}
        self._static = {name for name, kind in kinds.items() if kind == Delivery.STATIC}
        self._latched = {
            name for name, kind in kinds.items() if kind == Delivery.LATCHED
        } | self._static
        self._latched |= {topic.name for topic in topics if topic.type_name == messages.CAMERA_INFO}
        self._newest: dict[tuple[str, bytes], tuple[Schema, Channel, Message]] = {}

    def add(self, schema: Schema, channel: Channel, message: Message) -> None:
        """Takes a message before the window."""
        if channel.topic in self._latched or "transient_local" in channel.metadata.get(
            "offered_qos_profiles", ""
        ):
            key = channel.topic, message.data if channel.topic in self._static else b""
            self._newest[key] = schema, channel, message

    def messages(self) -> Iterator[tuple[Schema, Channel, Message]]:
        """Yields what holds at the window's beginning."""
        yield from self._newest.values()


def _write(
    writer: EpisodeWriter, schema: Schema, channel: Channel, message: Message, log_time: int
) -> None:
    _announce(
        writer,
        channel.topic,
        schema.name,
        channel.metadata.get("offered_qos_profiles", ""),
        _described(schema, channel),
    )
    writer.write(channel.topic, message.data, log_time, min(message.publish_time, log_time))


def _announce(
    writer: EpisodeWriter,
    topic: str,
    type_name: str,
    qos_yaml: str,
    described: tuple[str, str] | None,
) -> None:
    writer.add_topic(topic, type_name, qos_yaml, described)


def _described(schema: Schema, channel: Channel) -> tuple[str, str]:
    return schema.data.decode(), channel.metadata.get("topic_type_hash", "")


def _note(source: FinishedEpisode) -> str:
    return (source.labels and source.labels.note) or source.record.get("note", "")


def _added(sources: Sequence[FinishedEpisode]) -> dict[str, int]:
    total: dict[str, int] = {}
    for source in {source.path: source for source in sources}.values():
        for topic, count in json.loads(source.record.get("drops", "{}")).items():
            total[topic] = total.get(topic, 0) + count
    return total


def _origin(part: Window) -> dict:
    source = part.source
    begin, end = ((time - source.begin) * 1e-9 for time in (part.begin, min(part.end, source.end)))
    return {"episode": source.path.name, "from_s": round(begin, 6), "to_s": round(end, 6)}
