"""Convert axes and buttons of a ``sensor_msgs/Joy``, and twists, to tool motions. No ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sf_training.teleoperation.device import AXES, Device, DeviceError, Stick, Twist

SLOW = 0.25  # share of the speed while the slow button is down


@dataclass(frozen=True)
class Motion:
    """Requested tool motion: ``twist`` (6,), linear [m/s], then angular [rad/s], in the frame of
    the device.
    """

    twist: np.ndarray

    @property
    def centred(self) -> bool:
        """Whether no motion is requested."""
        return not self.twist.any()


def pressed(buttons: Sequence[int], button: int, topic: str) -> bool:
    """Return whether a button is down.

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
    """Return the tool motion that a Joy requests.

    Raises:
        DeviceError: the device lacks an axis or button that its file names.
    """
    stick = device.motion
    assert isinstance(stick, Stick)
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
    """Return the tool motion that a Twist requests, limited to the speeds of the device.

    Args:
        linear, angular: (3,) each, in the unit of the device.
    """
    twist = device.motion
    assert isinstance(twist, Twist)
    full = _full(device)
    share = np.array([*linear, *angular], dtype=float)
    if twist.unit == "si":
        share = share / full
    return Motion(shaped(share, twist.dead_zone, twist.curve) * full)


def shaped(deflection: np.ndarray, dead_zone: float, curve: float) -> np.ndarray:
    """Apply dead zone and curve to a deflection (6,) in -1 to 1.

    With deflection x, dead zone z and exponent c: sign(x) (max(|x| - z, 0) / (1 - z))^c. Linear and
    angular parts (3,) are then shortened to length 1. Values that are not finite count as centred.
    """
    deflection = np.where(np.isfinite(deflection), deflection, 0.0)
    size = np.clip((np.abs(deflection) - dead_zone) / (1.0 - dead_zone), 0.0, 1.0) ** curve
    share = np.sign(deflection) * size
    for vector in (share[:3], share[3:]):  # two axes at full deflection are not faster than one
        vector /= max(1.0, float(np.linalg.norm(vector)))
    return share


def off_centre(device: Device, axes: Sequence[float]) -> bool:
    """Return whether a Joy requests motion; the Joy of a leader arm's buttons never does."""
    motion = device.motion
    if not isinstance(motion, Stick):
        return False
    return any(
        each.axis < len(axes) and abs(axes[each.axis]) > motion.dead_zone
        for each in motion.axes.values()
    )


def _full(device: Device) -> np.ndarray:
    return np.repeat([device.speed, device.turn_speed], 3)
