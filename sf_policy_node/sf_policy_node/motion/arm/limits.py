"""Provides the limits of a contract as arrays, and refuses a contract in which one is missing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Arm, ColumnKind, Contract, ContractError
from sf_policy_node.motion.arm.urdf_limits import check_against_urdf

_CREEPING = 0.02  # share of a joint's top speed below which it is never slowed


@dataclass(frozen=True)
class JointLimits:
    """Limits (J,) of all commanded joints, in the order of ``contract.command_joints``.

    Units are rad or m, and these per s and per s^2. For each arm its joints come first, then those
    of its gripper.

    Attributes:
        tracking_error: infinite for grippers, because an object may stop the fingers.
        step: largest change from one step of a chunk to the next; infinite for grippers, which may
            be commanded to open at once.
        is_gripper: (J,) bool.
        arms: for each joint the name of its arm.
    """

    names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    tracking_error: np.ndarray
    step: np.ndarray
    is_gripper: np.ndarray
    arms: tuple[str, ...]

    @classmethod
    def of(cls, contract: Contract) -> JointLimits:
        """Return the limits of a contract; none of them has a default."""
        rows = [row for arm in contract.arms.values() for row in _rows(arm)]
        commands = contract.columns.commands
        is_gripper = commands.mask(ColumnKind.GRIPPER)
        arms = tuple(column.arm for column in commands)
        lower, upper, velocity, acceleration, error, step = np.array(rows, dtype=float).T
        return cls(
            commands.names, lower, upper, velocity, acceleration, error, step, is_gripper, arms
        )

    @property
    def finite_tracking_error(self) -> np.ndarray:
        """The tracking errors (J,), with 0 for grippers."""
        return np.where(np.isfinite(self.tracking_error), self.tracking_error, 0.0)

    def arm_of(self, joint: int) -> np.ndarray:
        """Return the indices (N,) of the joints of the arm with this joint, without its gripper."""
        same = np.array([arm == self.arms[joint] for arm in self.arms])
        return np.flatnonzero(same & ~self.is_gripper)

    def slowed(self, velocities: np.ndarray, factor: float) -> JointLimits:
        """Return limits with which a motion is slower by ``factor``.

        The velocity limit of a joint becomes ``factor`` times the highest of its ``velocities``
        (N, J) in the motion, and at least 2 % of its limit.
        """
        reached = np.abs(velocities).max(axis=0)
        return dataclasses.replace(
            self,
            velocity=np.minimum(
                self.velocity, np.maximum(factor * reached, _CREEPING * self.velocity)
            ),
        )

    def inside(self, positions: np.ndarray) -> np.ndarray:
        """Return positions (J,) clipped to the position limits."""
        return np.minimum(np.maximum(positions, self.lower), self.upper)

    @property
    def braking_s(self) -> float:
        """Time that the slowest joint needs to brake from its top speed [s]."""
        return float((self.velocity / self.acceleration).max())


def _rows(arm: Arm) -> list[tuple[float, ...]]:
    """Return the six limits of each commanded joint of an arm."""
    rows: list[tuple[float, ...]] = [
        (
            joint.lower,
            joint.upper,
            joint.velocity,
            joint.acceleration,
            joint.tracking_error,
            joint.step or np.inf,
        )
        for joint in arm.joints
    ]
    gripper = arm.gripper
    for finger in gripper.every_finger if gripper else []:
        low, high = sorted((finger.closed, finger.open))
        rows.append((low, high, gripper.velocity, gripper.acceleration, np.inf, np.inf))
    return rows


def require_limits(contract: Contract) -> None:
    """Check that a contract has every limit that a motion needs.

    Contracts in bags and checkpoints may lack some.

    Raises:
        ContractError: with every key that is missing, too short to brake, or wider than the URDF
            allows.
    """
    check_against_urdf(contract)
    missing = [
        contract.key_of(name, f"joints.{joint.name}.step")
        for name, arm in contract.arms.items()
        for joint in arm.joints
        if joint.step is None
    ]
    missing += [
        f"budgets.{key}"
        for key in ("hold_s", "teleop_age_s")
        if getattr(contract.budgets, key) is None
    ]
    missing += [
        contract.key_of(name, "workspace.tool_speed")
        for name, arm in contract.arms.items()
        if arm.workspace.tool_speed is None
    ]
    if missing:
        raise ContractError(
            f"{', '.join(missing)}: missing; nothing moves without explicit limits, and there is no"
            " default: add them"
        )
    needed = JointLimits.of(contract).braking_s + 0.1 + 3.0 / contract.rate_hz
    if contract.budgets.hold_s < needed:
        raise ContractError(
            f"budgets.hold_s: {contract.budgets.hold_s:g} s is too short to brake from top speed;"
            f" give {needed:.2f} or more"
        )
