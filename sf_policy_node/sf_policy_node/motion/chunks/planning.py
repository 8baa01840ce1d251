"""One chunk into motion: which rows are still ahead, the curve through them, and samples inside
every limit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.chunks.ensemble import Ensembles, Rows
from sf_policy_node.motion.chunks.reference import ReferenceCurve
from sf_policy_node.motion.chunks.targets import TargetMaker, Targets
from sf_policy_node.motion.shaping import Shaped, brake, follow
from sf_policy_node.motion.types import Chunk

CATCH_UP_S = 0.5  # how long after its last row a motion may still be on its way there
_GAIN = 8.0  # 1/s: a gap between old and new motion closes with a time constant of 1/8 s
_GRIPPER_GAIN = 25.0  # a gripper steps; nobody wants it smooth
_ARRIVED_S = 1e-3  # closer than this at top speed counts as arrived
_SLOWER, _SLOWER_TRIES = (
    0.97,
    3,
)  # a motion that was too fast for the tool is planned again with slower joints


@dataclass(frozen=True)
class Plan:
    """Samples (N, J), one period apart, from one period after the start to rest.

    ``row_times`` are when the rows are due [s]; ``border_jump`` is how far the chunk wanted the
    joints elsewhere at the start [rad or m]; clips are counted per joint (J,) by cause. ``refused``
    says why there is no motion, ``note`` why it is shorter.
    """

    positions: np.ndarray
    velocities: np.ndarray
    row_times: np.ndarray
    rows: tuple[Rows, ...]
    targets: Targets
    skipped: int = 0
    border_jump: float = 0.0
    clips: dict[str, np.ndarray] = field(default_factory=dict)
    workspace_clips: int = 0
    tool_speed_clips: int = 0
    note: str = ""
    refused: str = ""

    @property
    def clipped(self) -> bool:
        """Anything was cut; softening by the acceleration limit, which every start from rest needs,
        does not count.
        """
        counts = [counts.sum() for cause, counts in self.clips.items() if cause != "acceleration"]
        return bool(
            sum(counts) + self.workspace_clips + self.tool_speed_clips + self.targets.ik_failures
        )


class ChunkPlanner:
    """Plans chunks of one contract."""

    def __init__(
        self,
        contract: Contract,
        kinematics: Kinematics | Mapping[str, Kinematics],
        workspace: Workspace,
    ) -> None:
        self._workspace = workspace
        self._limits = JointLimits.of(contract)
        self._period = 1.0 / contract.rate_hz
        self._hold_s = contract.budgets.hold_s
        self._targets = TargetMaker(contract, kinematics, workspace)
        self._gain = np.where(self._limits.is_gripper, _GRIPPER_GAIN, _GAIN)
        binary = [
            column.kind is ColumnKind.GRIPPER and contract.arms[column.arm].gripper.binary
            for column in contract.columns.commands
        ]
        self._steps = np.array(binary)

    def plan(
        self,
        chunk: Chunk,
        base: float,
        now: float,
        start: float,
        position: np.ndarray,
        velocity: np.ndarray,
        others: Ensembles | None = None,
    ) -> Plan:
        """Motion from a commanded state (J,) at ``start`` along a checked chunk whose row k is due
        at ``base + (k + 1) * step_s``.

        It is at rest ``budgets.hold_s`` after ``now`` at the latest. ``others``: average with these
        earlier chunks.
        """
        due = base + chunk.step_s * np.arange(1, len(chunk.data) + 1)
        rows = self._targets.rows(chunk, due)
        targets = self._targets.make(chunk, rows if others is None else others.average(rows))
        nothing = np.zeros((0, len(position)))
        plan = Plan(
            nothing,
            nothing,
            due,
            rows,
            targets,
            int((due <= start + 1e-9).sum()),
            workspace_clips=targets.workspace_clips,
        )
        plan = dataclasses.replace(
            plan,
            note=targets.note,
            clips={"position": targets.position_clips, "step": targets.step_clips},
        )
        if plan.skipped == len(due):
            return dataclasses.replace(
                plan,
                refused=(
                    f"all its rows have passed: the last one was due {start - due[-1]:.3f} s ago"
                ),
            )
        limits = self._limits
        if targets.speed < 1.0:
            limits = dataclasses.replace(limits, velocity=limits.velocity * targets.speed)
        return self._inside(plan, chunk, base, now, start, position, velocity, limits)

    def _inside(
        self,
        plan: Plan,
        chunk: Chunk,
        base: float,
        now: float,
        start: float,
        position: np.ndarray,
        velocity: np.ndarray,
        limits: JointLimits,
    ) -> Plan:
        """As many rows as can be followed inside the workspace, no faster than the tool may go."""
        due, targets = plan.row_times, plan.targets
        rows, cuts, slower, note = len(targets.positions), plan.workspace_clips, 0, plan.note
        while rows > plan.skipped:
            curve = self._curve(chunk, targets, base, due, rows, position)
            shaped = self._shape(curve, now, start, due[rows - 1], position, velocity, limits)
            survey = self._workspace.survey(
                np.vstack([position, shaped.positions]), np.vstack([velocity, shaped.velocities])
            )
            if survey.leaves is not None:
                reached = int((due < start + (survey.leaves + 1) * self._period).sum())
                cuts += rows - min(rows - 1, reached)
                rows = min(rows - 1, reached)
                note = f"rows from {rows} on are not followed: {survey.why}"
                continue
            if survey.slower < 1.0 and slower < _SLOWER_TRIES:
                limits = limits.slowed(shaped.velocities, survey.slower * _SLOWER)
                slower += 1
                continue
            at_start, _ = curve.sample(np.array([start]))
            jump = float(np.abs(at_start[0] - position)[~self._steps].max())
            clips = {
                "position": shaped.position_clips + plan.clips["position"],
                "velocity": shaped.velocity_clips,
                "acceleration": shaped.acceleration_clips,
                "step": plan.clips["step"],
            }
            return dataclasses.replace(
                plan,
                positions=shaped.positions,
                velocities=shaped.velocities,
                row_times=due[:rows],
                border_jump=jump,
                clips=clips,
                workspace_clips=cuts,
                tool_speed_clips=int(slower > 0),
                note=note,
            )
        return dataclasses.replace(plan, workspace_clips=cuts, refused=note)

    def _curve(
        self,
        chunk: Chunk,
        targets: Targets,
        base: float,
        due: np.ndarray,
        rows: int,
        position: np.ndarray,
    ) -> ReferenceCurve:
        points = np.vstack([chunk.reference, targets.positions[:rows]])
        points = np.minimum(np.maximum(points, self._limits.lower), self._limits.upper)
        points[:, ~targets.moves] = position[~targets.moves]
        return ReferenceCurve(np.append(base, due[:rows]), points, self._steps)

    def _shape(
        self,
        curve: ReferenceCurve,
        now: float,
        start: float,
        last: float,
        position: np.ndarray,
        velocity: np.ndarray,
        limits: JointLimits,
    ) -> Shaped:
        period = self._period
        latest = max(
            1, math.floor((now + self._hold_s - start - self._limits.braking_s) / period) - 1
        )
        count = min(max(1, math.ceil((last - start) / period - 1e-9)), latest)
        samples = min(count + math.ceil(CATCH_UP_S / period), latest)
        wanted = curve.sample(start + period * np.arange(samples + 1))
        shaped = follow(*wanted, position, velocity, limits, period, self._gain)
        near = np.abs(shaped.positions - wanted[0][1:]) <= _ARRIVED_S * limits.velocity
        slow = np.abs(shaped.velocities) <= 0.5 * limits.acceleration * period
        arrived = np.flatnonzero((near & slow).all(axis=1)[count - 1 :])
        end = count + int(arrived[0]) if len(arrived) else samples
        return brought_to_rest(shaped, end, self._limits, period)


def brought_to_rest(shaped: Shaped, end: int, limits: JointLimits, period: float) -> Shaped:
    """Return the first ``end`` samples and the shortest stop after them."""
    rest, zero = brake(shaped.positions[end - 1], shaped.velocities[end - 1], limits, period)
    positions, velocities = (
        np.vstack([shaped.positions[:end], rest]),
        np.vstack([shaped.velocities[:end], zero]),
    )
    return dataclasses.replace(shaped, positions=positions, velocities=velocities)
