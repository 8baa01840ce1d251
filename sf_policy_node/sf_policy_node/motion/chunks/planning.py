"""Plans the motion of one chunk: selects the steps that are still due, draws a curve through them
and samples it inside all limits.
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
from sf_policy_node.motion.chunks.ensemble import Ensembles, TimedTargets
from sf_policy_node.motion.chunks.reference import ReferenceCurve
from sf_policy_node.motion.chunks.targets import TargetMaker, Targets
from sf_policy_node.motion.shaping import Shaped, brake, follow
from sf_policy_node.motion.types import Chunk

CATCH_UP_S = 0.5  # how long after its last step is due a motion may take to reach it
_GAIN = 8.0  # 1/s: the offset between old and new motion decays with a time constant of 1/8 s
_GRIPPER_GAIN = 25.0  # 1/s: a gripper opens and closes in steps and needs no smoothing
_ARRIVED_S = 1e-3  # a joint has arrived when its top speed covers the remaining error in this time
# A motion whose tool is too fast is planned again with slower joints: 3 % slower than the survey
# asks for, at most three times.
_SLOWER, _SLOWER_TRIES = 0.97, 3


@dataclass(frozen=True)
class Plan:
    """The planned motion of one chunk.

    Attributes:
        positions: (N, J) samples, one period apart, from one period after the start until all
            joints are stationary; N is 0 when the chunk is refused.
        velocities: (N, J).
        step_times: (R,) when the executed steps are due [s].
        predicted: the chunk's absolute targets, one for each arm, before averaging.
        targets: the joint targets after averaging.
        skipped: how many steps were due before the start.
        border_jump: largest difference between the chunk and the commanded joints at the start
            [rad or m], without binary grippers.
        clips: by cause, how many samples or steps (J,) a limit changed.
        workspace_clips: how many steps were moved into the box or dropped because of it.
        tool_speed_clips: 1 when the joints were slowed for the tool's speed limit, else 0.
        note: why steps were dropped; empty when none was.
        refused: why there is no motion; empty when there is one.
    """

    positions: np.ndarray
    velocities: np.ndarray
    step_times: np.ndarray
    predicted: tuple[TimedTargets, ...]
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
        """Whether a limit changed the motion.

        The acceleration limit does not count: every start from standstill needs it.
        """
        counts = [counts.sum() for cause, counts in self.clips.items() if cause != "acceleration"]
        return bool(
            sum(counts) + self.workspace_clips + self.tool_speed_clips + self.targets.ik_failures
        )


class ChunkPlanner:
    """Plans the motions of chunks of one contract."""

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
        """Plan the motion from a commanded state along a checked chunk.

        Args:
            base: step k of the chunk is due at ``base + (k + 1) * step_s`` [s].
            now: the current time [s]; the motion ends at most ``budgets.hold_s`` later.
            start: when the motion begins [s].
            position, velocity: the commanded state (J,) at ``start``.
            others: earlier chunks to average with (temporal ensembling); None: no averaging.
        """
        due = base + chunk.step_s * np.arange(1, len(chunk.data) + 1)
        predicted = self._targets.absolute(chunk, due)
        absolute = predicted if others is None else others.average(predicted)
        targets = self._targets.make(chunk, absolute)
        nothing = np.zeros((0, len(position)))
        plan = Plan(
            nothing,
            nothing,
            due,
            predicted,
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
                    f"all its steps have passed: the last one was due {start - due[-1]:.3f} s ago;"
                    " use a faster device or policy, or raise action.horizon"
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
        """Plan as many steps as stay inside the workspace and the tool's speed limit.

        The last step is dropped, or the joints are slowed, until the motion fits. When no step is
        left, the plan is refused.
        """
        due, targets = plan.step_times, plan.targets
        count, cuts, slower, note = len(targets.positions), plan.workspace_clips, 0, plan.note
        best: tuple[float, Shaped] | None = None  # the slowest motion of ``count`` steps so far
        while count > plan.skipped:
            curve = self._curve(chunk, targets, base, due, count, position)
            shaped, wanted = self._shape(
                curve, now, start, due[count - 1], position, velocity, limits
            )
            survey = self._workspace.survey(
                np.vstack([position, shaped.positions]), np.vstack([velocity, shaped.velocities])
            )
            if survey.first_violation is not None:
                reached = int((due < start + (survey.first_violation + 1) * self._period).sum())
                cuts += count - min(count - 1, reached)
                count = min(count - 1, reached)
                note = f"steps from {count} on are not executed: {survey.reason}"
                best = None
                continue
            # Slower joints lag behind each other, which can make the tool faster again.
            if best is None or survey.speed_factor > best[0]:
                best = survey.speed_factor, shaped
            if survey.speed_factor < 1.0 and slower < _SLOWER_TRIES:
                limits = limits.slowed(shaped.velocities, survey.speed_factor * _SLOWER)
                slower += 1
                continue
            shaped = best[1]
            jump = float(np.abs(wanted - position)[~self._steps].max())
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
                step_times=due[:count],
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
        count: int,
        position: np.ndarray,
    ) -> ReferenceCurve:
        points = np.vstack([chunk.reference, targets.positions[:count]])
        points = np.minimum(np.maximum(points, self._limits.lower), self._limits.upper)
        points[:, ~targets.moves] = position[~targets.moves]
        return ReferenceCurve(np.append(base, due[:count]), points, self._steps)

    def _shape(
        self,
        curve: ReferenceCurve,
        now: float,
        start: float,
        last: float,
        position: np.ndarray,
        velocity: np.ndarray,
        limits: JointLimits,
    ) -> tuple[Shaped, np.ndarray]:
        """Return the motion along a curve, and the curve's position (J,) at ``start``."""
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
        return append_stop(shaped, end, self._limits, period), wanted[0][0]


def append_stop(shaped: Shaped, end: int, limits: JointLimits, period: float) -> Shaped:
    """Return the first ``end`` samples of a motion, followed by the shortest stop."""
    rest, zero = brake(shaped.positions[end - 1], shaped.velocities[end - 1], limits, period)
    positions, velocities = (
        np.vstack([shaped.positions[:end], rest]),
        np.vstack([shaped.velocities[:end], zero]),
    )
    return dataclasses.replace(shaped, positions=positions, velocities=velocities)
