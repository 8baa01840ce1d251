"""Distinguish new instructions from repeated ones: ``ros2 topic pub`` sends the same text once a
second as long as it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

STREAM_S = 3.0
"""The same text within this time [s] may come from a program that repeats it."""
_SILENT_S = 10.0  # a program that repeats its text has ended if it sent nothing for this time


class Repetition(Enum):
    """Classify a message on the instruction topic."""

    NEW = auto()
    """The text differs from the publisher's last one, or is its first."""
    AGAIN = auto()
    """The same text, sent once more on purpose."""
    REPEATED = auto()
    """The same text from a program that repeats it."""
    STOPPED = auto()
    """A text that was stopped, from a publisher that may only be repeating it."""


@dataclass
class _Sent:
    text: str
    at: float
    is_stream: bool = False
    is_stopped: bool = False


class InstructionRepeats:
    """Store the last text of each publisher, with times of a monotonic clock [s]."""

    def __init__(self) -> None:
        self._sent: dict[str, _Sent] = {}

    def receive(self, publisher: str, text: str, now: float) -> Repetition:
        """Store a message and return whether it repeats an earlier one."""
        last = self._sent.get(publisher)
        if last is None or last.text != text:
            self._sent[publisher] = _Sent(text, now)
            return Repetition.NEW
        silence, last.at = now - last.at, now
        if silence > (_SILENT_S if last.is_stream and last.is_stopped else STREAM_S):
            last.is_stream = last.is_stopped = False
            return Repetition.AGAIN
        was_stream, last.is_stream = last.is_stream, True
        if last.is_stopped:
            return Repetition.STOPPED
        return Repetition.REPEATED if was_stream else Repetition.AGAIN

    def stop(self) -> None:
        """Mark all texts as stopped, so that repetitions of them are ignored."""
        for each in self._sent.values():
            each.is_stopped = True
