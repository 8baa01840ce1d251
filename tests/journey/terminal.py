"""Run programs in pseudo-terminals: read their screen and press keys, as an operator does."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from pathlib import Path

from sf_policy_node.ros_testing import PATIENCE_S


class Terminal:
    """A program in its own pseudo-terminal."""

    def __init__(self, command):
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS="160", LINES="50")
            os.execvp(command[0], command)
        # Otherwise the next terminal inherits the descriptor and keeps this one open.
        os.set_inheritable(self._file, False)
        self._shown, self.code = "", None

    def wait_for(self, pattern, timeout=PATIENCE_S):
        """Wait until the screen shows a regular expression; what was shown before it is dropped."""
        end = time.monotonic() + timeout
        while not (found := list(re.finditer(pattern, self._shown))):
            assert time.monotonic() < end, (
                f"{pattern!r} was not shown; the end of the screen:\n{self._shown[-3000:]}"
            )
            self._read()
        self._shown = self._shown[found[-1].end() :]
        return found[-1]

    def press(self, key):
        os.write(self._file, key.encode())

    def wait_for_exit(self, timeout=PATIENCE_S):
        """Wait until the program has ended; return its exit code."""
        end = time.monotonic() + timeout
        while self.code is None:
            assert time.monotonic() < end, "the program did not end"
            self._read()
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def drop(self):
        """Close the terminal under the program, as a dropped SSH connection does."""
        os.close(self._file)
        os.waitpid(self._pid, 0)
        self.code = 0

    def press_until(self, key, pattern, patience=12.0):
        """Press a key, and repeat it until the pattern appears.

        A recorder on a busy computer refuses a key until it has answered the one before.
        """
        for _ in range(5):
            self.press(key)
            try:
                return self.wait_for(pattern, patience)
            except AssertionError:
                continue
        return self.wait_for(pattern)

    def hold(self, key, seconds):
        """Repeat a key as a keyboard does while it is held."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.press(key)
            self._read(0.03)

    def hold_until(self, key, text, seconds):
        """Hold a key until the screen shows a text from now on; return whether it did in time."""
        self._read(0.0)
        self._shown = ""
        end = time.monotonic() + seconds
        while text not in self._shown and time.monotonic() < end:
            self.press(key)
            self._read(0.03)
        return text in self._shown

    def close(self):
        if self.code is None:
            os.kill(self._pid, signal.SIGTERM)
            self.wait_for_exit()
            os.close(self._file)

    def _read(self, timeout=0.1):
        ready, _, _ = select.select([self._file], [], [], timeout)
        if ready:
            try:
                self._shown += os.read(self._file, 65536).decode(errors="replace")
            except OSError:  # the program has closed its side
                time.sleep(0.05)


def processes_of(directory):
    """Return processes started for episodes in a directory: id and command line.

    Reparented processes are included.
    """
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes() if folder.name.isdecimal() else b""
        except OSError:
            continue
        if str(directory).encode() in words:
            found[int(folder.name)] = words.replace(b"\0", b" ").decode()
    return found


def wait_until_nothing_runs(directory):
    end = time.monotonic() + PATIENCE_S
    while left := processes_of(directory):
        assert time.monotonic() < end, f"still running: {left}"
        time.sleep(0.1)
