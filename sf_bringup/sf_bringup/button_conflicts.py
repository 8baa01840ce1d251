"""Refuse a gamepad on which one press would both move a gripper and label an episode."""

from __future__ import annotations

from pathlib import Path

import yaml

from sf_bringup.arguments import GraphError
from sf_training.recording.screen.controls import DEFAULT_BUTTONS

_BUTTON_KEYS = ("button", "open", "close", "toggle", "slow_button")  # of a device file


def check_buttons(device: Path) -> None:
    """Check that no button has a function for both the device and the recorder.

    Args:
        device: YAML of a teleoperation device.

    Raises:
        GraphError: device and recorder would listen to the same button.
    """
    used: dict[int, str] = {}

    def collect(value: object, key: str, topic: str) -> None:
        if isinstance(value, dict):
            for name, child in value.items():
                collect(child, f"{key}.{name}" if key else name, value.get("topic", topic))
        elif (
            key.rpartition(".")[2] in _BUTTON_KEYS
            and isinstance(value, int)
            and "/" + topic.strip("/") == "/joy"
        ):
            used[value] = key

    try:
        collect(yaml.safe_load(device.read_text(encoding="utf-8")), "", "")
    except (OSError, yaml.YAMLError):
        return  # the teleoperation node reports what is wrong with the file
    for press, button in DEFAULT_BUTTONS.items():
        if button in used:
            raise GraphError(
                f"gamepad: button {button} is {press} for the recorder and {used[button]} in"
                f" {device.name}; take another button there, or start recorder_joy by hand with"
                f" button_{press}"
            )
