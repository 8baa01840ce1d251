"""Integrate twists of the tool, in the base frame or the tool frame, and solve for the joints."""

from __future__ import annotations

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_policy_node.motion.arm.limits import JointLimits

_WALL_MARGIN = 2e-3  # m: minimum distance of the tool from the walls of the workspace box
_JOINT_SPEED = 0.9  # share of a joint's velocity limit that a tool motion may use
# Closer than this [rad] to the orientation that the contract fixes, the tool is rotated to it at
# this speed [rad/s].
_RIGHTING_ANGLE, _RIGHTING_SPEED = 0.2, 0.2


class Jog:
    """Integrate twists of the tool from the arm's joints at the takeover. Not thread-safe.

    With twist (v, w) in the base frame, step dt and tool pose (p, R): p' = clip(p + v dt),
    R' = exp(w dt) R. Inverse kinematics gives the joints of (p', R'), seeded with the last ones.

    Args:
        turns: the operator may rotate the tool; otherwise it keeps its orientation.
        in_tool_frame: twists are in the tool frame instead of the base frame.

    Attributes:
        note: why the tool does not follow the twist; empty if it does.
    """

    def __init__(self, contract: Contract, *, turns: bool, in_tool_frame: bool) -> None:
        self._kinematics, self._limits = Kinematics(contract), JointLimits.of(contract)
        self._arm = len(contract.joints)
        self._lower = np.array(contract.workspace.lower) + _WALL_MARGIN
        self._upper = np.array(contract.workspace.upper) - _WALL_MARGIN
        fixed = contract.action.tool_orientation
        self._fixed = (
            None if fixed is None else pinocchio.Quaternion(np.array(fixed)).normalized().matrix()
        )
        self._turns, self._in_tool_frame = turns, in_tool_frame
        self._joints = np.zeros(self._arm)
        self._pose = ToolPose(np.zeros(3), np.eye(3))
        self.note = ""

    def begin(self, measured: np.ndarray) -> None:
        """Start from measured joints (J,)."""
        self._joints = np.clip(
            measured[: self._arm], self._limits.lower[: self._arm], self._limits.upper[: self._arm]
        )
        self._pose, self.note = self._kinematics.forward(self._joints), ""

    def move(
        self, twist: np.ndarray, seconds: float, measured: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return arm joints and their velocities (A,) after a twist of some seconds.

        At a wall of the workspace box and at the limit of its reach the tool stops, and
        :attr:`note` says so.

        Args:
            twist: (6,) linear [m/s], angular [rad/s].
            measured: (J,) joints now. If one is further than its tracking error from the command,
                integration restarts from them.
        """
        before, self.note = self._joints, ""
        if seconds <= 0.0:
            return before, np.zeros(self._arm)
        behind = np.abs(before - measured[: self._arm]) / self._limits.tracking_error[: self._arm]
        if behind.max() > 1.0:
            # The arm is blocked, or the executor refuses the command: do not wind up.
            self.begin(measured)
            self.note = f"{self._limits.names[int(behind.argmax())]} does not follow"
            return self._joints, np.zeros(self._arm)
        self._advance(twist, seconds)
        return self._joints, (self._joints - before) / seconds

    def _advance(self, twist: np.ndarray, seconds: float) -> None:
        goal = self._goal(twist, seconds)
        solution = self._kinematics.inverse(goal, self._joints)
        if not solution.reached:
            self.note = "the tool is at the limit of its reach"
            return
        step = solution.positions - self._joints
        share = float(
            (np.abs(step) / (_JOINT_SPEED * seconds * self._limits.velocity[: self._arm])).max()
        )
        if share > 1.0:  # near a singularity, or while the orientation catches up
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
        start = self._pose.position
        # A tool outside its box may come closer, but not move further away.
        goal = np.clip(
            start + seconds * linear, np.minimum(self._lower, start), np.maximum(self._upper, start)
        )
        if (np.abs(goal - start - seconds * linear) > 1e-9).any():
            self.note = "the tool is at a wall of its workspace box"
        return ToolPose(goal, pinocchio.exp3(seconds * angular) @ rotation)

    def _righting(self, rotation: np.ndarray, seconds: float) -> np.ndarray:
        """Return the angular velocity (3,) [rad/s] towards the orientation that the contract fixes;
        zero if there is none or it is far away.
        """
        if self._fixed is None:
            return np.zeros(3)
        away = pinocchio.log3(self._fixed @ rotation.T)
        angle = float(np.linalg.norm(away))
        if angle > _RIGHTING_ANGLE:
            return np.zeros(3)
        return away / max(seconds, angle / _RIGHTING_SPEED)
