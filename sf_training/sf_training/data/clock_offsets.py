"""Check that the streams of a recording are stamped by one clock. Times are int64 nanoseconds.

Times of receipt are on the clock of the recorder. The delay from stamp to receipt is therefore
about the same for all streams that are stamped by one clock, whatever its offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.stream import Stream

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
    source = source.take(np.flatnonzero(source.log_times != source.stamps))
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
    """Return a sentence if two clocks differ by little, else an empty list.

    Args:
        names: topics of cameras, joint states and commands, and their names in the bag.

    Raises:
        ClocksDiffer: the stamps of two streams cannot be compared.
    """
    delays = {
        topic: int(np.median(_delay(streams[topic])))
        for topic in names
        if len(streams[topic].stamps)
    }
    if len(delays) < 2:
        return []
    early, late = min(delays, key=delays.__getitem__), max(delays, key=delays.__getitem__)
    ahead = delays[early] < -FUTURE_NS and delays[late] > -FUTURE_NS
    if delays[late] - delays[early] > (FUTURE_APART_NS if ahead else APART_NS):
        raise ClocksDiffer(
            f"{names[early]} and {names[late]} are on two clocks: on receipt, messages of the first"
            f" are {_age(delays[early])}, of the second {_age(delays[late])}; synchronise the"
            " clocks of all machines (chrony, PTP) or stamp all with one clock, and record again"
        )
    budget = max(contract.budgets.observation_age_s, contract.budgets.joint_state_age_s) / _S
    notes = []
    if ahead:
        notes.append(
            f"{names[early]}: messages are {_age(delays[early])} on receipt, those of"
            f" {names[late]} {_age(delays[late])}; synchronise the clocks of all machines (chrony,"
            " PTP)"
        )
    elif delays[late] - delays[early] > budget:
        notes.append(
            f"{names[late]}: messages are {_age(delays[late])} on receipt, those of {names[early]}"
            f" {_age(delays[early])}, and the live policy refuses such old images; check network,"
            " load and clocks"
        )
    return notes


def _delay(stream: Stream) -> np.ndarray:
    """Return the times from stamp to receipt (N,) [ns]; negative for stamps in the future."""
    return stream.log_times - stream.stamps


def _has_stamps(stream: Stream) -> bool:
    return bool(len(stream.stamps)) and bool((stream.log_times != stream.stamps).mean() > 0.5)


def _at(times: np.ndarray, received: np.ndarray, stamps: np.ndarray) -> np.ndarray:
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
