"""Rows of a chunk into joint targets, for the four action spaces of a contract."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import GRIPPER_COLUMN, ActionSpace, Contract
from sf_policy_node.motion.kinematics import Kinematics, ToolPose
from sf_policy_node.motion.limits import JointLimits
from sf_policy_node.motion.types import Chunk
from sf_policy_node.motion.workspace import WorkspaceBox

# A tool target one step on that needs a joint to go this many times its top speed is a jump to
# another branch of the inverse kinematics, or a singularity.
_JUMP = 2.0


@dataclass(frozen=True)
class Targets:
    """Joint targets (R, J) of the first R rows of a chunk; R falls short where a row cannot be followed.

    ``positions`` are in the order of ``contract.command_joints`` and inside the position limits.
    ``moves`` (J,) is False for a joint that the chunk has no column for. ``note`` says why rows were dropped.
    """

    positions: np.ndarray
    moves: np.ndarray
    position_clips: np.ndarray
    workspace_clips: int = 0
    ik_failures: int = 0
    note: str = ""


class TargetMaker:
    """Makes :class:`Targets` for one contract."""

    def __init__(self, contract: Contract, kinematics: Kinematics, box: WorkspaceBox) -> None:
        self._contract, self._kinematics, self._box = contract, kinematics, box
        self._limits = JointLimits.of(contract)
        self._arm = len(contract.joints)
        self._gripper_column = contract.action.names.index(GRIPPER_COLUMN) if GRIPPER_COLUMN in contract.action.names else None
        self._arm_columns = [n for n in range(len(contract.action.names)) if n != self._gripper_column]
        orientation = contract.action.tool_orientation
        self._orientation = None if orientation is None else pinocchio.Quaternion(np.array(orientation, dtype=float)).normalized().matrix()

    def make(self, chunk: Chunk) -> Targets:
        """Joint targets for a chunk that has passed ``checks``."""
        data = np.asarray(chunk.data, dtype=float)
        reference = np.asarray(chunk.reference, dtype=float)
        arm = self._tool_rows if chunk.space.is_tool else self._joint_rows
        positions, clips, workspace_clips, ik_failures, note = arm(chunk.space, data[:, self._arm_columns], reference)
        moves = np.ones(len(reference), dtype=bool)
        if self._contract.gripper:
            column = np.full((len(positions), 1), reference[-1])
            if self._gripper_column is None:
                moves[-1] = False
            else:
                column[:, 0] = [self._gripper_target(opening) for opening in data[: len(positions), self._gripper_column]]
            positions, clips = np.hstack([positions, column]), np.append(clips, 0)
        return Targets(positions, moves, clips, workspace_clips, ik_failures, note)

    def _gripper_target(self, opening: float) -> float:
        gripper = self._contract.gripper
        return gripper.to_joint(float(opening >= 0.5) if gripper.binary else opening)

    def _joint_rows(self, space: ActionSpace, rows: np.ndarray, reference: np.ndarray) -> tuple:
        wanted = rows + reference[: self._arm] if space is ActionSpace.JOINT_DELTA else rows
        positions = np.clip(wanted, self._limits.lower[: self._arm], self._limits.upper[: self._arm])
        clips = (positions != wanted).sum(axis=0)
        left = self._box.leaves(reference, positions)
        if left is not None:
            note = f"rows from {left} on would bring the tool out of the workspace box"
            return positions[:left], clips, len(positions) - left, 0, note
        return positions, clips, 0, 0, ""

    def _tool_rows(self, space: ActionSpace, rows: np.ndarray, reference: np.ndarray) -> tuple:
        start = self._kinematics.forward(reference[: self._arm])
        seed = np.clip(reference[: self._arm], self._limits.lower[: self._arm], self._limits.upper[: self._arm])
        furthest = _JUMP * self._limits.velocity[: self._arm] * self._contract.action.step_s
        positions, clips, workspace_clips = [], np.zeros(self._arm, dtype=np.int64), 0
        for k, row in enumerate(rows):
            target = self._tool_target(space, row, start)
            place = np.clip(target.position, self._box.lower, self._box.upper)
            workspace_clips += bool((place != target.position).any())
            solution = self._kinematics.inverse(ToolPose(place, target.rotation), seed)
            step = np.abs(solution.positions - seed)
            note = ""
            if not solution.reached:
                left = f"{1e3 * solution.position_error:.0f} mm and {solution.rotation_error:.2f} rad are left"
                note = f"rows from {k} on cannot be reached: {left}"
            elif (step > furthest).any():
                joint = int((step / furthest).argmax())
                name = self._contract.arm_joints[joint]
                note = f"rows from {k} on need {name} to jump by {step[joint]:.2f} {self._contract.joints[joint].unit} in one step"
            if note:
                return np.array(positions).reshape(-1, self._arm), clips, workspace_clips, len(rows) - k, note
            seed = solution.positions
            positions.append(seed)
        return np.array(positions), clips, workspace_clips, 0, ""

    def _tool_target(self, space: ActionSpace, row: np.ndarray, start: ToolPose) -> ToolPose:
        turn = pinocchio.exp3(row[3:6]) if len(row) == 6 else None
        if space is ActionSpace.EE_POSE:
            return ToolPose(row[:3], self._orientation if turn is None else turn)
        return ToolPose(start.position + row[:3], self._orientation if turn is None else turn @ start.rotation)
