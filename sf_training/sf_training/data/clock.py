"""Where a recording must be cut, because what lies before and after does not belong to one time
line. Times are int64 nanoseconds.

A cut is made, for all topics at once, where the stamps of a topic go back by more than
:data:`BACK_NS` (a clock was set), where they run ahead of the times of receipt by more than
:data:`AHEAD_NS` at once (another clock was set), and where joint states are missing for longer than
that. Nothing is joined or interpolated over a cut. A cut too many costs a few labels and does no
harm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

import numpy as np

from sf_training.data.episode_reader import Stream

BACK_NS = 100_000_000  # messages that overtake each other are nearer than this
AHEAD_NS = 500_000_000


def cut_at_clock_steps(
    streams: Mapping[str, Stream], clocks: Collection[str], joint_states: str
) -> list[dict[str, Stream]]:
    """The recording in parts, each with one time line; one part in nearly all cases.

    Args:
        clocks: topics whose stamps count.
        joint_states: topic of the joint states, which never pause.
    """
    cuts = np.unique(
        np.concatenate([_steps(streams[topic], gaps=topic == joint_states) for topic in clocks])
    )
    if not len(cuts):
        return [dict(streams)]
    borders = [0, *cuts.tolist(), np.iinfo(np.int64).max]
    return [
        {
            topic: stream.part(np.flatnonzero((stream.order >= begin) & (stream.order < end)))
            for topic, stream in streams.items()
        }
        for begin, end in pairwise(borders)
    ]


def _steps(stream: Stream, *, gaps: bool) -> np.ndarray:
    """Order of the messages that begin another time line."""
    passed, received = np.diff(stream.stamps), np.diff(stream.log_times)
    step = (passed < -BACK_NS) | (passed - received > AHEAD_NS)
    if gaps:
        step |= passed > AHEAD_NS
    return stream.order[1:][step]
