"""Tell a new instruction from a repeated one: ``ros2 topic pub`` sends the same text once a second
for as long as it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

_STREAM_S = 3.0  # the same text again within this time may come from a program that repeats it
_SILENT_S = 10.0  # a program that repeats its text and was silent for so long has ended


class Kind(Enum):
    """What a message on the instruction topic is."""

    NEW = auto()
    """Another text than its publisher sent last, or the first of this publisher."""
    AGAIN = auto()
    """The same text once more, on purpose."""
    REPEATED = auto()
    """The same text in a steady stream."""
    STOPPED = auto()
    """The text that was stopped, from a publisher that may be repeating it since before the
    stop.
    """


@dataclass
class _Sent:
    text: str
    at: float
    is_stream: bool = False
    is_stopped: bool = False


class InstructionRepeats:
    """Remember the last text of every publisher. Times of a monotonic clock [s]."""

    def __init__(self) -> None:
        self._sent: dict[str, _Sent] = {}

    def receive(self, publisher: str, text: str, now: float) -> Kind:
        """Take a message and return what it is."""
        last = self._sent.get(publisher)
        if last is None or last.text != text:
            self._sent[publisher] = _Sent(text, now)
            return Kind.NEW
        silence, last.at = now - last.at, now
        if silence > (_SILENT_S if last.is_stream and last.is_stopped else _STREAM_S):
            last.is_stream = last.is_stopped = False
            return Kind.AGAIN
        was_stream, last.is_stream = last.is_stream, True
        if last.is_stopped:
            return Kind.STOPPED
        return Kind.REPEATED if was_stream else Kind.AGAIN

    def stop(self) -> None:
        """Whatever was sent so far was stopped: a stream of it does not count any more."""
        for each in self._sent.values():
            each.is_stopped = True
