"""What the controllers of the simulated arm have in common."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from sf_policy_node.controller.limiter import JointLimiter
from sf_policy_node.controller.validation import CommandRejected

__all__ = ["CommandRejected", "Controller", "JointLimiter", "Measured"]


Measured = tuple[np.ndarray, np.ndarray]
"""Positions and velocities (J,) [rad or m, per s] of the joints."""


class Controller(Protocol):
    """Turns commands into joint positions and velocities (J,) [rad or m, per s], on one clock [s]
    that is passed in.
    """

    def accept(self, command, now: float) -> None:
        """Take over a command; raises :class:`CommandRejected`."""

    def sample(self, now: float, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return what the servos are to do at ``now``, inside the limits; ``now`` must not go back.

        ``measured``: where the joints are, for controllers that close a loop; None: as commanded.
        """

    def hold(self, positions: np.ndarray) -> None:
        """Drop all motion and stand at ``positions`` at once, as after a reset of the arm."""
