"""Converts the steps of a chunk to joint targets, for the four action spaces of a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import ActionSpace, ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import InverseSolution, Kinematics
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import ToolBox, Workspace
from sf_policy_node.motion.chunks.ensemble import TimedTargets
from sf_policy_node.motion.types import Chunk

# Condition number of the Jacobian (m and rad mixed, as in MoveIt Servo): above the first the arm is
# slowed, linearly down to the slowest speed at the second.
_SINGULAR = (60.0, 200.0)
_SLOWEST = 0.2  # share of the joints' top speed that is allowed at a singularity


@dataclass(frozen=True)
class Targets:
    """Joint targets of the first R steps of a chunk; the steps that cannot be executed are dropped.

    Attributes:
        positions: (R, J) inside the position limits, in the order of ``contract.command_joints``.
        moves: (J,) bool; False for a joint that the chunk has no column for.
        position_clips: (J,) how many steps were clipped to the position limits.
        step_clips: (J,) how many steps were dropped because this joint would jump.
        workspace_clips: how many steps were moved into the workspace box or dropped because of it.
        ik_failures: how many steps were dropped because inverse kinematics found no solution.
        singular_rows: how many steps are near a singularity.
        speed: share of the joints' top speed that is allowed (1 away from singularities).
        note: why steps were dropped; empty when none was.
    """

    positions: np.ndarray
    moves: np.ndarray
    position_clips: np.ndarray
    step_clips: np.ndarray
    workspace_clips: int = 0
    ik_failures: int = 0
    singular_rows: int = 0
    speed: float = 1.0
    note: str = ""


class TargetMaker:
    """Makes :class:`Targets` for one contract.

    Args:
        kinematics: by arm name; a single :class:`Kinematics` serves all arms.
    """

    def __init__(
        self,
        contract: Contract,
        kinematics: Kinematics | Mapping[str, Kinematics],
        workspace: Workspace,
    ) -> None:
        if isinstance(kinematics, Kinematics):
            kinematics = dict.fromkeys(contract.arms, kinematics)
        limits = JointLimits.of(contract)
        self._arms = [
            ArmTargets(contract, name, kinematics[name], workspace.boxes[name], limits)
            for name in contract.arms
        ]

    def absolute(self, chunk: Chunk, due: np.ndarray) -> tuple[TimedTargets, ...]:
        """Return the absolute targets of a checked chunk for each arm.

        They are joint positions, or tool positions and rotations in the base frame.

        Args:
            due: (R,) when the steps are due [s].
        """
        return tuple(arm.absolute(chunk, due) for arm in self._arms)

    def make(self, chunk: Chunk, absolute: Sequence[TimedTargets]) -> Targets:
        """Return the joint targets for ``absolute``, the absolute targets of a checked chunk.

        They may have been averaged with other chunks. All arms execute as many steps as the arm
        that can execute the fewest.
        """
        made = [arm.make(chunk, own) for arm, own in zip(self._arms, absolute, strict=True)]
        if len(made) == 1:
            return made[0]
        count = min(len(targets.positions) for targets in made)
        return Targets(
            np.hstack([targets.positions[:count] for targets in made]),
            np.concatenate([targets.moves for targets in made]),
            np.concatenate([targets.position_clips for targets in made]),
            np.concatenate([targets.step_clips for targets in made]),
            sum(targets.workspace_clips for targets in made),
            sum(targets.ik_failures for targets in made),
            sum(targets.singular_rows for targets in made),
            min(targets.speed for targets in made),
            next(
                (
                    targets.note
                    for targets in made
                    if targets.note and len(targets.positions) == count
                ),
                "",
            ),
        )


class ArmTargets:
    """Computes the columns of :class:`Targets` of one arm: its A joints, then its gripper's."""

    def __init__(
        self,
        contract: Contract,
        name: str,
        kinematics: Kinematics,
        box: ToolBox,
        limits: JointLimits,
    ) -> None:
        self._spec, self._kinematics, self._box = contract.arms[name], kinematics, box
        self._arm = len(self._spec.joints)
        action, commands = contract.columns.action, contract.columns.commands
        self._columns = action.indices(arm=name, without=[ColumnKind.GRIPPER])
        gripper = action.indices(ColumnKind.GRIPPER, arm=name)
        self._gripper_column = int(gripper[0]) if len(gripper) else None
        self._joints = commands.indices(ColumnKind.JOINT, arm=name)
        self._fingers = commands.indices(ColumnKind.GRIPPER, arm=name)
        self._lower, self._upper = limits.lower[self._joints], limits.upper[self._joints]
        self._step = limits.step[self._joints]
        orientation = contract.action.tool_orientation
        self._orientation = (
            None
            if orientation is None
            else pinocchio.Quaternion(np.array(orientation, dtype=float)).normalized().matrix()
        )

    def absolute(self, chunk: Chunk, due: np.ndarray) -> TimedTargets:
        """Return the absolute targets of a checked chunk; see :meth:`TargetMaker.absolute`."""
        data = np.asarray(chunk.data, dtype=float)[:, self._columns]
        reference = np.asarray(chunk.reference, dtype=float)[self._joints]
        if not chunk.space.is_tool:
            return TimedTargets(
                due, data + reference if chunk.space is ActionSpace.JOINT_DELTA else data
            )
        start = self._kinematics.forward(reference)
        relative = chunk.space is ActionSpace.EE_DELTA
        positions = data[:, :3] + start.position if relative else data[:, :3].copy()
        if data.shape[1] == 3:
            return TimedTargets(due, positions, np.tile(self._orientation, (len(data), 1, 1)))
        turns = np.array([pinocchio.exp3(row) for row in data[:, 3:6]])
        return TimedTargets(due, positions, turns @ start.rotation if relative else turns)

    def make(self, chunk: Chunk, absolute: TimedTargets) -> Targets:
        """Return the joint targets of this arm, including its gripper's joints."""
        reference = np.asarray(chunk.reference, dtype=float)
        targets = (
            self._from_tool(absolute, reference[self._joints])
            if absolute.rotations is not None
            else self._from_joints(absolute, reference[self._joints])
        )
        return self._with_gripper(chunk, reference, targets) if len(self._fingers) else targets

    def _with_gripper(self, chunk: Chunk, reference: np.ndarray, arm: Targets) -> Targets:
        count, fingers = len(arm.positions), len(self._fingers)
        columns = np.tile(reference[self._fingers], (count, 1))
        if self._gripper_column is not None and count:
            # A gripper is not averaged: the mean of open and closed would be half open. Only the
            # newest chunk counts.
            openings = np.asarray(chunk.data)[:count, self._gripper_column]
            columns = np.array([self._gripper_targets(opening) for opening in openings])
        return Targets(
            np.hstack([arm.positions, columns]),
            np.append(arm.moves, np.full(fingers, self._gripper_column is not None)),
            np.append(arm.position_clips, np.zeros(fingers, dtype=np.int64)),
            np.append(arm.step_clips, np.zeros(fingers, dtype=np.int64)),
            arm.workspace_clips,
            arm.ik_failures,
            arm.singular_rows,
            arm.speed,
            arm.note,
        )

    def _gripper_targets(self, opening: float) -> list[float]:
        gripper = self._spec.gripper
        return gripper.to_joints(float(opening >= 0.5) if gripper.binary else float(opening))

    def _from_joints(self, absolute: TimedTargets, reference: np.ndarray) -> Targets:
        positions = np.minimum(np.maximum(absolute.values, self._lower), self._upper)
        clips = (positions != absolute.values).sum(axis=0)
        positions, step_clips, note = self._cut_at_jump(positions, reference)
        tool_positions = self._box.tool_positions_of_arm(np.vstack([reference, positions]))
        outside, workspace_clips = self._box.first_outside(tool_positions), 0
        if outside is not None:
            note = (
                f"{self._box.prefix}steps from {outside} on would move the tool out of the"
                " workspace box"
            )
            workspace_clips = len(positions) - outside
            positions = positions[:outside]
        return Targets(
            positions, np.ones(self._arm, dtype=bool), clips, step_clips, workspace_clips, note=note
        )

    def _cut_at_jump(
        self, positions: np.ndarray, start: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Drop the first step that is further from the one before than ``joints[].step`` allows,
        and all steps after it.

        Returns:
            The remaining positions (R, A), how many steps each joint (A,) made the chunk lose, and
            a sentence, which is empty when nothing was dropped.
        """
        clips = np.zeros(self._arm, dtype=np.int64)
        shares = np.abs(np.diff(np.vstack([start, positions]), axis=0)) / self._step
        jumps = np.flatnonzero((shares > 1.0).any(axis=1))
        if not len(jumps):
            return positions, clips, ""
        row = int(jumps[0])
        joint = int(shares[row].argmax())
        clips[joint] = len(positions) - row
        spec = self._spec.joints[joint]
        distance = float(shares[row, joint] * spec.step)
        note = (
            f"steps from {row} on need {spec.name} to jump by {distance:.2f} {spec.unit},"
            f" joints[].step allows {spec.step:g}"
        )
        return positions[:row], clips, note

    def _from_tool(self, absolute: TimedTargets, reference: np.ndarray) -> Targets:
        arm = self._arm
        tool_positions = self._box.clip(absolute.values)
        workspace_clips = int((tool_positions != absolute.values).any(axis=1).sum())
        found, errors = self._kinematics.follow(tool_positions, absolute.rotations, reference)
        reached, note = len(found), ""
        if len(found) and not InverseSolution(found[-1], *errors[-1]).reached:
            reached -= 1
            note = (
                f"{self._box.prefix}steps from {reached} on cannot be reached:"
                f" {1e3 * errors[-1, 0]:.0f} mm and {errors[-1, 1]:.2f} rad are left"
            )
        failures = len(tool_positions) - reached
        joints, step_clips, jump = self._cut_at_jump(found[:reached], reference)
        singular, speed = self._near_singularity(joints)
        no_clips = np.zeros(arm, dtype=np.int64)
        moves = np.ones(arm, dtype=bool)
        return Targets(
            joints,
            moves,
            no_clips,
            step_clips,
            workspace_clips,
            failures,
            singular,
            speed,
            jump or note,
        )

    def _near_singularity(self, positions: np.ndarray) -> tuple[int, float]:
        """Return how many steps are near a singularity, and the allowed share of the top speed."""
        if not len(positions):
            return 0, 1.0
        some = self._kinematics.condition(positions[[0, len(positions) // 2, -1]])
        # Three steps far from any singularity represent all: the condition number changes slowly
        # along a chunk.
        if some.max() < 0.5 * _SINGULAR[0]:
            return 0, 1.0
        condition = self._kinematics.condition(positions)
        soft, hard = _SINGULAR
        near = (min(float(condition.max()), hard) - soft) / (hard - soft)
        return int((condition > soft).sum()), 1.0 - (1.0 - _SLOWEST) * max(0.0, near)
