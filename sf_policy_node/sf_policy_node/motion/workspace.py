"""Where the tool may be, and how fast."""

from __future__ import annotations

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.kinematics import Kinematics

TOLERANCE = 1e-3  # m


class Workspace:
    """``contract.workspace``, asked with joint positions (J,) or (N, J) in the order of ``contract.command_joints``."""

    def __init__(self, contract: Contract, kinematics: Kinematics) -> None:
        self.lower, self.upper = np.array(contract.workspace.lower), np.array(contract.workspace.upper)
        self.tool_speed = contract.workspace.tool_speed or np.inf
        self._kinematics = kinematics
        self._arm = len(contract.joints)

    def places(self, joints: np.ndarray) -> np.ndarray:
        """Tool positions (N, 3) [m] for joints (N, J)."""
        return self._kinematics.tool_positions(np.atleast_2d(joints)[:, : self._arm])

    def outside(self, joints: np.ndarray) -> float:
        """How far the tool is outside at joints (J,) [m]; 0 inside."""
        return float(self._excess(self.places(joints))[0])

    def leaves(self, start: np.ndarray, positions: np.ndarray) -> int | None:
        """Index of the first of ``positions`` (N, J) with the tool outside; None when it stays inside.

        An arm that starts outside may come closer, but not move further away.
        """
        return self.leaves_at(self.places(np.vstack([start, positions])))

    def leaves_at(self, places: np.ndarray) -> int | None:
        """:meth:`leaves` for tool positions (N + 1, 3), the first at the start."""
        excess = self._excess(places)
        allowed = np.minimum.accumulate(excess[:-1])
        left = np.flatnonzero(excess[1:] > allowed + TOLERANCE)
        return int(left[0]) if len(left) else None

    def _excess(self, places: np.ndarray) -> np.ndarray:
        return np.maximum(np.maximum(self.lower - places, places - self.upper).max(axis=1), 0.0)


def top_speed(places: np.ndarray, period: float) -> float:
    """Highest speed [m/s] along tool positions (N, 3) that are one period apart."""
    return float(np.linalg.norm(np.diff(places, axis=0), axis=1).max(initial=0.0)) / period
