"""Where the tool may be, and how fast."""

from __future__ import annotations

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.kinematics import Kinematics

TOLERANCE = 1e-3  # m
TOOL_SPEED_OVER = 1.05  # the tool is slowed through its joints, which does not hit its limit exactly
TOOL_SPEED_USED = 0.95  # share of the limit that is planned with


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
        excess = self._excess(self.places(np.vstack([start, positions])))
        allowed = np.minimum.accumulate(excess[:-1])
        left = np.flatnonzero(excess[1:] > allowed + TOLERANCE)
        return int(left[0]) if len(left) else None

    def top_speed(self, positions: np.ndarray, velocities: np.ndarray) -> float:
        """The tool's top speed [m/s] at joints (N, J) that move at ``velocities`` (N, J)."""
        _, speeds = self._kinematics.tool_motion(positions[:, : self._arm], velocities[:, : self._arm])
        return float(np.sqrt((speeds * speeds).sum(axis=1).max()))

    def too_fast(self, positions: np.ndarray, velocities: np.ndarray) -> float:
        """The tool's top speed [m/s] on a motion (N, J), where that is beyond its limit; else 0.

        A tool that is too fast at the start must not get any faster.
        """
        speed = self.top_speed(positions, velocities)
        allowed = TOOL_SPEED_OVER * self.tool_speed
        if speed <= allowed or speed <= self.top_speed(positions[:1], velocities[:1]) + 1e-9:
            return 0.0
        return speed

    def _excess(self, places: np.ndarray) -> np.ndarray:
        return np.maximum(np.maximum(self.lower - places, places - self.upper).max(axis=1), 0.0)
