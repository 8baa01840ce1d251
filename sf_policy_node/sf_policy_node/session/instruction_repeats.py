"""Distinguish new instructions from repeated ones: ``ros2 topic pub`` sends the same text once a
second as long as it runs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

_STREAM_S = 3.0
"""The same text within this time [s] may come from a program that repeats it."""


class Repetition(Enum):
    """Classify a message on the instruction topic."""

    NEW = auto()
    """The text differs from the publisher's last one, or is its first."""
    AGAIN = auto()
    """The same text, sent once more on purpose."""
    REPEATED = auto()
    """The same text from a program that repeats it."""
    STOPPED = auto()
    """A text that was stopped, from a publisher that has sent no other text since."""


@dataclass
class _Sent:
    text: str
    at: float
    is_stream: bool = False
    is_stopped: bool = False


class InstructionRepeats:
    """Store the last text of each publisher, with times of a monotonic clock [s].

    A stopped text of a publisher remains stopped, however long the publisher is silent: a program
    may repeat it at any period.
    """

    def __init__(self) -> None:
        self._sent: dict[str, _Sent] = {}
        self._present: frozenset[str] = frozenset()  # publishers at the last stop

    def receive(
        self, publisher: str, text: str, now: float, present: Collection[str] = ()
    ) -> Repetition:
        """Store a message and return whether it repeats an earlier one.

        Args:
            publisher: its identifier; empty if rclpy does not give one (before Kilted).
            present: publishers in the graph. One that appeared after a stop may have sent a message
                without identifier.
        """
        last = self._sent.get(publisher)
        if last is not None and last.is_stopped and not publisher and set(present) - self._present:
            self._present, last = frozenset(present), None
        if last is None or last.text != text:
            self._sent[publisher] = _Sent(text, now)
            return Repetition.NEW
        silence, last.at = now - last.at, now
        if last.is_stopped:
            return Repetition.STOPPED
        if silence > _STREAM_S:
            last.is_stream = False
            return Repetition.AGAIN
        was_stream, last.is_stream = last.is_stream, True
        return Repetition.REPEATED if was_stream else Repetition.AGAIN

    def stop(self, present: Collection[str] = ()) -> None:
        """Mark all texts as stopped, so that repetitions of them are ignored.

        Args:
            present: publishers in the graph.
        """
        self._present = frozenset(present)
        for each in self._sent.values():
            each.is_stopped = True

    def ask_for(self, text: str) -> None:
        """Record that the executor asks for an instruction again: a stopped ``text`` counts."""
        for each in self._sent.values():
            each.is_stopped &= each.text != text
