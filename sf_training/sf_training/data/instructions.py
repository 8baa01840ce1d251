"""Find the instruction in force at each time of a recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sf_training.data.clock_offsets import on_clock_of
from sf_training.data.custom_data import instruction_text
from sf_training.data.stream import Stream
from sf_training.recording.topics import absolute

LATE_NS = 1_000_000_000  # a later first instruction of another recorder gets a note

if TYPE_CHECKING:
    from sf_training.data.episode_reader import EpisodeReader


class Instructions:
    """The instructions of a bag in the order of their time.

    An instruction or segments from a label replace the recorded ones. Otherwise an instruction
    holds from its message on. In a bag of another recorder, messages before the first image count
    too, because the instruction may have been latched.

    Args:
        stream: ``std_msgs/String`` on the instruction topic, on the clock of the cameras.
        start: first image [ns]. In a bag of this suite the instruction of the episode replaces
            messages before it.
        clock: images of a camera. Labels are given in times of receipt.

    Attributes:
        texts: the instructions.
        note: a sentence if the first instruction of another recorder came long after the first
            image; else empty.
    """

    def __init__(self, reader: EpisodeReader, stream: Stream, start: int, clock: Stream) -> None:
        self._times, self.texts = [np.iinfo(np.int64).min], [reader.instruction]
        self.note = ""
        if reader.relabelled:
            for seconds, text in reader.label_segments[1:]:
                received = np.array([reader.bag.start + round(seconds * 1e9)])
                self._times.append(int(on_clock_of(clock, received)[0]))
                self.texts.append(text)
            return
        if reader.foreign:
            self.note = _note(stream, start)
        for stamp, message in zip(stream.stamps.tolist(), stream.messages, strict=True):
            text = instruction_text(message.data)
            if text and text != self.texts[-1] and (reader.foreign or stamp > start):
                self._times.append(stamp)
                self.texts.append(text)

    def at(self, times: np.ndarray) -> list[str]:
        """Return the instruction in force at each time (N,) [ns]."""
        order = np.argsort(self._times, kind="stable")
        index = np.searchsorted(np.array(self._times)[order], times, side="right") - 1
        return [self.texts[order[row]] for row in index.tolist()]

    @classmethod
    def of_recording(cls, reader: EpisodeReader, streams: Mapping[str, Stream]) -> Instructions:
        """Return the instructions of a recording, from its streams on one clock."""
        contract = reader.contract
        cameras = [streams[absolute(camera.topic)] for camera in reader.recorded_cameras]
        start = min(int(stream.stamps.min()) for stream in cameras)
        stream = streams[absolute(contract.topics.instruction)]
        return cls(reader, stream, start, max(cameras, key=lambda camera: len(camera.stamps)))

    @property
    def different(self) -> list[str]:
        """Each text once, in the order of its first use."""
        return list(dict.fromkeys(self.texts))


def _note(stream: Stream, start: int) -> str:
    stamps = [
        stamp
        for stamp, message in zip(stream.stamps.tolist(), stream.messages, strict=True)
        if instruction_text(message.data)
    ]
    late = min(stamps, default=start) - start
    if late <= LATE_NS:
        return ""
    return (
        f"the first instruction came {late * 1e-9:.2f} s after the first image and is used from the"
        " beginning; choose others with `relabel --at`"
    )
