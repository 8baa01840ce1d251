"""The box that the tool must not leave."""

from __future__ import annotations

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.kinematics import Kinematics

TOLERANCE = 1e-3  # m


class WorkspaceBox:
    """``contract.workspace``, asked with joint positions (J,) in the order of ``contract.command_joints``."""

    def __init__(self, contract: Contract, kinematics: Kinematics) -> None:
        self.lower, self.upper = np.array(contract.workspace.lower), np.array(contract.workspace.upper)
        self._kinematics = kinematics
        self._arm = len(contract.joints)

    def outside(self, joints: np.ndarray) -> float:
        """How far the tool is outside [m]; 0 inside."""
        place = self._kinematics.forward(joints[: self._arm]).position
        return float(max(0.0, (self.lower - place).max(), (place - self.upper).max()))

    def leaves(self, start: np.ndarray, positions: np.ndarray) -> int | None:
        """Index of the first of ``positions`` (N, J) with the tool outside; None when it stays inside.

        An arm that starts outside may come closer, but not move further away.
        """
        allowed = self.outside(start)
        for k, joints in enumerate(positions):
            outside = self.outside(joints)
            if outside > allowed + TOLERANCE:
                return k
            allowed = min(allowed, outside)
        return None
