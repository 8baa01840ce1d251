"""Move the tool by twists, in the base frame or its own, and solve the joints for where it
goes.
"""

from __future__ import annotations

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_policy_node.motion.arm.limits import JointLimits

_FROM_WALL = 2e-3  # m: the tool moves no closer to the walls of its box
_JOINT_SPEED = 0.9  # share of a joint's top speed that the tool's motion may ask for
_UPRIGHT, _RIGHTING = (
    0.2,
    0.2,
    # rad, rad/s: this close to the orientation that the contract fixes, the tool is gently turned
    # to it
)


class Jog:
    """Integrates twists of the tool, starting at the arm's joints. Calls must not overlap.

    Args:
        turns: the operator may turn the tool; otherwise it keeps its orientation.
        in_tool_frame: motions are along and about the axes of the tool.
    """

    def __init__(self, contract: Contract, *, turns: bool, in_tool_frame: bool) -> None:
        self._kinematics, self._limits = Kinematics(contract), JointLimits.of(contract)
        self._arm = len(contract.joints)
        self._lower = np.array(contract.workspace.lower) + _FROM_WALL
        self._upper = np.array(contract.workspace.upper) - _FROM_WALL
        fixed = contract.action.tool_orientation
        self._fixed = (
            None if fixed is None else pinocchio.Quaternion(np.array(fixed)).normalized().matrix()
        )
        self._turns, self._in_tool_frame = turns, in_tool_frame
        self._joints = np.zeros(self._arm)
        self._pose = ToolPose(np.zeros(3), np.eye(3))
        self.note = ""

    def begin(self, measured: np.ndarray) -> None:
        """Start from the arm's joints (J,) at the takeover."""
        self._joints = np.clip(
            measured[: self._arm], self._limits.lower[: self._arm], self._limits.upper[: self._arm]
        )
        self._pose, self.note = self._kinematics.forward(self._joints), ""

    def move(
        self, twist: np.ndarray, seconds: float, measured: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Arm joints and their velocities (A,) after ``twist`` (6,) [m/s, rad/s] for a time.

        At a wall of the workspace box and at the end of reach the tool stays; :attr:`note` says so.
        """
        before, self.note = self._joints, ""
        if seconds <= 0.0:
            return before, np.zeros(self._arm)
        behind = np.abs(before - measured[: self._arm]) / self._limits.tracking_error[: self._arm]
        if behind.max() > 1.0:
            # Something blocks it, or the executor refuses it: continue from where it is, and do not
            # wind up.
            self.begin(measured)
            self.note = f"{self._limits.names[int(behind.argmax())]} does not follow"
            return self._joints, np.zeros(self._arm)
        self._advance(twist, seconds)
        return self._joints, (self._joints - before) / seconds

    def _advance(self, twist: np.ndarray, seconds: float) -> None:
        goal = self._goal(twist, seconds)
        solution = self._kinematics.inverse(goal, self._joints)
        if not solution.reached:
            self.note = "the tool is at the end of its reach"
            return
        step = solution.positions - self._joints
        share = float(
            (np.abs(step) / (_JOINT_SPEED * seconds * self._limits.velocity[: self._arm])).max()
        )
        if share > 1.0:  # near a singularity, or an orientation to be caught up with
            self._joints = self._joints + step / share
            self._pose = self._kinematics.forward(self._joints)
            self.note = "slowed down by a joint's speed limit"
            return
        self._joints, self._pose = solution.positions, goal

    def _goal(self, twist: np.ndarray, seconds: float) -> ToolPose:
        rotation = self._pose.rotation
        linear, angular = (
            (rotation @ twist[:3], rotation @ twist[3:])
            if self._in_tool_frame
            else (twist[:3], twist[3:])
        )
        if not self._turns:
            angular = self._righting(rotation, seconds)
        here = self._pose.position
        # A tool outside its box may come closer, but not move further away.
        there = np.clip(
            here + seconds * linear, np.minimum(self._lower, here), np.maximum(self._upper, here)
        )
        if (np.abs(there - here - seconds * linear) > 1e-9).any():
            self.note = "the tool is at a wall of its workspace box"
        return ToolPose(there, pinocchio.exp3(seconds * angular) @ rotation)

    def _righting(self, rotation: np.ndarray, seconds: float) -> np.ndarray:
        """Angular velocity (3,) towards the orientation that the contract fixes, where that is
        near: data and policy hold it.
        """
        if self._fixed is None:
            return np.zeros(3)
        away = pinocchio.log3(self._fixed @ rotation.T)
        angle = float(np.linalg.norm(away))
        return np.zeros(3) if angle > _UPRIGHT else away / max(seconds, angle / _RIGHTING)
