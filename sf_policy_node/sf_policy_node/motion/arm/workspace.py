"""Where the tool may be, and how fast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics

TOLERANCE = 1e-3  # m
_ROUNDING = 1e-7  # m, of a tool that stands outside
TOOL_SPEED_OVER = 1.05  # the tool is slowed through its joints, which does not hit its limit exactly
TOOL_SPEED_USED = 0.95  # share of the limit that is planned with


@dataclass(frozen=True)
class Survey:
    """``leaves``: index of the first sample after the start with the tool outside the box, or None; speeds of the tool [m/s].

    ``slower`` is by which factor the motion has to be slowed: 1 or more where it need not be.
    """

    leaves: int | None
    top_speed: float
    slower: float
    too_fast: bool


class Workspace:
    """``contract.workspace``, asked with joint positions (J,) or (N, J) in the order of ``contract.command_joints``."""

    def __init__(self, contract: Contract, kinematics: Kinematics) -> None:
        self.lower, self.upper = np.array(contract.workspace.lower), np.array(contract.workspace.upper)
        self.tool_speed = contract.workspace.tool_speed or np.inf
        self._kinematics = kinematics
        self._arm = len(contract.joints)

    def places(self, joints: np.ndarray) -> np.ndarray:
        """Tool positions (N, 3) [m] for joints (N, J)."""
        return self._kinematics.tool_motion(np.atleast_2d(joints)[:, : self._arm])[0]

    def outside(self, joints: np.ndarray) -> float:
        """How far the tool is outside at joints (J,) [m]; 0 inside."""
        return float(self._excess(self.places(joints))[0])

    def leaves(self, start: np.ndarray, positions: np.ndarray) -> int | None:
        """Index of the first of ``positions`` (N, J) with the tool outside; None when it stays inside.

        An arm that starts outside may come closer, but not move further away.
        """
        return self._left(self.places(np.vstack([start, positions])))

    def survey(self, positions: np.ndarray, velocities: np.ndarray) -> Survey:
        """Look at a whole motion: joints (N + 1, J) and their velocities, the first at its start."""
        places, speeds = self._kinematics.tool_motion(positions[:, : self._arm], velocities[:, : self._arm])
        speed = np.sqrt((speeds * speeds).sum(axis=1))
        start, top = float(speed[0]), float(speed[1:].max(initial=0.0))
        # A tool that is too fast at the start must not get any faster.
        too_fast = top > max(TOOL_SPEED_OVER * self.tool_speed, start + 1e-9)
        wanted = max(TOOL_SPEED_USED * self.tool_speed, min(start, self.tool_speed))
        return Survey(self._left(places), top, wanted / max(top, 1e-9), too_fast)

    def _left(self, places: np.ndarray) -> int | None:
        excess = self._excess(places)
        if not excess.any():
            return None
        # Not the start and a tolerance: motion after motion would go a tolerance further.
        allowed = np.maximum(np.minimum.accumulate(excess[:-1]) + _ROUNDING, TOLERANCE)
        left = np.flatnonzero(excess[1:] > allowed)
        return int(left[0]) if len(left) else None

    def _excess(self, places: np.ndarray) -> np.ndarray:
        return np.maximum(np.maximum(self.lower - places, places - self.upper).max(axis=1), 0.0)
