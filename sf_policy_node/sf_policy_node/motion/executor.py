"""Decides what the arm is commanded: a policy's chunks and an operator's commands in, joint
trajectories out.

Every time is in seconds on one clock that the caller passes in, so it works in simulated time as
well. The rules in words are in ``doc/motion.md``. ``state_machine`` says what may happen and what
follows from it, ``chunks`` and ``teleoperation`` make motions, ``safety/guard`` lets them through
and stops the arm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.chunks.follower import ChunkFollower
from sf_policy_node.motion.chunks.frames import FixedFrames
from sf_policy_node.motion.homing import Homing
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.guard import Guard
from sf_policy_node.motion.shadow import ShadowScore
from sf_policy_node.motion.state_machine import (
    Event,
    Situation,
    State,
    may_be_led,
    may_go_home,
    transition,
)
from sf_policy_node.motion.status import ExecutorStatus, StatusLog
from sf_policy_node.motion.supervisor import AGAIN, LED_BY, Supervisor
from sf_policy_node.motion.teleoperation import TeleoperationPlanner
from sf_policy_node.motion.types import Chunk, ControlSource, Join, Setpoint, Trajectory

_DELIVERY_S = 0.02  # from here to the controller
# Shares of the longest times that are remembered: from chunk to chunk, and from tick to tick.
_PLANNING_FORGOTTEN, _LATENESS_FORGOTTEN = 0.9, 0.99

TICK_S_MIN = 0.01  # the period of :meth:`ChunkExecutor.tick` is never shorter
_LEADS = {
    ControlSource.TELEOPERATION: Event.TELEOPERATION,
    ControlSource.REPLAY: Event.REPLAY,
    ControlSource.HOME: Event.HOME,
}


class ChunkExecutor:
    """Moves the arms of one robot, all on one timeline. Calls must not overlap.

    Args:
        shadow: plan as usual for an arm that somebody else moves; the caller sends nothing.
        join: how chunks are joined; None: as each policy says.
        stopwatch, simulated: see :class:`~sf_policy_node.motion.safety.clock.ClockWatch`.
        joint_state_problem: see :class:`~sf_policy_node.motion.safety.monitor.ArmMonitor`.

    Raises:
        ContractError: a limit is missing, or the URDF does not fit the contract.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        shadow: bool = False,
        join: Join | None = None,
        stopwatch: Callable[[], float] | None = None,
        simulated: bool = False,
        joint_state_problem: Callable[[float], str] | None = None,
    ) -> None:
        self.contract = contract
        kinematics = kinematics_of(contract)
        self.frames = FixedFrames(contract, next(iter(kinematics.values())))
        workspace = Workspace.of(contract, kinematics)
        self._guard = Guard(
            contract,
            workspace,
            stopwatch=stopwatch,
            simulated=simulated,
            joint_state_problem=joint_state_problem,
        )
        limits = self._guard.limits
        self._log = StatusLog(limits.names)
        self._score = ShadowScore(len(limits.names)) if shadow else None
        self._policy = ChunkFollower(
            contract, kinematics, workspace, self._guard, self._log, join=join, score=self._score
        )
        self._teleoperation = TeleoperationPlanner(contract, workspace)
        self._supervisor = Supervisor(contract, self._guard, self._policy, self._log, shadow=shadow)
        self._stopwatch = stopwatch
        self._pressed: set[str] = set()  # emergency stop buttons
        self._joins_at = -math.inf  # when the motion just returned leaves the one before it [s]
        self._from_rest = True

        self._ticked = math.inf  # when tick was called last, by the stopwatch [s]
        self._tick_period = max(1.0 / contract.rate_hz, TICK_S_MIN)
        self._workspace = workspace
        self.homing: Homing | None = None
        """The way home that has begun and not ended."""

    # ---- lifecycle, pause and emergency stop ----

    def activate(self, now: float | None = None) -> None:
        """Allow motion, for chunks observed from ``now`` on (None: the latest time passed in).

        An instruction that was under way before needs to be given again.
        """
        now = self._guard.clock.now if now is None else now
        self._supervisor.apply(Event.ACTIVATED, now, "waiting for the first chunk")
        self._guard.may_start_where_measured, self._guard.streamed = True, None
        self._supervisor.stream.forget()
        self._policy.block(f"the executor was activated after its instruction began; {AGAIN}")

    def deactivate(self, now: float | None = None) -> Trajectory | None:
        """Forbid motion; a stop to send when the arm was moving. A latched emergency stop stays."""
        now, sent = (self._guard.clock.now, None) if now is None else self._supervisor.advance(now)
        return self._supervisor.apply(Event.DEACTIVATED, now) or sent

    def pause(self, paused: bool, now: float) -> Trajectory | None:
        """Hold position until resumed; a stop to send when the arm was moving.

        An operator may still move the arm, a replay may not.

        Raises:
            ValueError: the executor is not active.
        """
        if not self._supervisor.situation.active:
            raise ValueError("the executor is not active; activate it first")
        now, sent = self._supervisor.advance(now)
        event = Event.PAUSED if paused else Event.RESUMED
        return self._supervisor.apply(event, now, "resumed; waiting for a new chunk") or sent

    def on_emergency_stop(self, pressed: bool, now: float, button: str = "") -> Trajectory | None:
        """Take the state of an emergency stop button. Pressing latches; releasing does not reset.

        Args:
            button: which one; every one that was pressed has to be released before a reset.
        """
        if not pressed:
            self._pressed.discard(button)
            return None
        self._pressed.add(button)
        return self.emergency_stop(now)

    def emergency_stop(self, now: float) -> Trajectory | None:
        """Latch, and stop at once inside the limits; the rest of that stop when called again.

        None when the arm holds position.
        """
        latched = self._supervisor.situation.latched
        now, sent = self._supervisor.advance(now)
        if self._supervisor.situation.settling:
            self._supervisor.apply(Event.EMERGENCY_STOP, now)
            return self._supervisor.sent_stop(self._guard.brake_after_clock_jump(now), now)
        repeat = self._guard.repeat(now) if latched and self._guard.moving(now) else None
        return repeat or self._supervisor.apply(Event.EMERGENCY_STOP, now) or sent

    def inherit_emergency_stop(self, before: ChunkExecutor) -> None:
        """Take over the latch of an executor that this one replaces: only a person resets it."""
        self._pressed = set(before._pressed)
        self._supervisor.situation = dataclasses.replace(
            self._supervisor.situation, latched=before.situation.latched
        )
        self._supervisor.report("")

    def reset_emergency_stop(self, now: float | None = None) -> None:
        """Clear the latch. The arm holds position until a chunk arrives that was observed
        afterwards.

        Raises:
            ValueError: while a button is still pressed.
        """
        if self._pressed:
            count = len(self._pressed)
            which = "the emergency stop is" if count == 1 else f"{count} emergency stops are"
            raise ValueError(f"{which} still pressed; release first")
        if not self._supervisor.situation.latched:
            return
        now = self._guard.clock.now if now is None else now
        self._supervisor.led_until = -math.inf
        self._supervisor.apply(
            Event.RESET, now, "the emergency stop was reset; waiting for a new chunk"
        )

    # ---- inputs ----

    def on_joint_state(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Take measured joints (J,) in the order of ``contract.command_joints``.

        Positions that are not finite count as lost, such velocities as left out.
        """
        self._guard.monitor.add(stamp, positions, velocities)
        self._guard.notice_joint_state(stamp)
        if self._score is not None:
            self._score.measured(stamp, np.asarray(positions, dtype=float))

    def on_controller_reference(
        self,
        stamp: float,
        positions: np.ndarray,
        velocities: np.ndarray,
        joints: np.ndarray | None = None,
    ) -> None:
        """Take what a controller commands by its own account (N,).

        Args:
            joints: (N,) which of the contract's joints the controller has; None: all, in order.
        """
        positions, velocities = np.asarray(positions, float), np.asarray(velocities, float)
        self._guard.monitor.add_reference(stamp, positions, velocities, joints)

    def on_controller_lost(
        self, reason: str, now: float, joints: Sequence[int] | None = None
    ) -> Trajectory | None:
        """A controller does not follow what it was commanded last, and holds position by itself.

        It was deactivated, started again, or ended the motion. It is sent nothing; the next motion
        starts where it is then. Controllers of other joints are stopped: what is returned is for
        them.

        Args:
            joints: indices of the joints that the controller has; None: all.
        """
        return self._supervisor.lose_controller(reason, now, joints)

    def on_chunk(self, chunk: Chunk, now: float) -> Trajectory:
        """Join a chunk to the motion under way.

        Returns:
            The motion to send instead of the one before. It ends at rest.

        Raises:
            ChunkRefused: the motion under way continues to its end.
        """
        self._before = dataclasses.replace(self._log.status), self._supervisor.situation
        begun = self._stopwatch() if self._stopwatch else 0.0
        try:
            if jump := self._guard.clock.jump(now):
                raise ChunkRefused(f"the clock jumped by {jump:+.3f} s")
            now = self._guard.clock.advance(now)
            self._check_follows_chunks(now)
            chunk = self.frames.in_base(chunk)
            self._policy.check(chunk, now)
            ended = self._supervisor.out_of_motion(now)
            trajectory = self._policy.follow(chunk, now)
        except MotionRefused as refusal:
            quiet = (State.FOLLOWING, State.HOLDING, State.BLOCKED, State.SETTLING)
            self._log.refused(chunk, refusal, say=self._supervisor.situation.state in quiet)
            raise (
                refusal if isinstance(refusal, ChunkRefused) else ChunkRefused(str(refusal))
            ) from None
        self._supervisor.situation = transition(self._supervisor.situation, Event.CHUNK).situation
        self._joins_at, self._from_rest = self._policy.joins_at, self._policy.starts_from_rest
        self._log.report(self._log.status.reason or (ended and f"resumes; {ended}"))
        self._supervisor.stop_watch.end()
        if self._stopwatch:
            guard, spent = self._guard, self._stopwatch() - begun
            guard.planning_s = max(_PLANNING_FORGOTTEN * guard.planning_s, spent)
        return trajectory

    def on_policy_state(
        self, following: bool, epoch: int, reason: str, now: float
    ) -> Trajectory | None:
        """Take whether the policy still follows the instruction of ``epoch``; a stop when not."""
        last = self._policy.last
        if following or (last is not None and epoch < last.epoch):
            return None
        self._policy.block(
            "its instruction has ended", epoch
        )  # also when its first chunk is on its way
        now, sent = self._supervisor.advance(now)
        if self._supervisor.situation.state is not State.FOLLOWING:
            return sent
        return self._supervisor.apply(Event.POLICY_ENDED, now, reason)

    def on_teleoperation(
        self,
        stamp: float,
        positions: np.ndarray,
        velocities: np.ndarray,
        now: float,
        source: ControlSource = ControlSource.TELEOPERATION,
    ) -> Trajectory:
        """Lead the joints (J,) to ``positions``, moving at ``velocities``.

        Outranks the policy until silent for ``budgets.teleop_age_s``.

        Args:
            source: an operator; or a replay or the way home, which yield to an operator and to a
                pause.

        Raises:
            MotionRefused: the motion under way continues to its end.
        """
        if self._score is not None:
            raise MotionRefused("the executor only shadows a policy and moves nothing")
        if jump := self._guard.clock.jump(now):
            raise MotionRefused(f"the clock jumped by {jump:+.3f} s")
        now = self._guard.clock.advance(now)
        target, speed = self._teleoperation.check(stamp, positions, velocities, now)
        before, operator = self._supervisor.situation.source, ControlSource.TELEOPERATION
        if source is not operator and before is operator:
            raise MotionRefused("an operator teleoperates the arm, who outranks a replay")
        if source is not operator and self._supervisor.situation.paused:
            raise MotionRefused("the executor is paused")
        self._check_may_move()
        start = self._guard.start(now)
        self._supervisor.leaders[source].check(target, start.position, now)
        if before is not source:
            self._teleoperation.take_over()
        self._supervisor.led_until = now + self.contract.budgets.teleop_age_s
        self._supervisor.apply(_LEADS[source], now, LED_BY[source])
        plan = self._teleoperation.plan(target, speed, start.position, start.velocity)
        self._log.status.workspace_clips += self._teleoperation.shortened
        if plan is None:
            raise MotionRefused("the teleoperation command leads the tool out of the workspace box")
        clips = plan.position_clips, plan.velocity_clips, plan.acceleration_clips
        self._log.clipped(position=clips[0], velocity=clips[1], acceleration=clips[2])
        trajectory = self._guard.admit(start, plan.positions, plan.velocities, now)
        self._joins_at, self._from_rest = start.time, not start.moving
        self._supervisor.stop_watch.end()
        return trajectory

    def go_home(self, now: float, arms: Collection[str] = ()) -> None:
        """Begin the way to the home pose; :meth:`lead_home` moves the arm.

        It ends the policy's instruction and yields to an operator, a pause and every stop.

        Args:
            arms: names of the arms that move; empty: all.

        Raises:
            MotionRefused: the arm may not move, or the way is not free; nothing changes.
        """
        if self._score is not None:
            raise MotionRefused("the executor only shadows a policy and moves nothing")
        self._check_may_move()
        situation = self._supervisor.situation
        if situation.paused:
            raise MotionRefused("the executor is paused; resume it first")
        if not may_go_home(situation):
            raise MotionRefused(f"{LED_BY[situation.source]}; wait until that has ended")
        now = self._guard.clock.advance(now)
        start = self._guard.start(now)
        self.homing = Homing(self.contract, self._workspace, start.position, arms, start.time)
        self._policy.block(f"the arm was sent home; {AGAIN}")

    def lead_home(self, now: float) -> Trajectory | None:
        """Return the next piece of the way home, to send; ``None`` once :attr:`homing` has ended.

        To be called several times within ``budgets.teleop_age_s``.

        Raises:
            MotionRefused: it ended on the way; the motion under way continues to its end.
        """
        homing, source = self.homing, ControlSource.HOME
        if homing is None:
            return None
        led = self._supervisor.situation.source is source
        try:
            if homing.under_way and not led:
                raise MotionRefused(self._log.status.reason or "the arm was stopped")
            if led and homing.has_arrived(*self._guard.path.state(now)):
                return self.end_homing(now, "the arm is at home; waiting for a new chunk")
            if homing.is_overdue(now):
                raise MotionRefused("the arm did not arrive in time; find out what limits its way")
            trajectory = self.on_teleoperation(now, *homing.target(now), now, source)
        except MotionRefused:
            self.homing = None
            raise
        homing.under_way = True
        return trajectory

    def end_homing(self, now: float, reason: str) -> Trajectory | None:
        """End the way home, wherever the arm is; a stop to send when it was moving."""
        self.homing = None
        now, sent = self._supervisor.advance(now)
        if self._supervisor.situation.source is not ControlSource.HOME:
            return sent
        return self._supervisor.apply(Event.LEADER_SILENT, now, reason)

    def too_late(self, now: float) -> bool:
        """The motion just returned would reach a controller after it has left the one before it."""
        delivery = 0.0 if self._from_rest else _DELIVERY_S
        return now + self._guard.clock.possible_delay + delivery > self._joins_at

    def withdraw(self, reason: str) -> None:
        """The trajectory that :meth:`on_chunk` just returned was not sent: the one before is in
        force.
        """
        self._policy.withdraw()
        status, self._supervisor.situation = self._before
        self._log.withdrawn(status, reason)

    def withdraw_lead(self) -> None:
        """The trajectory that :meth:`on_teleoperation` just returned was not sent."""
        self._guard.withdraw()

    def tick(self, now: float) -> Trajectory | None:
        """Watch the arm, to be called at least at ``contract.rate_hz`` or 100 Hz.

        A trajectory to send when something is wrong.
        """
        if self._stopwatch:
            beat, guard = self._stopwatch(), self._guard
            late = beat - self._ticked - self._tick_period
            guard.lateness_s = max(_LATENESS_FORGOTTEN * guard.lateness_s, late)
            self._ticked = beat
        return self._supervisor.tick(now)

    def setpoint(self, now: float) -> Setpoint | None:
        """Return where the joints are to be now, for outputs that send single commands.

        None when the arm is to hold position.
        """
        guard = self._guard
        if self._score is not None or guard.clock.jump(now):
            return None
        if guard.path is None:
            self._supervisor.stream.forget()
            guard.streamed = None
            return None
        setpoint, lost = self._supervisor.stream.at(guard.path, now)
        guard.streamed = self._supervisor.stream.place if guard.streams else None
        if lost:
            guard.freeze(now, setpoint.positions)
            reason = f"stopped: this process stood still for {lost:.2f} s in the middle of a motion"
            self._supervisor.apply(Event.STREAM_STALLED, now, reason)
        return setpoint

    # ---- what it says ----

    @property
    def path(self) -> CommandedPath | None:
        """What the controller was commanded last; None where that is not known."""
        return self._guard.path

    @property
    def situation(self) -> Situation:
        """From which the state follows."""
        return self._supervisor.situation

    @property
    def status(self) -> ExecutorStatus:
        """A snapshot, as of the latest time that was passed in."""
        now, shadow = self._guard.clock.now, self._score is not None
        status = self._log.snapshot(
            self._supervisor.situation,
            shadow=shadow,
            guard_refusals=self._guard.refusals,
            joint_state_age_s=self._guard.monitor.age(now),
        )
        if complaint := self._supervisor.stop_watch.complaint:
            status.reason = f"{complaint}; {status.reason}" if status.reason else complaint
        if self._supervisor.situation.state is State.FOLLOWING:
            status.chunk_age_s = now - self._policy.last.stamp
            status.queue_depth = self._policy.steps_ahead(now)
        if self._score is not None:
            status.shadow_error_rms, status.shadow_error_max = self._score.rms, self._score.largest
            status.shadow_rows = self._score.rows
        return status

    # ---- how ----

    def _check_may_move(self) -> None:
        situation = self._supervisor.situation
        if situation.latched:
            raise MotionRefused("the emergency stop is latched")
        if not situation.active:
            raise MotionRefused("the executor is not active")
        if not may_be_led(situation):
            raise MotionRefused("the arm has not been seen at rest since the clock was set")

    def _check_follows_chunks(self, now: float) -> None:
        self._check_may_move()
        if problem := self._guard.monitor.problem(now):
            raise ChunkRefused(problem)
        if self._supervisor.situation.is_led:
            raise ChunkRefused(LED_BY[self._supervisor.situation.source])
        if self._supervisor.situation.paused:
            raise ChunkRefused("the executor is paused")
