"""``ros2 run sf_training recorder_keys``: the recorder in a terminal, with the health of all streams and one key for everything."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live

from sf_training.recording.controls import KEYS, Press
from sf_training.recording.recorder_client import RecorderClient
from sf_training.recording.terminal_view import screen

_REFRESH_HZ = 10.0
_ENTER, _ERASE, _ESCAPE, _INTERRUPT = "\r\n", "\x7f\b", "\x1b", "\x03\x04"


class RecorderKeys(Node):
    """Keys to service calls; :meth:`key` takes what was typed, :attr:`over` says when to end."""

    def __init__(self, **options) -> None:
        super().__init__("recorder_keys", **options)
        recorder = self._parameter("recorder", "/recorder", "name of the recorder's node")
        self._countdown = self._parameter("countdown_s", 3.0, "before recording begins [s]")
        self.client = RecorderClient(self, recorder)
        self.said: list[tuple[bool, str]] = []
        self.over = False
        self.typing: str | None = None
        self._instruction = ""

    def _parameter(self, name: str, default, description: str):
        return self.declare_parameter(name, default, ParameterDescriptor(description=description)).value

    def key(self, character: str) -> None:
        """One typed character."""
        if self.typing is not None:
            self._type(character)
            return
        press = KEYS.get(character.lower())
        if press == Press.QUIT or character in _INTERRUPT:
            self.over = True
        elif press == Press.INSTRUCTION:
            self.typing = self._instruction
        elif press is not None:
            self.client.press(press, self._say, countdown_s=self._countdown, instruction=self._instruction)

    def view(self):
        """What to show now."""
        return screen(self.client.status, self.said, self.typing)

    def _type(self, character: str) -> None:
        if character in _ENTER:
            self._instruction, self.typing = self.typing.strip(), None
            self._say(True, f"next episodes: {self._instruction or 'the instruction on its topic'}")
        elif character in _ESCAPE:
            self.typing = None
        elif character in _INTERRUPT:
            self.over = True
        elif character in _ERASE:
            self.typing = self.typing[:-1]
        elif character.isprintable():
            self.typing += character

    def _say(self, done: bool, sentence: str) -> None:
        self.said.append((done, sentence))


@contextmanager
def raw_keys(file) -> Iterator[Callable[[], str]]:
    """A function that gives what was typed since its last call; the terminal is as before afterwards."""
    number = file.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)

        def typed() -> str:
            ready, _, _ = select.select([number], [], [], 0.0)
            return os.read(number, 1024).decode(errors="ignore") if ready else ""

        yield typed
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def show(node: RecorderKeys, typed: Callable[[], str], console: Console, alive: Callable[[], bool] = lambda: True) -> None:
    """Spin the node with its view until somebody quits, or ``alive`` is no longer true."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        with Live(node.view(), console=console, auto_refresh=False, screen=False) as live:
            while not node.over and rclpy.ok() and alive():
                executor.spin_once(timeout_sec=1.0 / _REFRESH_HZ)
                for character in typed():
                    node.key(character)
                live.update(node.view(), refresh=True)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        executor.shutdown()


def main(args: Sequence[str] | None = None, alive: Callable[[], bool] = lambda: True) -> int:
    """Run until ``q``. 2 without a terminal."""
    if not sys.stdin.isatty():
        print("recorder_keys: needs a terminal for its keys; use the services of /recorder instead", file=sys.stderr)
        return 2
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the context managers: the terminal is left as it was
    node = RecorderKeys()
    try:
        with raw_keys(sys.stdin) as typed:
            show(node, typed, Console(), alive)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
