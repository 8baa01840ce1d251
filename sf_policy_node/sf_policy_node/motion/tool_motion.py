"""Joint motion as motion of the tool, for controllers that take a twist or a pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract
from sf_policy_node.motion.kinematics import Kinematics


@dataclass(frozen=True)
class ToolPlace:
    """The tool frame in the contract's base frame: ``position`` (3,) [m], ``quaternion`` (4,) x y z w."""

    position: np.ndarray
    quaternion: np.ndarray


class ToolMotion:
    """Pose and twist of the tool from the arm joints (J,), in the order of the contract and without the gripper.

    Raises:
        ContractError: when the URDF does not fit the contract.
    """

    def __init__(self, contract: Contract) -> None:
        self._kinematics = Kinematics(contract)

    def pose(self, positions: np.ndarray) -> ToolPlace:
        """Where the tool is when the joints are at ``positions`` [rad or m]."""
        tool = self._kinematics.forward(positions)
        return ToolPlace(tool.position, pinocchio.Quaternion(tool.rotation).coeffs())

    def twist(self, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        """(6,): velocity of the tool frame's origin [m/s], then angular velocity [rad/s], both along the axes of the base frame.

        This is what MoveIt Servo takes in ``speed_units``: it turns about the tool, not about the base.
        """
        return self._kinematics.jacobian(positions) @ np.asarray(velocities, dtype=float)
