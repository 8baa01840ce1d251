"""Decides what the arm is told: chunks in, joint trajectories out, and a stop when anything is wrong.

Every time is in seconds on one clock that the caller passes in, so it works in simulated time as well.
The rules in words are in ``doc/motion.md``.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.checks import ChunkRefused, check_age, check_form, check_order
from sf_policy_node.motion.commanded import CommandedPath
from sf_policy_node.motion.kinematics import Kinematics
from sf_policy_node.motion.limits import JointLimits
from sf_policy_node.motion.monitor import ArmMonitor
from sf_policy_node.motion.planning import ChunkPlanner, Plan
from sf_policy_node.motion.shaping import brake
from sf_policy_node.motion.status import ExecutorState, ExecutorStatus
from sf_policy_node.motion.stopping import give_way, stop
from sf_policy_node.motion.types import Chunk, Trajectory
from sf_policy_node.motion.workspace import WorkspaceBox

CLOCK_BACK_S = 0.05  # a clock that goes back by more has jumped
# The old motion is kept for this long, so that a command that takes its time still joins it.
_LEAD_S = 0.04
_STOP_LEAD_S = 0.02
_FOLLOWING = (ExecutorState.EXECUTING, ExecutorState.SHADOW)


class ChunkExecutor:
    """Follows chunks of one contract. Calls must not overlap.

    Args:
        shadow: plan as usual for an arm that somebody else moves; the caller sends nothing.

    Raises:
        ContractError: when the URDF does not fit the contract.
    """

    def __init__(self, contract: Contract, *, shadow: bool = False) -> None:
        self.contract = contract
        self._contract_hash = contract.hash
        self._limits = JointLimits.of(contract)
        self._period = 1.0 / contract.command.rate_hz
        self._lead = max(1, math.ceil(_LEAD_S / self._period - 1e-9))
        self._stop_lead = max(1, math.ceil(_STOP_LEAD_S / self._period - 1e-9))
        kinematics = Kinematics(contract)
        self._box = WorkspaceBox(contract, kinematics)
        self._planner = ChunkPlanner(contract, kinematics, self._box)
        self._monitor = ArmMonitor(contract)
        self._shadow = shadow
        self._status = ExecutorStatus(self._limits.names)
        self._now = -math.inf
        self._active = False
        self._pressed = False
        self._last: Chunk | None = None
        self._accept_from = -math.inf  # chunks observed earlier are not followed
        self._blocked_epoch: int | None = None  # after a collision: chunks up to this epoch are not followed
        self._forget_motion()
        self._rest(ExecutorState.INACTIVE, "not active")

    # ---- lifecycle and emergency stop ----

    def activate(self, now: float | None = None) -> None:
        """Allow motion, for chunks observed from ``now`` on (None: the latest time that was passed in)."""
        self._active = True
        self._last = self._blocked_epoch = None
        self._accept_from = self._now if now is None else now
        self._forget_motion()
        if self._status.state is not ExecutorState.STOPPED:
            self._rest(ExecutorState.HOLDING, "waiting for the first chunk")

    def deactivate(self, now: float | None = None) -> Trajectory | None:
        """Forbid motion; a stop to send when the arm was moving. A latched emergency stop stays latched."""
        self._active = False
        trajectory = self._brake(self._now if now is None else self._advance(now))
        if self._status.state is not ExecutorState.STOPPED:
            self._rest(ExecutorState.INACTIVE, "not active")
        return trajectory

    def on_emergency_stop(self, pressed: bool, now: float) -> Trajectory | None:
        """The state of the button. Pressing latches; releasing does not reset."""
        self._pressed = pressed
        return self.emergency_stop(now) if pressed else None

    def emergency_stop(self, now: float) -> Trajectory | None:
        """Latch, and stop at once inside the limits; the rest of that stop when called again. None when the arm stands."""
        now = self._advance(now)
        if self._status.state is ExecutorState.STOPPED:
            under_way = self._path is not None and now < self._path.end
            return self._path.trajectory(now, self._limits.names) if under_way else None
        trajectory = self._brake(now)
        self._rest(ExecutorState.STOPPED, "emergency stop: release it, call reset_emergency_stop, then send a new chunk")
        return trajectory

    def reset_emergency_stop(self, now: float | None = None) -> None:
        """Clear the latch. The arm stays where it is until a chunk arrives that was observed afterwards.

        Raises:
            ValueError: while the button is still pressed.
        """
        if self._pressed:
            raise ValueError("the emergency stop is still pressed; release it first")
        if self._status.state is not ExecutorState.STOPPED:
            return
        self._accept_from = self._now if now is None else now
        if self._active:
            self._rest(ExecutorState.HOLDING, "the emergency stop was reset; waiting for a new chunk")
        else:
            self._rest(ExecutorState.INACTIVE, "not active")

    # ---- inputs ----

    def on_joint_state(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Measured joints (J,) in the order of ``contract.command_joints``; values that are not finite count as lost."""
        self._monitor.add(stamp, positions, velocities)

    def on_chunk(self, chunk: Chunk, now: float) -> Trajectory:
        """Join a chunk to the motion under way.

        Returns:
            The motion to send instead of the one before. It ends at rest.

        Raises:
            ChunkRefused: the motion under way goes on to its end.
        """
        now = self._advance(now)
        self._before = (self._path, self._row_times, self._motion.copy(), self._status.state)
        try:
            return self._follow_chunk(chunk, now)
        except ChunkRefused as refusal:
            self._status.chunks_refused += 1
            if self._active and self._status.state is not ExecutorState.STOPPED:
                self._status.reason = f"refused chunk {chunk.sequence}: {refusal}"
            raise

    @property
    def joins_at(self) -> float:
        """When the motion of the last :meth:`on_chunk` leaves the one before it [s]: too late to send it after that."""
        return self._joins_at

    def withdraw(self, reason: str) -> None:
        """The trajectory that :meth:`on_chunk` just returned was not sent: what was sent before it is in force."""
        self._path, self._row_times, self._motion, self._status.state = self._before
        self._status.reason = reason
        self._status.chunks_accepted -= 1
        self._status.chunks_refused += 1

    def tick(self, now: float) -> Trajectory | None:
        """The watchdog, to be called regularly: a stop to send when the motion under way must not go on."""
        if now < self._now - CLOCK_BACK_S:
            return self._after_clock_jump(now)
        now = self._advance(now)
        if self._status.state not in _FOLLOWING:
            return None
        if now >= self._path.end:
            self._hold(f"no new chunk for {now - self._last.stamp:.2f} s: stands at the end of the last one")
        elif problem := self._monitor.problem(now):
            self._hold(f"stopped: {problem}")
            return self._brake(now)
        elif not self._shadow:
            return self._check_tracking(now)
        return None

    # ---- what it says ----

    @property
    def path(self) -> CommandedPath | None:
        """What the controller was told last; None before the first motion."""
        return self._path

    @property
    def status(self) -> ExecutorStatus:
        """A snapshot, as of the latest time that was passed in."""
        status = dataclasses.replace(self._status, joint_state_age_s=self._monitor.age(self._now))
        if status.state in _FOLLOWING:
            status.chunk_age_s = self._now - self._last.stamp
            status.queue_depth = int((self._row_times > self._now).sum())
        return status

    # ---- how ----

    def _follow_chunk(self, chunk: Chunk, now: float) -> Trajectory:
        self._check_readiness(chunk, now)
        check_form(chunk, self.contract, self._contract_hash)
        check_age(chunk, self.contract, now)
        check_order(chunk, self._last)
        if chunk.stamp < self._accept_from:
            raise ChunkRefused("it was observed before the executor was activated or its emergency stop reset")
        if not self._shadow:
            self._monitor.check_reference(chunk)

        moving = self._path is not None and now < self._path.end
        path = self._path if moving else CommandedPath.resting(now, self._period, self._monitor.standing_position(self._path))
        join = path.index(now) + 1 + self._lead
        start = path.time(join)
        # Rows that passed while the arm stood still were not consumed: they are moved, not skipped.
        base = start - self._time_in_motion(chunk.stamp, start)
        plan = self._planner.plan(chunk, base, start, *path.at(join))
        self._count(plan, moving)
        if plan.refused:
            raise ChunkRefused(plan.refused)

        self._path = path.spliced(join, plan.positions, plan.velocities)
        self._row_times, self._joins_at = plan.row_times, start
        self._note_motion(start, self._path.end)
        self._last, self._blocked_epoch = chunk, None
        status = self._status
        status.state = ExecutorState.SHADOW if self._shadow else ExecutorState.EXECUTING
        status.reason, status.instruction, status.epoch = plan.note, chunk.instruction, chunk.epoch
        status.chunks_accepted += 1
        return self._path.trajectory(now, self._limits.names)

    def _check_readiness(self, chunk: Chunk, now: float) -> None:
        if not self._active:
            raise ChunkRefused("the executor is not active")
        if self._status.state is ExecutorState.STOPPED:
            raise ChunkRefused("the emergency stop is latched")
        if problem := self._monitor.problem(now):
            raise ChunkRefused(problem)
        if self._blocked_epoch is not None and chunk.epoch <= self._blocked_epoch:
            raise ChunkRefused("the arm was blocked while following this instruction; clear its way and give an instruction again")

    def _check_tracking(self, now: float) -> Trajectory | None:
        deviation = self._monitor.deviation(self._path)
        if deviation is None:
            return None
        self._blocked_epoch = self._last.epoch
        what = f"{deviation.joint} is {deviation.distance:.2f} from where it was sent"
        if deviation.elsewhere:  # the controller follows somebody else, or the arm was reset: do not pull it back
            self._hold(f"stopped: {what}; find out who moved it and give an instruction again")
            place = np.clip(deviation.measured, self._limits.lower, self._limits.upper)[None]
            self._path = CommandedPath.resting(now, self._period, place[0]).spliced(self._lead, place, np.zeros_like(place))
            self._motion.clear()
            return self._path.trajectory(now, self._limits.names)
        self._hold(f"stopped: {what}, something is in its way; clear it and give an instruction again")
        return self._brake(now, give_way_to=deviation.measured)

    def _brake(self, now: float, give_way_to: np.ndarray | None = None) -> Trajectory | None:
        """Stop the motion under way, if any; ``give_way_to`` (J,): and go back there."""
        if self._path is None or now >= self._path.end:
            return None
        join = self._path.index(now) + 1 + self._stop_lead
        if give_way_to is None:
            samples = stop(self._path, join, self._limits, self._box)
        else:
            samples = give_way(self._path, join, give_way_to, self._limits)
        self._path = self._path.spliced(join, *samples)
        if self._motion:
            self._motion[-1] = (self._motion[-1][0], self._path.end)
        return self._path.trajectory(now, self._limits.names)

    def _after_clock_jump(self, now: float) -> Trajectory | None:
        """The clock went back, and everything remembered has the wrong time: brake, in the new time."""
        trajectory, old = None, self._now
        if self._path is not None and old < self._path.end:
            position, velocity = self._path.state(old)
            path = CommandedPath(now, self._period, position[None], velocity[None])
            self._path = path.spliced(0, *brake(position, velocity, self._limits, self._period))
            trajectory = self._path.trajectory(now, self._limits.names)
        else:
            self._path = None
        self._now = self._accept_from = now
        self._last = None
        self._motion.clear()
        self._monitor.forget()
        if self._active and self._status.state is not ExecutorState.STOPPED:
            self._hold(f"stopped: the clock went back by {old - now:.3f} s")
        return trajectory

    def _advance(self, now: float) -> float:
        self._now = max(self._now, now)
        return self._now

    def _hold(self, reason: str) -> None:
        self._rest(ExecutorState.HOLDING, reason)

    def _rest(self, state: ExecutorState, reason: str) -> None:
        self._status.state, self._status.reason = state, reason

    def _forget_motion(self) -> None:
        self._path: CommandedPath | None = None
        self._row_times, self._joins_at = np.zeros(0), -math.inf
        self._motion: deque[tuple[float, float]] = deque(maxlen=64)  # when chunks were followed: (start, end)

    def _note_motion(self, start: float, end: float) -> None:
        if self._motion and start <= self._motion[-1][1]:
            start = self._motion.pop()[0]
        self._motion.append((start, end))

    def _time_in_motion(self, since: float, until: float) -> float:
        return sum(max(0.0, min(end, until) - max(start, since)) for start, end in self._motion)

    def _count(self, plan: Plan, moving: bool) -> None:
        status = self._status
        for name in ("position_clips", "velocity_clips", "acceleration_clips"):
            setattr(status, name, getattr(status, name) + getattr(plan, name))
        status.workspace_clips += plan.workspace_clips
        status.ik_failures += plan.ik_failures
        status.steps_skipped += plan.skipped
        if moving:
            status.border_jump_max = max(status.border_jump_max, plan.border_jump)
