"""Check that the streams of a recording are stamped by one clock. Times are int64 nanoseconds.

Times of receipt are on the clock of the recorder. The delay from stamp to receipt is therefore
about the same for all streams that are stamped by one clock, whatever its offset. The clock of a
simulator may be slower than that of the recorder. Delays are therefore compared at equal times of
receipt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sf_training.data.joint_messages import JointMessages
from sf_training.data.stream import Stream
from sf_training.recording.topics import absolute

if TYPE_CHECKING:
    from sf_training.data.episode_reader import EpisodeReader

# Streams whose delays from stamp to receipt differ by more than this are on different clocks.
APART_NS = 1_000_000_000
# A stamp so much later than its receipt is on a clock that is ahead, if other stamps are not.
FUTURE_NS = 50_000_000
# As APART_NS, for a clock that is ahead: no transport delay explains a stamp in the future.
FUTURE_APART_NS = 250_000_000
_S = 1e-9  # seconds per nanosecond


class ClocksDiffer(ValueError):
    """Two streams are stamped by different clocks, so their stamps cannot be compared."""


def with_one_clock(streams: Mapping[str, Stream], stamped: Sequence[str]) -> dict[str, Stream]:
    """Return the streams with the times of unstamped messages moved to the clock of the stamps.

    A bag of a simulator needs this: images and joint states have simulated stamps, but a command
    without a stamp has the time of its receipt.

    Args:
        streams: by topic. A message without a stamp has its time of receipt (``log_times``) in
            ``stamps``, too.
        stamped: topics of cameras and joint states, which define the clock.
    """
    sources = [
        streams[topic] for topic in stamped if topic in streams and _has_stamps(streams[topic])
    ]
    if not sources:
        return dict(streams)
    source = max(sources, key=lambda stream: len(stream.stamps))
    if abs(float(np.median(_delay(source)))) <= APART_NS:
        return dict(streams)
    received, stamps = _received_and_stamps(source)
    return {
        topic: (
            replace(
                stream,
                stamps=np.where(
                    stream.log_times == stream.stamps,
                    _stamps_at(stream.log_times, received, stamps),
                    stream.stamps,
                ),
            )
            if (stream.log_times == stream.stamps).any()
            else stream
        )
        for topic, stream in streams.items()
    }


def check_clocks(
    reader: EpisodeReader, streams: Mapping[str, Stream], topics: Collection[str]
) -> list[str]:
    """Return a sentence for each publisher whose clock differs by little.

    Args:
        topics: of cameras, joint states and commands.

    Raises:
        ClocksDiffer: the stamps of two publishers cannot be compared.
    """
    found = [
        publisher
        for topic in dict.fromkeys(topics)
        for publisher in _publishers(reader, topic, streams[topic])
    ]
    if len(found) < 2:
        return []
    delays = _typical_delays([each.stream for each in found])
    found = [replace(each, delay=delay) for each, delay in zip(found, delays, strict=True)]
    early, late = (choose(found, key=lambda each: each.delay) for choose in (min, max))
    ahead = early.delay < -FUTURE_NS and late.delay > -FUTURE_NS
    if late.delay - early.delay > (FUTURE_APART_NS if ahead else APART_NS):
        raise ClocksDiffer(
            f"{early.name} and {late.name} are on two clocks: on receipt, messages of the first"
            f" are {_age(early.delay)}, of the second {_age(late.delay)}; synchronise the"
            " clocks of all machines (chrony, PTP) or stamp all with one clock, and record again"
        )
    notes = []
    if ahead:
        notes = [
            f"{each.name}: messages are {_age(each.delay)} on receipt, those of {late.name}"
            f" {_age(late.delay)}; synchronise the clocks of all machines (chrony, PTP)"
            for each in found
            if each.delay < -FUTURE_NS
        ]
        early = min(
            (each for each in found if each.delay >= -FUTURE_NS), key=lambda each: each.delay
        )
    return notes + [
        f"{each.name}: messages are {_age(each.delay)} on receipt, those of {early.name}"
        f" {_age(early.delay)}{each.consequence}; check network, load and clocks"
        for each in found
        if each.delay - early.delay > each.budget
    ]


@dataclass(frozen=True)
class _Publisher:
    """One publisher of a topic.

    Attributes:
        name: of the topic in the bag, with the joints where others publish on it, too.
        stream: its messages.
        budget: how much longer than that of the fastest publisher it may be [ns].
        consequence: clause about a longer delay.
        delay: typical time from stamp to receipt [ns], see :func:`_typical_delays`.
    """

    name: str
    stream: Stream
    budget: float
    consequence: str
    delay: int = 0


def _publishers(reader: EpisodeReader, topic: str, stream: Stream) -> list[_Publisher]:
    """Return the publishers of a topic that matter: cameras, and those of the robot's joints."""
    contract = reader.contract
    is_camera = topic in {absolute(camera.topic) for camera in contract.cameras}
    is_state = topic == absolute(contract.topics.joint_states)
    ages_s = dict(zip(contract.command_joints, contract.joint_ages_s, strict=True))
    sources, found = stream.sources(), []
    for source in sources:
        channel = int(source.channels[0])
        name = reader.channel(channel).topic
        budget_s = contract.budgets.joint_state_age_s
        if is_camera:
            budget_s = contract.budgets.observation_age_s
        elif isinstance(source.messages, JointMessages):
            joints = [joint for joint in ages_s if joint in source.messages.names()]
            if not joints:  # of another robot, or of a base
                continue
            budget_s = min(ages_s[joint] for joint in joints)
            if sum(int(each.channels[0]) == channel for each in sources) > 1:
                name += f" ({', '.join(joints)})"
        consequence = (
            f", and the live policy refuses them after {budget_s:g} s"
            if is_camera or is_state
            else ", so labels come from earlier commands"
        )
        found.append(_Publisher(name, source, budget_s / _S, consequence))
    return found


