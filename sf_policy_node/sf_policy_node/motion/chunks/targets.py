"""Rows of a chunk into joint targets, for the four action spaces of a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import ActionSpace, ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import ToolBox, Workspace
from sf_policy_node.motion.chunks.ensemble import Rows
from sf_policy_node.motion.types import Chunk

# Condition number of the Jacobian (m and rad mixed, as MoveIt Servo does it): from the first on the
# arm is slowed, at the second by most.
_SINGULAR = (60.0, 200.0)
_SLOWEST = 0.2  # share of the joints' speed that is left at a singularity


@dataclass(frozen=True)
class Targets:
    """Joint targets (R, J) of the first R rows of a chunk; R falls short where a row cannot be
    followed.

    ``positions`` are in the order of ``contract.command_joints`` and inside the position limits.
    ``moves`` (J,) is False for a joint that the chunk has no column for. ``speed`` is the share of
    the joints' top speed that may be used near singularities. ``note`` says why rows were dropped.
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
        kinematics: of every arm by its name; of a robot with one arm also alone.
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

    def rows(self, chunk: Chunk, due: np.ndarray) -> tuple[Rows, ...]:
        """What a checked chunk asks of each arm, absolute: joint positions, or tool places and
        rotations in the base frame.
        """
        return tuple(arm.rows(chunk, due) for arm in self._arms)

    def make(self, chunk: Chunk, rows: Sequence[Rows]) -> Targets:
        """Joint targets for the rows of a checked chunk, which may have been averaged with others.

        All arms follow as many rows as the one that follows fewest.
        """
        made = [arm.make(chunk, own) for arm, own in zip(self._arms, rows, strict=True)]
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
    """Makes the columns of :class:`Targets` of one arm: its joints, then those of its gripper."""

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

    def rows(self, chunk: Chunk, due: np.ndarray) -> Rows:
        """What a checked chunk asks of this arm, absolute; see :meth:`TargetMaker.rows`."""
        data = np.asarray(chunk.data, dtype=float)[:, self._columns]
        reference = np.asarray(chunk.reference, dtype=float)[self._joints]
        if not chunk.space.is_tool:
            return Rows(due, data + reference if chunk.space is ActionSpace.JOINT_DELTA else data)
        start = self._kinematics.forward(reference)
        relative = chunk.space is ActionSpace.EE_DELTA
        places = data[:, :3] + start.position if relative else data[:, :3].copy()
        if data.shape[1] == 3:
            return Rows(due, places, np.tile(self._orientation, (len(data), 1, 1)))
        turns = np.array([pinocchio.exp3(row) for row in data[:, 3:6]])
        return Rows(due, places, turns @ start.rotation if relative else turns)

    def make(self, chunk: Chunk, rows: Rows) -> Targets:
        """Joint targets of this arm, with its gripper's joints."""
        reference = np.asarray(chunk.reference, dtype=float)
        targets = (
            self._from_tool(rows, reference[self._joints])
            if rows.rotations is not None
            else self._from_joints(rows, reference[self._joints])
        )
        return self._with_gripper(chunk, reference, targets) if len(self._fingers) else targets

    def _with_gripper(self, chunk: Chunk, reference: np.ndarray, arm: Targets) -> Targets:
        count, fingers = len(arm.positions), len(self._fingers)
        columns = np.tile(reference[self._fingers], (count, 1))
        if self._gripper_column is not None and count:
            # Only the newest chunk decides: half open is not the mean of open and closed.
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

    def _from_joints(self, rows: Rows, reference: np.ndarray) -> Targets:
        positions = np.minimum(np.maximum(rows.places, self._lower), self._upper)
        clips = (positions != rows.places).sum(axis=0)
        positions, step_clips, note = self._cut_at_jump(positions, reference)
        places = self._box.places_of_arm(np.vstack([reference, positions]))
        left, workspace_clips = self._box.left(places), 0
        if left is not None:
            note = (
                f"{self._box.whose}rows from {left} on would bring the tool out of the workspace"
                " box"
            )
            workspace_clips = len(positions) - left
            positions = positions[:left]
        return Targets(
            positions, np.ones(self._arm, dtype=bool), clips, step_clips, workspace_clips, note=note
        )

    def _cut_at_jump(
        self, positions: np.ndarray, start: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Return the rows (R, A) before the first that is further from the one before than
        ``joints[].step`` allows.
        """
        clips = np.zeros(self._arm, dtype=np.int64)
        ways = np.abs(np.diff(np.vstack([start, positions]), axis=0)) / self._step
        jumps = np.flatnonzero((ways > 1.0).any(axis=1))
        if not len(jumps):
            return positions, clips, ""
        row = int(jumps[0])
        joint = int(ways[row].argmax())
        clips[joint] = len(positions) - row
        spec = self._spec.joints[joint]
        way = float(ways[row, joint] * spec.step)
        note = (
            f"rows from {row} on need {spec.name} to jump by {way:.2f} {spec.unit}, joints[].step"
            f" allows {spec.step:g}"
        )
        return positions[:row], clips, note

    def _from_tool(self, rows: Rows, reference: np.ndarray) -> Targets:
        arm = self._arm
        places = self._box.clip(rows.places)
        workspace_clips = int((places != rows.places).any(axis=1).sum())
        seed = np.minimum(np.maximum(reference, self._lower), self._upper)
        positions, before, note = [], seed, ""
        for k, (place, rotation) in enumerate(zip(places, rows.rotations, strict=True)):
            # On a straight line the next solution is about as far again as the last one was.
            solution = self._kinematics.inverse(
                ToolPose(place, rotation), 2.0 * seed - before if k > 1 else seed
            )
            if not solution.reached:
                left = (
                    f"{1e3 * solution.position_error:.0f} mm and {solution.rotation_error:.2f} rad"
                    " are left"
                )
                note = f"{self._box.whose}rows from {k} on cannot be reached: {left}"
                break
            before, seed = seed, solution.positions
            positions.append(seed)
        failures = len(places) - len(positions)
        joints, step_clips, jump = self._cut_at_jump(
            np.array(positions).reshape(-1, arm), reference
        )
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
        """Count the rows near a singularity; return the share of the joints' top speed that may be
        used.
        """
        if not len(positions):
            return 0, 1.0
        some = self._kinematics.condition(positions[[0, len(positions) // 2, -1]])
        if some.max() < 0.5 * _SINGULAR[0]:  # far from one, and so are the rows between
            return 0, 1.0
        condition = self._kinematics.condition(positions)
        soft, hard = _SINGULAR
        near = (min(float(condition.max()), hard) - soft) / (hard - soft)
        return int((condition > soft).sum()), 1.0 - (1.0 - _SLOWEST) * max(0.0, near)
