"""Whether the streams of a recording were stamped by one clock. Times are int64 nanoseconds.

The time of receipt is the recorder's clock. How long after its stamp a message was received is
therefore about the same for all streams whose stamps are of one clock, whatever that clock says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.stream import Stream

APART_NS = 1_000_000_000  # receipt after stamp: streams that differ by more are of two clocks
# a stamp this much later than its receipt, beside one that is not, is of a clock that runs ahead
FUTURE_NS = 50_000_000
# no delay explains a stamp in the future: clocks that differ by more than this are two clocks
FUTURE_APART_NS = 250_000_000
_S = 1e-9


class ClocksDiffer(ValueError):
    """Two streams are stamped by clocks that differ: nothing of one belongs to what has the same
    stamp in the other.
    """


def with_one_clock(streams: Mapping[str, Stream], stamped: Sequence[str]) -> dict[str, Stream]:
    """Return the streams; messages without stamps get the time that the stamped ones had when they
    were received.

    A simulator's bag needs this: images and joints have its time, and a command without a stamp has
    the recorder's.

    Args:
        stamped: topics of cameras and joint states.
    """
    sources = [
        streams[topic] for topic in stamped if topic in streams and _has_stamps(streams[topic])
    ]
    if not sources:
        return dict(streams)
    source = max(sources, key=lambda stream: len(stream.stamps))
    if abs(float(np.median(_delay(source)))) <= APART_NS:
        return dict(streams)
    source = source.part(np.flatnonzero(source.log_times != source.stamps))
    order = np.argsort(source.log_times, kind="stable")
    received, stamps = source.log_times[order], source.stamps[order]
    return {
        topic: (
            replace(
                stream,
                stamps=np.where(
                    stream.log_times == stream.stamps,
                    _at(stream.log_times, received, stamps),
                    stream.stamps,
                ),
            )
            if (stream.log_times == stream.stamps).any()
            else stream
        )
        for topic, stream in streams.items()
    }


def check_clocks(
    contract: Contract, streams: Mapping[str, Stream], names: Mapping[str, str]
) -> list[str]:
    """Return sentences about clocks that differ a little.

    Args:
        names: topic to the name that the bag has for it, of cameras, joint states and commands.

    Raises:
        ClocksDiffer: two streams are so far apart that their stamps cannot be compared.
    """
    delays = {
        topic: int(np.median(_delay(streams[topic])))
        for topic in names
        if len(streams[topic].stamps)
    }
    if len(delays) < 2:
        return []
    early, late = min(delays, key=delays.get), max(delays, key=delays.get)
    ahead = delays[early] < -FUTURE_NS and delays[late] > -FUTURE_NS
    if delays[late] - delays[early] > (FUTURE_APART_NS if ahead else APART_NS):
        raise ClocksDiffer(
            f"{names[early]} and {names[late]} are on two clocks: messages of the one are"
            f" {_told(delays[early])} when they are received, of the other {_told(delays[late])};"
            " synchronise the clocks of all machines (chrony, PTP) or stamp all with one, and"
            " record again"
        )
    budget = max(contract.budgets.observation_age_s, contract.budgets.joint_state_age_s) / _S
    notes = []
    if ahead:
        notes.append(
            f"{names[early]}: messages are {_told(delays[early])} when they are received, those of"
            f" {names[late]} {_told(delays[late])}; synchronise the clocks of all machines (chrony,"
            " PTP)"
        )
    elif delays[late] - delays[early] > budget:
        notes.append(
            f"{names[late]}: messages are {_told(delays[late])} when they are received, those of"
            f" {names[early]} {_told(delays[early])}; the live policy refuses images that old: look"
            " at the network, the load and the clocks"
        )
    return notes


def _delay(stream: Stream) -> np.ndarray:
    return stream.log_times - stream.stamps


def _has_stamps(stream: Stream) -> bool:
    return bool(len(stream.stamps)) and bool((stream.log_times != stream.stamps).mean() > 0.5)


def _at(times: np.ndarray, received: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """Return the stamps at times of receipt; outside of what was received, time goes on evenly."""
    inside = np.interp(
        (times - received[0]) * _S, (received - received[0]) * _S, (stamps - stamps[0]) * _S
    )
    outside = np.minimum(times - received[0], 0) + np.maximum(times - received[-1], 0)
    return stamps[0] + np.round(inside / _S).astype(np.int64) + outside


def _told(delay: int) -> str:
    seconds = delay * _S
    if abs(seconds) > 86_400:
        return f"{abs(seconds) / 86_400:.0f} days {'old' if seconds > 0 else 'in the future'}"
    return f"{abs(seconds):.2f} s {'old' if seconds >= 0 else 'in the future'}"
