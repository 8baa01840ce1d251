"""Limits the correction of a tool's drift, so that it breaks no limit of joints and workspace."""

from __future__ import annotations

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.tool_motion import ToolMotion
from sf_policy_node.motion.arm.workspace import Workspace

_AHEAD_S = 0.1  # a correction is checked for the time for which a measurement counts
_RISE_S = 0.2  # time in which a correction that was limited returns to its size
# Time in which a correction ends at a limit, so that the tool's speed does not jump. It then moves
# the tool by half of what was checked.
_FALL_S = 0.1
_SHARES = (1.0, 0.5, 0.25)  # of a correction, tried in turn
_ROUNDING = 1e-6  # rad, m or per s


class CorrectionLimits:
    """Checks where a corrected twist moves an arm that is not where it was commanded to be.

    The guard checked the planned motion, which starts at the commanded joints. A correction starts
    at the measured joints, and may lead them to a joint limit, a wall or a collision on another
    way. The correction may not make worse what the planned twist alone does.
    """

    def __init__(self, contract: Contract, workspace: Workspace) -> None:
        self._tool, self._workspace = ToolMotion(contract), workspace
        self._joints = len(contract.joints)
        limits = JointLimits.of(contract)
        self._lower, self._upper = limits.lower[: self._joints], limits.upper[: self._joints]
        self._velocity, self._names = limits.velocity[: self._joints], limits.names
        self._period = 1.0 / contract.rate_hz
        self._share = 1.0
        self._size = 0.0  # norm of the last returned correction
        self.reason = ""
        """Why the last correction was limited, in one sentence; empty if it was not."""

    def limit(
        self, measured: np.ndarray, velocities: np.ndarray, correction: np.ndarray
    ) -> np.ndarray:
        """Return the largest share of a correction (6,) that makes nothing worse.

        The correction ends gradually, unless that would break a limit in the next period.

        Args:
            measured: (J,) joints, with the gripper [rad or m].
            velocities: (A,) planned velocities of the arm's joints.
            correction: twist (6,) in the base frame [m/s, rad/s].
        """
        self.reason = ""
        allowed = min(1.0, self._share + self._period / _RISE_S)
        if not correction.any():
            self._share, self._size = allowed, 0.0
            return correction
        extra = self._tool.joint_velocities(measured[: self._joints], correction)
        size, wanted = float(np.linalg.norm(correction)), 0.0
        lowered = min(allowed, max(0.0, self._size / size - self._period / _FALL_S))
        for share in (min(each, allowed) for each in _SHARES):
            reason = self._worse(measured, velocities, share * extra, _AHEAD_S)
            if not reason:
                wanted = share
                break
            self.reason = self.reason or reason
        if wanted < lowered and not self._worse(
            measured, velocities, lowered * extra, self._period
        ):
            wanted = lowered
        self._share, self._size = wanted, wanted * size
        return wanted * correction

    def _worse(
        self, measured: np.ndarray, velocities: np.ndarray, extra: np.ndarray, seconds: float
    ) -> str:
        """Return which limit ``extra`` velocities (A,) break within ``seconds``; empty if they
        break none that the planned ones keep.
        """
        alone, corrected = measured.copy(), measured.copy()
        alone[: self._joints] += self._period * velocities
        corrected[: self._joints] = alone[: self._joints] + seconds * extra
        before, after = (self._beyond(each[: self._joints]) for each in (alone, corrected))
        over = after > np.maximum(before, 0.0) + _ROUNDING
        if over.any():
            return f"{self._names[int(over.argmax())]} would leave its position limits"
        fastest = np.maximum(self._velocity, np.abs(velocities))
        over = np.abs(velocities + extra) > fastest + _ROUNDING
        if over.any():
            return f"{self._names[int(over.argmax())]} would be faster than its velocity limit"
        if hit := self._workspace.first_collision(measured, corrected[None]):
            found = self._workspace.first_collision(measured, alone[None])
            if found is None or hit.is_worse_than(found, _ROUNDING):
                return hit.sentence
        reason = self._workspace.explain_box_violation(measured, corrected[None])
        if not reason or not self._workspace.explain_box_violation(measured, alone[None]):
            return reason
        outside = self._workspace.outside(alone) + _ROUNDING
        return reason if self._workspace.outside(corrected) > outside else ""

    def _beyond(self, joints: np.ndarray) -> np.ndarray:
        """Return how far joints (A,) are outside their position limits; negative inside."""
        return np.maximum(self._lower - joints, joints - self._upper)
