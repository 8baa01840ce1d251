"""One chunk into motion: which rows are still ahead, the curve through them, and samples inside every limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.kinematics import Kinematics
from sf_policy_node.motion.limits import JointLimits
from sf_policy_node.motion.reference import ReferenceCurve
from sf_policy_node.motion.shaping import brake, follow
from sf_policy_node.motion.targets import TargetMaker, Targets
from sf_policy_node.motion.types import Chunk
from sf_policy_node.motion.workspace import WorkspaceBox

CATCH_UP_S = 0.5  # how long after its last row a motion may still be on its way there
_GAIN = 8.0  # 1/s: a gap between old and new motion closes with a time constant of 1/8 s
_GRIPPER_GAIN = 25.0  # a gripper steps; nobody wants it smooth
_ARRIVED_S = 1e-3  # closer than this at top speed counts as arrived


@dataclass(frozen=True)
class Plan:
    """Samples (N, J), one period apart, from one period after the start to rest.

    ``row_times`` are when the rows are due [s]; ``border_jump`` is how far the chunk wanted the joints
    elsewhere at the start [rad or m]; ``refused`` says why there is no motion, ``note`` why it is shorter.
    """

    positions: np.ndarray
    velocities: np.ndarray
    row_times: np.ndarray
    skipped: int
    border_jump: float
    position_clips: np.ndarray
    velocity_clips: np.ndarray
    acceleration_clips: np.ndarray
    workspace_clips: int
    ik_failures: int
    note: str = ""
    refused: str = ""


class ChunkPlanner:
    """Plans chunks of one contract."""

    def __init__(self, contract: Contract, kinematics: Kinematics, box: WorkspaceBox) -> None:
        self._box = box
        self._limits = JointLimits.of(contract)
        self._period = 1.0 / contract.command.rate_hz
        self._targets = TargetMaker(contract, kinematics, box)
        joints = len(self._limits.names)
        self._steps, self._gain = np.zeros(joints, dtype=bool), np.full(joints, _GAIN)
        if contract.gripper:
            self._steps[-1] = contract.gripper.binary
            self._gain[-1] = _GRIPPER_GAIN

    def plan(self, chunk: Chunk, base: float, start: float, position: np.ndarray, velocity: np.ndarray) -> Plan:
        """Motion from a commanded state (J,) at ``start`` along a checked chunk whose row k is due at ``base + (k + 1) * step_s``."""
        targets = self._targets.make(chunk)
        due = base + chunk.step_s * np.arange(1, len(chunk.data) + 1)
        skipped = int((due <= start + 1e-9).sum())
        if skipped == len(due):
            return self._refuse(targets, skipped, f"all its rows have passed: the last one was due {start - due[-1]:.3f} s ago")
        rows = len(targets.positions)
        workspace_clips, note = targets.workspace_clips, targets.note
        while rows > skipped:
            curve = self._curve(chunk, targets, base, due, rows, position)
            at_start, _ = curve.sample(np.array([start]))
            jump = float(np.abs(at_start[0] - position)[~self._steps].max())
            positions, velocities, clips = self._shape(curve, start, due[rows - 1], position, velocity)
            leaves = self._box.leaves(position, positions)
            if leaves is None:
                clips[0] += targets.position_clips
                return Plan(positions, velocities, due[:rows], skipped, jump, *clips, workspace_clips, targets.ik_failures, note)
            reached = int((due < start + (leaves + 1) * self._period).sum())
            workspace_clips += rows - min(rows - 1, reached)
            rows = min(rows - 1, reached)
            note = f"rows from {rows} on would take the tool out of the workspace box"
        return self._refuse(targets, skipped, note, workspace_clips)

    def _curve(self, chunk: Chunk, targets: Targets, base: float, due: np.ndarray, rows: int, position: np.ndarray) -> ReferenceCurve:
        points = np.vstack([chunk.reference, targets.positions[:rows]])
        points = np.clip(points, self._limits.lower, self._limits.upper)
        points[:, ~targets.moves] = position[~targets.moves]
        return ReferenceCurve(np.append(base, due[:rows]), points, self._steps)

    def _shape(
        self, curve: ReferenceCurve, start: float, last: float, position: np.ndarray, velocity: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        period, limits = self._period, self._limits
        count = max(1, math.ceil((last - start) / period - 1e-9))
        samples = count + math.ceil(CATCH_UP_S / period)
        wanted = curve.sample(start + period * np.arange(samples + 1))
        shaped = follow(*wanted, position, velocity, limits, period, self._gain)
        near = np.abs(shaped.positions - wanted[0][1:]) <= _ARRIVED_S * limits.velocity
        slow = np.abs(shaped.velocities) <= 0.5 * limits.acceleration * period
        arrived = np.flatnonzero((near & slow).all(axis=1)[count - 1 :])
        end = count + int(arrived[0]) if len(arrived) else samples
        rest, zero = brake(shaped.positions[end - 1], shaped.velocities[end - 1], limits, period)
        clips = np.array([shaped.position_clips, shaped.velocity_clips, shaped.acceleration_clips])
        return np.vstack([shaped.positions[:end], rest]), np.vstack([shaped.velocities[:end], zero]), clips

    def _refuse(self, targets: Targets, skipped: int, reason: str, workspace_clips: int | None = None) -> Plan:
        joints = len(self._limits.names)
        none, zero = np.zeros((0, joints)), np.zeros(joints, dtype=np.int64)
        clips = targets.workspace_clips if workspace_clips is None else workspace_clips
        return Plan(none, none, np.zeros(0), skipped, 0.0, targets.position_clips, zero, zero, clips, targets.ik_failures, "", reason)
