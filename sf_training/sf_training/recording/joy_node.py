"""``ros2 run sf_training recorder_joy``: control the recorder with the buttons of a gamepad.

Needs a driver that publishes ``sensor_msgs/Joy``, such as ``ros2 run joy game_controller_node``.
"""

from __future__ import annotations

import sys
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Joy

from sf_training.recording.screen.controls import DEFAULT_BUTTONS, Buttons
from sf_training.recording.screen.recorder_client import RecorderClient


class RecorderJoy(Node):
    """Translate buttons into service calls of the recorder."""

    def __init__(self) -> None:
        super().__init__("recorder_joy")
        topic = self._parameter("joy_topic", "joy", "sensor_msgs/Joy of the gamepad")
        recorder = self._parameter(
            "recorder",
            "recorder",
            "name of the recorder's node, relative to the namespace of this one",
        )
        self._countdown = self._parameter("countdown_s", 3.0, "before recording begins [s]")
        numbers = {
            press: self._parameter(f"button_{press}", number, "-1: none")
            for press, number in DEFAULT_BUTTONS.items()
        }
        self._buttons = Buttons(numbers)
        self._client = RecorderClient(self, recorder)
        self._is_checked = False
        self.create_subscription(Joy, topic, self._on_joy, qos_profile_sensor_data)

    def _parameter(self, name: str, default: Any, description: str) -> Any:
        return self.declare_parameter(
            name, default, ParameterDescriptor(description=description)
        ).value

    def _on_joy(self, message: Joy) -> None:
        if not self._is_checked:
            self._is_checked = True
            missing = self._buttons.missing(message.buttons)
            if missing:
                names = ", ".join(f"button_{name}" for name in missing)
                self.get_logger().warning(
                    f"this gamepad has {len(message.buttons)} buttons; set {names} to one of them"
                )
        for press in self._buttons.read(message.buttons):
            self._client.press(press, self._report, countdown_s=self._countdown)

    def _report(self, done: bool, sentence: str) -> None:
        self.get_logger().info(sentence) if done else self.get_logger().error(sentence)


def main() -> None:
    """Run the node until it is interrupted."""
    rclpy.init()
    try:
        node = RecorderJoy()
    except ValueError as error:
        rclpy.try_shutdown()
        sys.exit(f"recorder_joy: {error}")
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
