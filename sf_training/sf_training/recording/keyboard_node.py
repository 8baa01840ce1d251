"""``ros2 run sf_training recorder_keys``: control the recorder from a terminal, which shows the
health of all streams.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rich.console import Console, Group
from rich.live import Live
from sensor_msgs.msg import Joy

from sf_training.recording.screen.controls import DRIVING_KEYS, KEYS, Press
from sf_training.recording.screen.recorder_client import RecorderClient
from sf_training.recording.screen.terminal_keys import ESCAPE, raw_keys
from sf_training.recording.screen.terminal_view import DRIVING_KEYS_LINE, KEYS_LINE, screen
from sf_training.teleoperation import keys as motion_keys

_REFRESH_HZ = 10.0
_DRIVING_HZ = 50.0
_ENTER, _ERASE, _INTERRUPT = "\r\n", "\x7f\b", "\x03\x04"
_HANGUP = 128 + signal.SIGHUP


class RecorderKeys(Node):
    """Translate keys into service calls and, with the parameter ``drive``, into teleoperation.

    Attributes:
        reports: responses of the recorder, (success, sentence), newest last.
        has_quit: the operator quit.
        typing: an instruction while it is being typed, else None.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("recorder_keys", **options)
        recorder = self._parameter(
            "recorder",
            "recorder",
            "name of the recorder's node, relative to the namespace of this one",
        )
        self._countdown = self._parameter("countdown_s", 3.0, "before recording begins [s]")
        drive = self._parameter(
            "drive",
            False,
            "keys also move the arm (device keyboard); the recorder then uses other keys",
        )
        self.client = RecorderClient(self, recorder)
        self.reports: list[tuple[bool, str]] = []
        self.has_quit = False
        self.typing: str | None = None
        self._instruction = ""
        self._presses = DRIVING_KEYS if drive else KEYS
        self._motion = motion_keys.Keys() if drive else None
        self._joy = (
            self.create_publisher(Joy, motion_keys.TOPIC, QoSProfile(depth=1)) if drive else None
        )

    @property
    def rate_hz(self) -> float:
        """Rate at which keys are read and published."""
        return _DRIVING_HZ if self._motion else _REFRESH_HZ

    def _parameter(self, name: str, default: Any, description: str) -> Any:
        return self.declare_parameter(
            name, default, ParameterDescriptor(description=description)
        ).value

    def key(self, character: str) -> None:
        """Handle one key."""
        if self.typing is not None:
            self._type(character, self.typing)
            return
        press = self._presses.get(character.lower())
        if press == Press.QUIT or character in _INTERRUPT:
            self.has_quit = True
        elif press == Press.INSTRUCTION:
            self.typing = self._instruction
        elif press is not None:
            self.client.press(
                press, self.report, countdown_s=self._countdown, instruction=self._instruction
            )
        elif self._motion and character != ESCAPE:
            self._motion.press(character, time.monotonic())

    def publish_motion(self) -> None:
        """Publish which motion keys are down; does nothing without ``drive``."""
        if self._motion and self._joy:
            axes, buttons = self._motion.joy(time.monotonic())
            message = Joy(axes=axes, buttons=buttons)
            message.header.stamp = self.get_clock().now().to_msg()
            self._joy.publish(message)

    def view(self) -> Group:
        """Return what the terminal shows now."""
        keys_line = DRIVING_KEYS_LINE if self._motion else KEYS_LINE
        return screen(
            self.client.status,
            self.reports,
            self.typing,
            next_instruction=self._instruction,
            keys_line=keys_line,
        )

    def report(self, done: bool, sentence: str) -> None:
        """Show a sentence."""
        self.reports.append((done, sentence))

    def _type(self, character: str, typed: str) -> None:
        if character in _ENTER:
            self._instruction, self.typing = typed.strip(), None
            self.report(
                True, f"next episodes: {self._instruction or 'the instruction on its topic'}"
            )
        elif character == ESCAPE:
            self.typing = None
        elif character in _INTERRUPT:
            self.has_quit = True
        elif character in _ERASE:
            self.typing = typed[:-1]
        elif character.isprintable():
            self.typing = typed + character


def show(
    node: RecorderKeys,
    read_keys: Callable[[], list[str] | None],
    console: Console,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Spin the node and redraw its view until the operator quits, the terminal is closed, or
    ``alive`` returns False.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    shown = 0.0
    try:
        with Live(node.view(), console=console, auto_refresh=False, screen=False) as live:
            while not node.has_quit and rclpy.ok() and alive():
                executor.spin_once(timeout_sec=1.0 / node.rate_hz)
                keys = read_keys()
                if keys is None:
                    return
                for key in keys:
                    node.key(key)
                node.publish_motion()
                if time.monotonic() - shown >= 1.0 / _REFRESH_HZ:
                    live.update(node.view(), refresh=True)
                    shown = time.monotonic()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        executor.shutdown()


def main(
    args: list[str] | None = None,
    alive: Callable[[], bool] = lambda: True,
    notes: Sequence[str] = (),
) -> int:
    """Run until the operator quits.

    Args:
        alive: called several times per second; False ends the program.
        notes: sentences to show from the start.

    Returns:
        The exit code: 2 without a terminal, 129 if the terminal was closed.
    """
    if not sys.stdin.isatty():
        print(
            "recorder_keys: stdin is not a terminal; use the services of /recorder instead",
            file=sys.stderr,
        )
        return 2
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    node = RecorderKeys()
    for note in notes:
        node.report(False, note)
    try:
        with raw_keys(sys.stdin) as read_keys:
            show(node, read_keys, Console(), alive)
        return 0
    except OSError:  # the terminal was closed
        return _HANGUP
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        node.destroy_node()
        rclpy.try_shutdown()


def _exit(number: int, frame: object) -> None:
    """Exit once, through the context managers, so that the terminal is restored and the recorder
    is stopped.
    """
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
