"""What the monitor finds out about the measured arm."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np


class Fault(Enum):
    """Why an arm is not where it was commanded to be."""

    OBSTACLE = auto()
    STALLED = auto()
    """It stands still as a whole: something holds it, or its controller does not follow."""
    SCALED = auto()
    """It follows its path, too slowly."""
    ELSEWHERE = auto()
    SENSOR = auto()
    """The joint states cannot be true."""


@dataclass(frozen=True)
class Deviation:
    """A joint that is not where it was commanded to be: by ``distance``, and why, in words."""

    joint: str
    distance: float
    fault: Fault
    reason: str
    measured: np.ndarray


@dataclass(frozen=True)
class StartPlace:
    """Where a motion may start (J,): the commanded place, or where the arm is measured instead."""

    position: np.ndarray
    is_commanded: bool
    reason: str = ""
