"""Faults of joint state drivers: what they report instead of the true joints."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from sensor_msgs.msg import JointState

_JUMP = 1.0  # rad
_DROOP = 0.06  # rad
_NOISE = 0.005  # rad, standard deviation

Lie = Callable[[JointState, Sequence[int], random.Random], None]


def _zeros(message: JointState, arm: Sequence[int], dice: random.Random) -> None:
    message.position = [0.0] * len(message.position)


def _jump(message: JointState, arm: Sequence[int], dice: random.Random) -> None:
    message.position[arm[1]] += _JUMP


def _turn(message: JointState, arm: Sequence[int], dice: random.Random) -> None:
    message.position[arm[0]] += 2.0 * math.pi


def _droop(message: JointState, arm: Sequence[int], dice: random.Random) -> None:
    message.position[arm[1]] += _DROOP


def _noise(message: JointState, arm: Sequence[int], dice: random.Random) -> None:
    for index in arm:
        message.position[index] += dice.gauss(0.0, _NOISE)


def _nan_velocity(message: JointState, arm: Sequence[int], dice: random.Random) -> None:
    message.velocity = [math.nan] * len(message.velocity)


LIES: dict[str, Lie] = {
    "zeros": _zeros,
    "jump": _jump,
    "turn": _turn,
    "droop": _droop,
    "noise": _noise,
    "nan_velocity": _nan_velocity,
}


def tell(message: JointState, lie: str, arm_joints: Sequence[str], dice: random.Random) -> None:
    """Change a joint state as a driver with the fault ``lie`` (a key of ``LIES``) reports it.

    Args:
        arm_joints: names of the joints that are not a gripper's, base first.
    """
    names = list(message.name)
    LIES[lie](message, [names.index(name) for name in arm_joints], dice)
