"""The results of :class:`~sf_policy_node.motion.safety.monitor.ArmMonitor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np


class Fault(Enum):
    """The cause of a tracking error."""

    OBSTACLE = auto()
    """Something blocks a joint while other joints still move."""
    STALLED = auto()
    """No joint moves: something holds the arm, or its controller does not follow."""
    SCALED = auto()
    """The arm follows its path with a delay, because its speed is scaled down."""
    ELSEWHERE = auto()
    """The error is more than twice the tracking error: something else moved the arm."""
    SENSOR = auto()
    """The joint states are physically impossible."""


@dataclass(frozen=True)
class Deviation:
    """The joint with the largest tracking error.

    Attributes:
        joint: its name.
        distance: between its measured and commanded position [rad or m].
        fault: the cause.
        reason: joint, distance and cause as a message.
        measured: (J,) positions of all joints.
    """

    joint: str
    distance: float
    fault: Fault
    reason: str
    measured: np.ndarray


@dataclass(frozen=True)
class StartPosition:
    """The joint position (J,) from which a motion may start.

    ``is_commanded``: it is the commanded position. Otherwise it is the measured one, and ``reason``
    says how they differ; ``reason`` is empty where nothing was commanded.
    """

    position: np.ndarray
    is_commanded: bool
    reason: str = ""
