"""Convert the joint states of a leader arm to joint targets: scaled, shifted, and clipped to the
limits of the contract.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.teleoperation.device import DeviceError, LeaderPart

# Bounds of the time between two messages from which a velocity is computed.
_PERIOD_MIN_S, _PERIOD_MAX_S = 1e-3, 0.2


class LeaderArm:
    """Convert joint states of a leader to targets (J,) in the order of ``contract.command_joints``.
    Not thread-safe.

    Args:
        contract: of one arm.
        furthest: allowed distance of a joint from its leader at a takeover [rad, m]; None: any.
    """

    def __init__(self, contract: Contract, leader: LeaderPart, furthest: float | None) -> None:
        self._limits, self._arm = JointLimits.of(contract), len(contract.joints)
        self._furthest = furthest
        rows = [
            (each.leader, each.scale, each.offset)
            for each in (leader.joints[name] for name in contract.arm_joints)
        ]
        gripper, trigger = contract.gripper, leader.gripper
        self.moves_gripper = gripper is not None and trigger is not None
        if gripper is not None and trigger is not None:
            scale = (gripper.open - gripper.closed) / (trigger.open - trigger.closed)
            rows.append((trigger.leader, scale, gripper.closed - scale * trigger.closed))
        self._names = [row[0] for row in rows]
        self._scale, self._offset = np.array([row[1:] for row in rows]).T
        # Time, positions and velocities of the previous message.
        self._before: tuple[float, np.ndarray, np.ndarray] | None = None

    def read(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
        now: float,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return target positions and velocities (J,) [rad, m, per s] from a joint state.

        Gripper joints that the leader does not move are NaN. None if a value is not finite or
        positions are missing.

        Raises:
            DeviceError: the message lacks a joint of the device file.
        """
        if len(positions) != len(names) or not len(names):
            return None
        missing = [name for name in self._names if name not in names]
        if missing:
            found = f"the leader's joint states name {', '.join(names)}, not {', '.join(missing)}"
            raise DeviceError(f"{found}; correct motion.joints in the device file")
        order = [list(names).index(name) for name in self._names]
        target = self._scale * np.asarray(positions, dtype=float)[order] + self._offset
        if not np.isfinite(target).all():
            return None
        speed = self._velocity(
            target,
            None if len(velocities) != len(names) else np.asarray(velocities, dtype=float)[order],
            now,
        )
        count = len(target)
        inside = np.clip(target, self._limits.lower[:count], self._limits.upper[:count])
        speed = np.where(inside == target, speed, 0.0)  # a leader beyond a limit holds the joint
        rest = len(self._limits.names) - count  # gripper joints that the leader does not move
        return np.append(inside, np.full(rest, np.nan)), np.append(speed, np.zeros(rest))

    def too_far(self, target: np.ndarray, measured: np.ndarray) -> str:
        """Return which joint is too far from its leader for a takeover; empty if none is."""
        if self._furthest is None:
            return ""
        distance = np.abs(target - measured)[: self._arm]
        worst = int(distance.argmax())
        if distance[worst] <= self._furthest:
            return ""
        name = self._limits.names[worst]
        return (
            f"{name} is at {measured[worst]:.2f} and its leader at {target[worst]:.2f}; bring the"
            f" leader closer than {self._furthest:g}"
        )

    def _velocity(self, target: np.ndarray, given: np.ndarray | None, now: float) -> np.ndarray:
        """Return the velocities that the leader reports; without them, smoothed differences of its
        positions: v = (v_before + (q - q_before) / dt) / 2.
        """
        before, speed = self._before, np.zeros_like(target)
        if given is not None and np.isfinite(given).all():
            speed = self._scale * given
        elif before is not None and _PERIOD_MIN_S < now - before[0] < _PERIOD_MAX_S:
            speed = 0.5 * before[2] + 0.5 * (target - before[1]) / (now - before[0])
        self._before = (now, target, speed)
        return speed
