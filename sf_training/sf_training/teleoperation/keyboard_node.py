"""``ros2 run sf_training teleoperation_keys``: publish the keys of a terminal as
``sensor_msgs/Joy`` on ``teleop/keys``.

With ``config/teleoperation/keyboard.yaml`` they move the arm. The space bar can be the dead-man
switch of another device.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Joy
from std_msgs.msg import String

from sf_policy_node.nodes.lifecycle import LATCHED
from sf_training.recording.screen.terminal_keys import raw_keys
from sf_training.teleoperation.keys import HELP, TOPIC, Keys

RATE_HZ = 50.0


class Keyboard(Node):
    """Publish the keys, and show the state of the teleoperation node."""

    def __init__(self, **options: Any) -> None:
        super().__init__("teleoperation_keys", **options)
        self.keys = Keys()
        self.state = ""
        self._joy = self.create_publisher(Joy, TOPIC, QoSProfile(depth=1))
        self.create_subscription(String, "teleoperation/state", self._on_state, LATCHED)

    def publish(self) -> None:
        """Publish the keys that are down now."""
        axes, buttons = self.keys.joy(time.monotonic())
        message = Joy(axes=axes, buttons=buttons)
        message.header.stamp = self.get_clock().now().to_msg()
        self._joy.publish(message)

    def _on_state(self, message: String) -> None:
        self.state = message.data


def main(args: list[str] | None = None) -> int:
    """Run the node until the operator quits; return the exit code."""
    if not sys.stdin.isatty():
        print(
            "teleoperation_keys: stdin is not a terminal; start it in a terminal of its own, not"
            " from a launch file",
            file=sys.stderr,
        )
        return 2
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = Keyboard()
    spinner = SingleThreadedExecutor()
    spinner.add_node(node)
    print(HELP, flush=True)
    shown = None
    try:
        with raw_keys(sys.stdin) as read_keys:
            while not node.keys.quit:
                keys = read_keys(1.0 / RATE_HZ)
                if keys is None:
                    break
                for key in keys:
                    node.keys.press(key, time.monotonic())
                node.publish()
                spinner.spin_once(timeout_sec=0.0)
                state = (
                    node.state
                    or "no state from the teleoperation node; start it in another terminal"
                )
                line = f"speed {node.keys.speed:.0%}   {state}"
                if line != shown:
                    shown = line
                    width = shutil.get_terminal_size().columns - 1
                    print(f"\r\x1b[K{line[:width]}", end="", flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        print(flush=True)
        spinner.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
