"""What the simulated arm really did at every physics step, for observers that trust nothing
else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Motion:
    """N steps in a row, the last at ``time`` [s]: joints and setpoints (N, J) [rad or m, per s],
    tool (N, 3) in the base frame [m].
    """

    time: float
    positions: np.ndarray
    velocities: np.ndarray
    setpoints: np.ndarray
    tool: np.ndarray


class MotionTrace:
    """Collects steps until they are taken. ``ArmSim.trace`` is one while somebody watches."""

    def __init__(self) -> None:
        self._steps: list[tuple[np.ndarray, ...]] = []
        self._time = 0.0

    def __len__(self) -> int:
        return len(self._steps)

    def add(
        self,
        time: float,
        position: np.ndarray,
        velocity: np.ndarray,
        setpoint: np.ndarray,
        tool: np.ndarray,
    ) -> None:
        """One step: joints (J,), what the controller wanted of them (J,), and the tool (3,), all at
        ``time`` [s].
        """
        self._steps.append((position, velocity, setpoint.copy(), tool))
        self._time = time

    def take(self) -> Motion:
        """All steps since the last call, of which there must be one."""
        steps, self._steps = self._steps, []
        return Motion(self._time, *(np.array(part) for part in zip(*steps, strict=True)))
