"""A second arm leads: its joints, scaled, shifted and kept inside the limits of the contract, are
where the arm is to be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.teleoperation.device import DeviceError, Leader

_TOO_SOON_S, _TOO_LATE_S = 1e-3, 0.2  # between two messages from which a velocity can be computed


class LeaderArm:
    """Joint states of a leader as targets (J,) in the order of ``contract.command_joints``. Calls
    must not overlap.
    """

    def __init__(self, contract: Contract, leader: Leader) -> None:
        self._limits, self._arm = JointLimits.of(contract), len(contract.joints)
        self._furthest = leader.furthest
        rows = [
            (each.leader, each.scale, each.offset)
            for each in (leader.joints[name] for name in contract.arm_joints)
        ]
        self._moves_gripper = bool(contract.gripper and leader.gripper)
        if self._moves_gripper:
            way = contract.gripper.open - contract.gripper.closed
            scale = way / (leader.gripper.open - leader.gripper.closed)
            rows.append(
                (
                    leader.gripper.leader,
                    scale,
                    contract.gripper.closed - scale * leader.gripper.closed,
                )
            )
        self._names = [row[0] for row in rows]
        self._scale, self._offset = np.array([row[1:] for row in rows]).T
        self._before: tuple[float, np.ndarray, np.ndarray] | None = (
            None  # time, positions, velocities
        )

    def read(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
        now: float,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return targets (J,) and their velocities; the gripper is NaN where the leader has none.
        ``None``: values are not finite, or joints are missing.

        Raises:
            DeviceError: the leader never names a joint that the device file does.
        """
        if len(positions) != len(names) or not len(names):
            return None
        missing = [name for name in self._names if name not in names]
        if missing:
            found = f"the leader names {', '.join(names)}, and not {', '.join(missing)}"
            raise DeviceError(f"{found}: correct motion.joints in the device file")
        order = [list(names).index(name) for name in self._names]
        place = self._scale * np.asarray(positions, dtype=float)[order] + self._offset
        if not np.isfinite(place).all():
            return None
        speed = self._velocity(
            place,
            None if len(velocities) != len(names) else np.asarray(velocities, dtype=float)[order],
            now,
        )
        count = len(place)
        inside = np.clip(place, self._limits.lower[:count], self._limits.upper[:count])
        speed = np.where(
            inside == place, speed, 0.0
        )  # a leader beyond a limit holds the joint there
        if len(self._limits.names) > count:
            return np.append(inside, np.nan), np.append(speed, 0.0)
        return inside, speed

    def too_far(self, target: np.ndarray, measured: np.ndarray) -> str:
        """Return which joint is too far from its leader for a takeover; empty when none is."""
        if self._furthest is None:
            return ""
        way = np.abs(target - measured)[: self._arm]
        worst = int(way.argmax())
        if way[worst] <= self._furthest:
            return ""
        name, here, there = self._limits.names[worst], measured[worst], target[worst]
        return (
            f"{name} is at {here:.2f} and its leader at {there:.2f}; bring the leader closer"
            f" than {self._furthest:g}"
        )

    def _velocity(self, place: np.ndarray, given: np.ndarray | None, now: float) -> np.ndarray:
        """Return the leader's own velocities, or differences of its positions, smoothed over two
        messages.
        """
        before, speed = self._before, np.zeros_like(place)
        if given is not None and np.isfinite(given).all():
            speed = self._scale * given
        elif before is not None and _TOO_SOON_S < now - before[0] < _TOO_LATE_S:
            speed = 0.5 * before[2] + 0.5 * (place - before[1]) / (now - before[0])
        self._before = (now, place, speed)
        return speed