def _typical_delays(streams: Sequence[Stream]) -> list[int]:
    """Return the typical time from stamp to receipt of the messages of each stream [ns].

    With the delays d of a stream and r of a reference, both at the times of receipt of the stream,
    it is median(d - r) + median(r). The reference is a dense stream of the whole recording.
    """
    spans = [int(np.ptp(stream.log_times)) for stream in streams]
    reference = max(
        (each for each, span in zip(streams, spans, strict=True) if span >= 0.9 * max(spans)),
        key=lambda each: len(each.stamps),
    )
    order = np.argsort(reference.log_times, kind="stable")
    received, delays = reference.log_times[order], _delay(reference)[order]
    # Relative to the first message: absolute nanoseconds exceed the precision of float64.
    begin, first = received[0], delays[0]
    typical = int(np.median(delays - first)) + int(first)
    found = []
    for stream in streams:
        expected = np.interp(
            (stream.log_times - begin) * _S, (received - begin) * _S, delays - first
        )
        found.append(typical + round(float(np.median(_delay(stream) - first - expected))))
    return found


def _delay(stream: Stream) -> np.ndarray:
    """Return the times from stamp to receipt (N,) [ns]; negative for stamps in the future."""
    return stream.log_times - stream.stamps


def on_clock_of(stream: Stream, times: np.ndarray) -> np.ndarray:
    """Return times of receipt (N,) on the clock of a stream's stamps [ns]; unchanged if that is the
    clock of the recorder.
    """
    if not _has_stamps(stream) or abs(float(np.median(_delay(stream)))) <= APART_NS:
        return times
    return _stamps_at(times, *_received_and_stamps(stream))


def _received_and_stamps(stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Return times of receipt and stamps of the stamped messages, sorted by receipt."""
    stamped = np.flatnonzero(stream.log_times != stream.stamps)
    order = stamped[np.argsort(stream.log_times[stamped], kind="stable")]
    return stream.log_times[order], stream.stamps[order]


def _has_stamps(stream: Stream) -> bool:
    return bool(len(stream.stamps)) and bool((stream.log_times != stream.stamps).mean() > 0.5)


def _stamps_at(times: np.ndarray, received: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """Return the stamps that correspond to times of receipt, by linear interpolation.

    Args:
        times: of receipt.
        received, stamps: of the stamped messages, sorted by receipt. Outside of them the offset of
            the nearest message is used.
    """
    # Relative to the first message: absolute nanoseconds exceed the precision of float64.
    inside = np.interp(
        (times - received[0]) * _S, (received - received[0]) * _S, (stamps - stamps[0]) * _S
    )
    outside = np.minimum(times - received[0], 0) + np.maximum(times - received[-1], 0)
    return stamps[0] + np.round(inside / _S).astype(np.int64) + outside


def _age(delay: int) -> str:
    """Return a delay from stamp to receipt in words."""
    seconds = delay * _S
    if abs(seconds) > 86_400:
        return f"{abs(seconds) / 86_400:.0f} days {'old' if seconds > 0 else 'in the future'}"
    return f"{abs(seconds):.2f} s {'old' if seconds >= 0 else 'in the future'}"
