"""Keys of a terminal: single characters, with arrow keys and other escape sequences left out. No
rclpy here.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ESCAPE = "\x1b"
_ALONE_S = (
    0.2  # an escape sequence over a slow link arrives within this time; later it was the Escape key
)
_UNFINISHED_S = 0.5


class KeyDecoder:
    """Turns bytes of a terminal into keys.

    An arrow key sends ``ESC [ D``, a function key ``ESC O P`` or ``ESC [ 1 5 ~``, Alt with a letter
    ``ESC d``: none of their characters is a key. Sequences may be split between two reads.
    """

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._pending = ""
        self._since = 0.0

    def feed(self, data: bytes, now: float) -> list[str]:
        """Returns the keys that ``data`` completes.

        Args:
            data: what was read; empty when nothing was.
            now: of a clock that is never set [s].
        """
        keys = []
        if self._pending and now - self._since > (
            _ALONE_S if self._pending == ESCAPE else _UNFINISHED_S
        ):
            if self._pending == ESCAPE:
                keys.append(ESCAPE)
            self._pending = ""
        for character in self._text.decode(data):
            if self._pending:
                self._pending = self._continued(character)
            elif character == ESCAPE:
                self._pending = ESCAPE
            else:
                keys.append(character)
                continue
            self._since = now
        return keys

    def _continued(self, character: str) -> str:
        """What is pending after another character; empty when the sequence is complete."""
        if self._pending == ESCAPE:
            return (
                self._pending + character
                if character in "[O"
                else ESCAPE
                if character == ESCAPE
                else ""
            )
        if self._pending == ESCAPE + "O" or self._pending.startswith(ESCAPE + "[["):
            return ""
        if self._pending == ESCAPE + "[" and character == "[":  # function keys of a Linux console
            return self._pending + character
        return "" if "@" <= character <= "~" else self._pending + character


@contextmanager
def raw_keys(file) -> Iterator[Callable[[float], list[str] | None]]:
    """Gives a function that waits up to a time [s] for keys; it returns None once the terminal is
    closed.

    The terminal tells every key at once and echoes none; afterwards it is as before.
    """
    number = file.fileno()
    before = termios.tcgetattr(number)
    decoder = KeyDecoder()

    def typed(wait_s: float = 0.0) -> list[str] | None:
        try:
            ready, _, _ = select.select([number], [], [], wait_s)
            data = os.read(number, 1024) if ready else b""
        except OSError:  # the other side of it is gone
            return None
        return None if ready and not data else decoder.feed(data, time.monotonic())

    try:
        tty.setcbreak(number)
        yield typed
    finally:
        with contextlib.suppress(termios.error):  # closed
            termios.tcsetattr(number, termios.TCSADRAIN, before)
