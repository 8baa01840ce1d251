"""Read single keys from a terminal, without arrow keys and other escape sequences. No rclpy
here.
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
from typing import IO

ESCAPE = "\x1b"
# Over a slow link the rest of an escape sequence arrives within this time; without it the Escape
# key was pressed.
_ALONE_S = 0.2
_UNFINISHED_S = 0.5  # s after which an incomplete sequence is dropped


class KeyDecoder:
    """Decode the bytes of a terminal into keys.

    An arrow key sends ``ESC [ D``, a function key ``ESC O P`` or ``ESC [ 1 5 ~``, Alt with a letter
    ``ESC d``. These sequences are dropped. They may be split between two reads.
    """

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._pending = ""
        self._since = 0.0

    def feed(self, data: bytes, now: float) -> list[str]:
        """Return the keys that ``data`` completes.

        Args:
            data: bytes that were read; empty if there were none.
            now: time on a monotonic clock [s].
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
        """Return the pending sequence after another character; empty if it is complete."""
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
def raw_keys(file: IO) -> Iterator[Callable[..., list[str] | None]]:
    """Set a terminal to unbuffered input without echo, and restore it afterwards.

    Yields:
        A function that waits at most a given time [s] and returns the keys; None once the terminal
        is closed.
    """
    number = file.fileno()
    before = termios.tcgetattr(number)
    decoder = KeyDecoder()

    def read_keys(wait_s: float = 0.0) -> list[str] | None:
        try:
            ready, _, _ = select.select([number], [], [], wait_s)
            data = os.read(number, 1024) if ready else b""
        except OSError:  # the terminal emulator was closed
            return None
        return None if ready and not data else decoder.feed(data, time.monotonic())

    try:
        tty.setcbreak(number)
        yield read_keys
    finally:
        with contextlib.suppress(termios.error):  # the terminal is closed
            termios.tcsetattr(number, termios.TCSADRAIN, before)
