"""Record the true motion of the simulated arm at every physics step, for independent checks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Motion:
    """N consecutive physics steps.

    Attributes:
        time: of the last step [s].
        positions, velocities, setpoints: (N, J) [rad, m, per s].
        tool: (N, 3) in the base frame [m].
    """

    time: float
    positions: np.ndarray
    velocities: np.ndarray
    setpoints: np.ndarray
    tool: np.ndarray


class MotionTrace:
    """Collect physics steps until they are taken; see ``ArmSim.trace``."""

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
        """Add the joints (J,), the controller's setpoint (J,) and the tool (3,) at ``time`` [s]."""
        self._steps.append((position, velocity, setpoint.copy(), tool))
        self._time = time

    def take(self) -> Motion:
        """Return all steps since the last call; there must be at least one."""
        steps, self._steps = self._steps, []
        return Motion(self._time, *(np.array(values) for values in zip(*steps, strict=True)))
