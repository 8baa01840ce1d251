"""Define the interface of the controllers of the simulated arm."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from sf_policy_node.controller.limiter import JointLimiter
from sf_policy_node.controller.validation import CommandRejected

__all__ = ["CommandRejected", "Controller", "JointLimiter", "Measured"]


Measured = tuple[np.ndarray, np.ndarray]
"""Positions and velocities (J,) [rad or m, per s] of the joints."""


class Controller(Protocol):
    """Turn commands into joint positions and velocities (J,) [rad, m, per s]. Times [s] are on the
    clock of the caller.
    """

    def accept(self, command: Any, now: float) -> None:
        """Follow a command from now on.

        Raises:
            CommandRejected: the command is invalid.
        """

    def sample(self, now: float, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and velocities for the servos at ``now``, within the limits.

        Args:
            now: must not go back.
            measured: joints now, for controllers with feedback; None means as commanded.
        """

    def hold(self, positions: np.ndarray) -> None:
        """Drop all motion and hold ``positions`` (J,) at once, as after a reset of the arm."""
