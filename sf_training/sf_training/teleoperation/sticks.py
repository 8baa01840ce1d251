"""Axes and buttons of a ``sensor_msgs/Joy``, and twists, as what they ask for. No ROS: sequences
in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sf_training.teleoperation.device import AXES, Device, DeviceError, Leader, Stick, Twist

SLOW = 0.25  # share of the speed while the slow button is down


@dataclass(frozen=True)
class Motion:
    """What a hand asks of the tool: ``twist`` (6,), linear [m/s] then angular [rad/s], along the
    axes of the device's frame.
    """

    twist: np.ndarray

    @property
    def centred(self) -> bool:
        """Whether the twist asks for no motion."""
        return not self.twist.any()


def pressed(buttons: Sequence[int], button: int, topic: str) -> bool:
    """Whether a button is down.

    Raises:
        DeviceError: the device has no such button.
    """
    if button >= len(buttons):
        raise DeviceError(
            f"{topic}: has {len(buttons)} buttons, so none with index {button}; correct the button"
            " in the device file"
        )
    return bool(buttons[button])


def stick_motion(device: Device, axes: Sequence[float], buttons: Sequence[int]) -> Motion:
    """Motion of the tool from a Joy.

    Raises:
        DeviceError: the device lacks an axis or button that its file names.
    """
    stick: Stick = device.motion
    deflection = np.zeros(6)
    for name, each in stick.axes.items():
        if each.axis >= len(axes):
            raise DeviceError(
                f"{stick.topic}: has {len(axes)} axes, so none with index {each.axis}; correct"
                f" motion.axes.{name} in the device file"
            )
        deflection[AXES.index(name)] = each.scale * axes[each.axis]
    slow = stick.slow_button is not None and pressed(buttons, stick.slow_button, stick.topic)
    share = shaped(deflection, stick.dead_zone, stick.curve) * (SLOW if slow else 1.0)
    return Motion(share * _full(device))


def twist_motion(device: Device, linear: Sequence[float], angular: Sequence[float]) -> Motion:
    """Motion of the tool from a Twist: linear (3,), angular (3,). Never faster than the device's
    speeds.
    """
    twist: Twist = device.motion
    full = _full(device)
    share = np.array([*linear, *angular], dtype=float)
    if twist.unit == "si":
        share = share / full
    return Motion(shaped(share, twist.dead_zone, twist.curve) * full)


def shaped(deflection: np.ndarray, dead_zone: float, curve: float) -> np.ndarray:
    """Deflection (6,) in -1 to 1 without its dead zone, finer near the centre, and no longer than 1
    along and about each direction.

    What is not finite counts as centred.
    """
    deflection = np.where(np.isfinite(deflection), deflection, 0.0)
    size = np.clip((np.abs(deflection) - dead_zone) / (1.0 - dead_zone), 0.0, 1.0) ** curve
    share = np.sign(deflection) * size
    for part in (share[:3], share[3:]):  # two sticks at full deflection are not faster than one
        part /= max(1.0, float(np.linalg.norm(part)))
    return share


def off_centre(device: Device, axes: Sequence[float]) -> bool:
    """Whether a Joy asks for motion; a leader arm's button box never does."""
    motion = device.motion
    if isinstance(motion, Leader) or not isinstance(motion, Stick):
        return False
    return any(
        each.axis < len(axes) and abs(axes[each.axis]) > motion.dead_zone
        for each in motion.axes.values()
    )


def _full(device: Device) -> np.ndarray:
    return np.repeat([device.speed, device.turn_speed], 3)
