"""Cut a recording into sections at clock steps. Times are int64 nanoseconds.

All topics are cut together

- where the stamps of a topic go back by more than :data:`BACK_NS` (a clock was set back),
- where they gain more than :data:`AHEAD_NS` on the times of receipt (a clock was set forward),
- where joint states are missing for more than :data:`AHEAD_NS`.

Each publisher of a topic is checked by itself, because its clock may be another one.

Nothing is matched or interpolated across a cut. An unnecessary cut only costs a few labels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

import numpy as np

from sf_training.data.episode_reader import Stream

BACK_NS = 100_000_000  # messages that arrive out of order are closer together than this
AHEAD_NS = 500_000_000


def cut_at_clock_steps(
    streams: Mapping[str, Stream], clocks: Collection[str], joint_states: str
) -> list[dict[str, Stream]]:
    """Return the sections of a recording; nearly always it is one.

    Args:
        clocks: topics whose stamps are checked.
        joint_states: topic of the joint states, which are published without pause.
    """
    cuts = np.unique(
        np.concatenate(
            [
                _steps(source, gaps=topic == joint_states)
                for topic in clocks
                for source in streams[topic].sources() or [streams[topic]]
            ]
        )
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


def _steps(stream: Stream, *, gaps: bool) -> np.ndarray:
    """Return the order of the messages at which a section begins."""
    passed, received = np.diff(stream.stamps), np.diff(stream.log_times)
    step = (passed < -BACK_NS) | (passed - received > AHEAD_NS)
    if gaps and len(passed) and np.median(passed) < AHEAD_NS / 2:  # a gripper may be slower
        step |= passed > AHEAD_NS
    return stream.order[1:][step]
