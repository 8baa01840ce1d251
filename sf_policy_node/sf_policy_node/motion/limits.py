"""Joint limits of a contract as arrays, in the order of ``contract.command_joints``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract


@dataclass(frozen=True)
class JointLimits:
    """Limits (J,) of the arm joints and, last, of the gripper where there is one [rad or m, per s, per s^2].

    ``tracking_error`` is infinite for the gripper: its fingers are meant to be stopped by what they hold.
    """

    names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    tracking_error: np.ndarray

    @classmethod
    def of(cls, contract: Contract) -> JointLimits:
        """The limits that a contract names; it has no default for any of them."""
        rows = [(joint.lower, joint.upper, joint.velocity, joint.acceleration, joint.tracking_error) for joint in contract.joints]
        if contract.gripper:
            low, high = sorted((contract.gripper.closed, contract.gripper.open))
            rows.append((low, high, contract.gripper.velocity, contract.gripper.acceleration, np.inf))
        return cls(tuple(contract.command_joints), *np.array(rows, dtype=float).T)
