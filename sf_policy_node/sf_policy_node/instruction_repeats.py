"""Tell a new instruction from a repeated one: ``ros2 topic pub`` sends the same text once a second for as long as it runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

_LONGER = 1.5  # times the usual interval: a message that comes so much later was sent by hand


class Kind(Enum):
    """What a message on the instruction topic is."""

    NEW = auto()
    """Another text than its publisher sent last, or the first of this publisher."""
    AGAIN = auto()
    """The same text once more, out of any rhythm: somebody repeats it on purpose."""
    PERIODIC = auto()
    """The same text in a steady rhythm."""
    STOPPED = auto()
    """The text that was stopped, from the publisher that sent it before the stop."""


@dataclass
class _Sent:
    text: str
    at: float
    interval: float | None = None
    stopped: bool = False


class InstructionRepeats:
    """Remembers what every publisher sent last. Times are those of a clock that nobody sets [s]."""

    def __init__(self) -> None:
        self._sent: dict[str, _Sent] = {}

    def receive(self, publisher: str, text: str, now: float) -> Kind:
        """Take a message and return what it is."""
        last = self._sent.get(publisher)
        if last is None or last.text != text:
            self._sent[publisher] = _Sent(text, now)
            return Kind.NEW
        interval, before = now - last.at, last.interval
        last.at, last.interval = now, interval
        if last.stopped:
            return Kind.STOPPED
        return Kind.PERIODIC if before is not None and interval <= _LONGER * before else Kind.AGAIN

    def stop(self) -> None:
        """Whatever was sent so far was stopped: its publishers must send another text before they count again."""
        for each in self._sent.values():
            each.stopped = True
