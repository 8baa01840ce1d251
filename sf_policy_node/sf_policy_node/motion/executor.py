"""The chunk executor: turns chunks of a policy and commands of an operator into joint trajectories.

All times are in seconds on one clock that the caller passes in, so simulated time works as well.
``doc/motion.md`` describes the rules. ``state_machine`` decides which events are possible and what
follows from them, ``chunks`` and ``teleoperation`` plan motions, ``safety/guard`` checks the
motions and stops the arm.
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
from sf_policy_node.motion.homing import Homing, Pose
from sf_policy_node.motion.refusals import ChunkRefused, MotionDelayed, MotionRefused
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.guard import Guard
from sf_policy_node.motion.safety.other_joints import OtherJoints
from sf_policy_node.motion.shadow import ShadowScore
from sf_policy_node.motion.state_machine import (
    TAKES_OVER,
    Event,
    Situation,
    State,
    may_go_home,
    transition,
)
from sf_policy_node.motion.status import ExecutorStatus, StatusLog
from sf_policy_node.motion.supervisor import (
    AGAIN,
    CONTROLLED_BY,
    IN_SHADOW_MODE,
    NOT_ACTIVE,
    PAUSED,
    SHUTTING_DOWN,
    Supervisor,
)
from sf_policy_node.motion.teleoperation import TeleoperationPlanner
from sf_policy_node.motion.types import Chunk, ControlSource, Join, Setpoint, Trajectory

_DELIVERY_S = 0.02  # time that a message takes to the controller
TICK_S_MIN = 0.01
"""The shortest period of :meth:`ChunkExecutor.tick` [s]."""


class ChunkExecutor:
    """Plans and checks the motions of all arms of one robot. Calls must not overlap.

    Methods that return a trajectory leave it to the caller to send it; None means that there is
    nothing to send.

    Args:
        shadow: shadow mode: plan as usual while the operator moves the arm; the caller sends
            nothing.
        join: the blending mode; None uses the mode that each chunk names.
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
        self._joins_at = -math.inf  # when the last planned motion replaces the one before it [s]
        self._from_rest = True  # whether the arm is stationary at that time
        self._ticked = math.inf  # when tick was called last, on the stopwatch [s]
        self._tick_period = max(1.0 / contract.rate_hz, TICK_S_MIN)
        self.workspace = workspace
        self.other_joints = OtherJoints(workspace, self._guard.clock.future_s)
        """Measured joints that are not commanded; its ``add`` takes their joint states."""
        self.homing: Homing | None = None
        """The motion to the home or rest pose; None: there is none."""

    # ---- lifecycle, pause and emergency stop ----

    def activate(self, now: float | None = None) -> None:
        """Allow motion, for chunks observed at ``now`` [s] (None: the latest time) or later.

        An instruction that started before must be given again.
        """
        now = self._guard.clock.begin(now)
        self._supervisor.apply(Event.ACTIVATED, now, "waiting for the first chunk")
        self._guard.activate()
        self._policy.block(f"the executor was activated after its instruction began; {AGAIN}")

    def deactivate(self, now: float | None = None) -> Trajectory | None:
        """Forbid motion and return a stop to send; a latched emergency stop remains latched.

        With streamed commands the caller sends the stop point by point until it ends, from ``now``
        on: :meth:`setpoint` returns nothing more.
        """
        was_active = self._supervisor.situation.active
        now, sent = (self._guard.clock.now, None) if now is None else self._supervisor.advance(now)
        stop = self._supervisor.apply(Event.DEACTIVATED, now) or sent
        if was_active and self._guard.streams and self._score is None:
            return self._guard.end_stream(now)
        return stop

    def shut_down(self, now: float) -> Trajectory | None:
        """Forbid every motion but that to the rest pose, and return a stop to send.

        Raises:
            MotionRefused: the executor is not active.
        """
        if not self._supervisor.situation.active:
            raise MotionRefused(NOT_ACTIVE)
        now, sent = self._supervisor.advance(now)
        return self._supervisor.apply(Event.SHUTDOWN, now, SHUTTING_DOWN) or sent

    def pause(self, paused: bool, now: float) -> Trajectory | None:
        """Pause or resume, and return a stop to send; None if the arm was not moving.

        While paused, an operator may move the arm; a policy, a replay and homing may not.

        Raises:
            ValueError: the executor is not active.
        """
        if not self._supervisor.situation.active:
            raise ValueError(NOT_ACTIVE)
        now, sent = self._supervisor.advance(now)
        event = Event.PAUSED if paused else Event.RESUMED
        return self._supervisor.apply(event, now, "resumed; waiting for a new chunk") or sent

    def on_emergency_stop(self, pressed: bool, now: float, button: str = "") -> Trajectory | None:
        """Take the state of an emergency stop button and return a stop to send.

        A pressed button latches the emergency stop. Releasing it does not reset the stop.

        Args:
            button: name of the button; all pressed buttons must be released before a reset.
        """
        if not pressed:
            self._pressed.discard(button)
            return None
        self._pressed.add(button)
        return self.emergency_stop(now)

    def emergency_stop(self, now: float) -> Trajectory | None:
        """Latch the emergency stop and return the fastest stop that the limits allow.

        Called again during that stop, it returns its rest. None when the arm holds position.
        """
        latched = self._supervisor.situation.latched
        now, sent = self._supervisor.advance(now)
        if self._supervisor.situation.settling:
            if stop := self._supervisor.apply(Event.EMERGENCY_STOP, now):
                return stop
            return self._supervisor.sent_stop(self._guard.brake_after_clock_jump(now), now)
        repeat = self._guard.repeat(now) if latched and self._guard.moving(now) else None
        return repeat or self._supervisor.apply(Event.EMERGENCY_STOP, now) or sent

    def inherit_emergency_stop(self, before: ChunkExecutor) -> None:
        """Take over the latch of the executor that this one replaces; only operators reset it."""
        self._pressed = set(before._pressed)
        self._supervisor.situation = dataclasses.replace(
            self._supervisor.situation, latched=before.situation.latched
        )
        self._supervisor.report("")

    def reset_emergency_stop(self, now: float | None = None) -> None:
        """Reset the latched emergency stop.

        The arm holds position until an instruction is given, or a leader is taken over again.

        Args:
            now: chunks observed earlier are refused [s]; None: the latest time passed in.

        Raises:
            ValueError: a button is still pressed.
        """
        if self._pressed:
            raise ValueError(f"{len(self._pressed)} emergency stop still pressed; release first")
        if not self._supervisor.situation.latched:
            return
        now, waits = self._guard.clock.now if now is None else now, "waiting for a new instruction"
        self._supervisor.control_until = -math.inf
        self._supervisor.apply(Event.RESET, now, f"the emergency stop was reset; {waits}")
        self._policy.block(f"the emergency stop was reset after its instruction began; {AGAIN}")

    # ---- inputs ----

    def on_joint_state(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Take a joint state (J,) in the order of ``contract.command_joints``.

        It is ignored if a position is not finite. A velocity that is not finite counts as 0.
        """
        self._guard.on_joint_state(stamp, positions, velocities)
        if self._score is not None:
            self._score.measured(stamp, np.asarray(positions, dtype=float))

    def on_controller_reference(
        self,
        stamp: float,
        positions: np.ndarray,
        velocities: np.ndarray,
        joints: np.ndarray | None = None,
    ) -> None:
        """Take the reference state (N,) that a controller reports.

        Args:
            joints: (N,) indices of the controller's joints in ``contract.command_joints``; None:
                all, in order.
        """
        reference = np.asarray(positions, float), np.asarray(velocities, float)
        self._guard.monitor.references.add(stamp, *reference, joints)

    def on_controller_lost(
        self, reason: str, now: float, joints: Sequence[int] | None = None, *, taken: bool = False
    ) -> Trajectory | None:
        """Record that a controller no longer follows its last command and holds position.

        It was deactivated or restarted, or it aborted the motion. The next motion starts at the
        position that it holds then. Returns a stop for the controllers of other joints; None when
        there are none or they do not move.

        Args:
            joints: indices of the controller's joints; None: all.
            taken: another node commands the controller, so this executor sends it no stop at all.
        """
        return self._supervisor.lose_controller(reason, now, joints, taken=taken)

    def on_chunk(self, chunk: Chunk, now: float) -> Trajectory:
        """Blend a chunk into the current motion.

        Returns:
            The trajectory that replaces the current one. It ends stationary.

        Raises:
            ChunkRefused: the chunk is not executed; the current motion continues to its end.
        """
        self._before = dataclasses.replace(self._log.status), self._supervisor.situation
        begun = self._stopwatch() if self._stopwatch else 0.0
        try:
            if jump := self._guard.clock.jump(now):
                raise ChunkRefused(f"the clock jumped by {jump:+.3f} s; the next chunk is followed")
            now = self._guard.clock.advance(now)
            self._note_epoch(chunk.epoch)
            self._supervisor.check_follows_chunks(now)
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
            self._guard.leads.note_planning(self._stopwatch() - begun)
        return trajectory

    def on_policy_state(
        self, following: bool, epoch: int, reason: str, now: float
    ) -> Trajectory | None:
        """Take whether the policy works on the instruction of ``epoch``; stop if not."""
        self._note_epoch(epoch)
        if following or (self._policy.last is not None and epoch < self._policy.last.epoch):
            return None
        # Also refuses a chunk of this instruction that is still being delivered.
        self._policy.block("its instruction has ended", epoch)
        now, sent = self._supervisor.advance(now)
        if self._supervisor.situation.state is not State.FOLLOWING:
            return sent
        return self._supervisor.apply(Event.POLICY_ENDED, now, reason)

    def _note_epoch(self, epoch: int) -> None:
        """Note an instruction that began while the arm may not move: it must be given again."""
        if not self._supervisor.situation.active or self._supervisor.situation.latched:
            self._policy.note_epoch(epoch)

    def on_teleoperation(
        self,
        stamp: float,
        positions: np.ndarray,
        velocities: np.ndarray,
        now: float,
        source: ControlSource = ControlSource.TELEOPERATION,
    ) -> Trajectory:
        """Follow a teleoperation command: joints (J,) at ``positions``, moving at ``velocities``.

        The source keeps control until no command arrives for ``budgets.teleop_age_s``.

        Args:
            stamp: of the command [s].
            source: an operator; or a replay or homing, which yield to an operator and to a pause.

        Raises:
            MotionRefused: the command is not followed; the current motion continues to its end.
        """
        if self._score is not None:
            raise MotionRefused(IN_SHADOW_MODE)
        leader = self._supervisor.leaders[source]
        leader.hear(heard := self._stopwatch() if self._stopwatch else now)
        if jump := self._guard.clock.jump(now):
            raise MotionRefused(f"the clock jumped by {jump:+.3f} s; the next command is followed")
        now = self._guard.clock.advance(now)
        target, speed = self._teleoperation.check(stamp, positions, velocities, now)
        before, operator = self._supervisor.situation.source, ControlSource.TELEOPERATION
        if source is not operator and before is operator:
            raise MotionRefused("an operator teleoperates the arm and has priority over a replay")
        if source is not operator and self._supervisor.situation.paused:
            raise MotionRefused(PAUSED)
        self._supervisor.check_may_move(source)
        until = now + self.contract.budgets.teleop_age_s
        try:
            start = self._guard.start(now)
        except MotionDelayed:
            if before is source:  # the source is not silent
                self._supervisor.control_until = until
            raise
        leader.check(target, start.position, heard)
        if before is not source:
            self._teleoperation.take_over()
        self._supervisor.control_until = until
        self._supervisor.apply(TAKES_OVER[source], now, CONTROLLED_BY[source])
        plan = self._teleoperation.plan(target, speed, start.position, start.velocity)
        if reason := self._teleoperation.reason:
            self._log.status.workspace_clips += 1
            self._log.report(f"{CONTROLLED_BY[source]}, not all the way: {reason}")
        if plan is None:
            raise MotionRefused(f"{reason} on the way to the commanded joints")
        clips = plan.position_clips, plan.velocity_clips, plan.acceleration_clips
        self._log.clipped(position=clips[0], velocity=clips[1], acceleration=clips[2])
        trajectory = self._guard.admit(start, plan.positions, plan.velocities, now)
        self._joins_at, self._from_rest = start.time, not start.moving
        self._supervisor.stop_watch.end()
        return trajectory

    def go_home(self, now: float, arms: Collection[str] = (), pose: Pose = Pose.HOME) -> None:
        """Start homing: plan the motion to a pose; :meth:`continue_homing` executes it.

        Homing ends the policy's instruction and yields to an operator, a pause and every stop.

        Args:
            arms: names of the arms that move; empty: all.
            pose: after :meth:`shut_down` only the rest pose.

        Raises:
            MotionRefused: the arm may not move, or the motion would break a limit or collide;
                nothing changes.
        """
        if self._score is not None:
            raise MotionRefused(IN_SHADOW_MODE)
        self._supervisor.check_may_move(ControlSource.HOME)
        situation = self.situation
        if situation.ending and pose is not Pose.REST:
            raise MotionRefused(SHUTTING_DOWN)
        if situation.paused:
            raise MotionRefused(PAUSED)
        if not may_go_home(situation):
            raise MotionRefused(f"{CONTROLLED_BY[situation.source]}; wait until that has ended")
        now = self._guard.clock.advance(now)
        start = self._guard.start(now)
        self.homing = Homing(self.contract, self.workspace, start.position, arms, start.time, pose)
        self._policy.block(f"the arm was sent to its {pose} pose; {AGAIN}")

    def continue_homing(self, now: float) -> Trajectory | None:
        """Return the next trajectory of the motion to the home or rest pose.

        Must be called several times within ``budgets.teleop_age_s``, until :attr:`homing` is None.
        In the call that ends homing, a stop or None is returned.

        Raises:
            MotionRefused: homing ended early; the current motion continues to its end.
        """
        if (homing := self.homing) is None:
            return None
        source = ControlSource.HOME
        has_control = self._supervisor.situation.source is source
        try:
            if homing.has_started and not has_control:
                raise MotionRefused(self._log.status.reason or "the arm was stopped")
            path = self._guard.path  # None: the first trajectory was withdrawn
            if has_control and path is not None and homing.has_arrived(*path.state(now)):
                return self.end_homing(now, f"the arm is in its {homing.pose} pose")
            if homing.is_overdue(now):
                raise MotionRefused("the arm did not arrive in time; find out what slows it down")
            trajectory = self.on_teleoperation(now, *homing.target(now), now, source)
        except MotionDelayed:
            return None
        except MotionRefused:
            self.homing = None
            raise
        homing.has_started = True
        return trajectory

    def end_homing(self, now: float, reason: str) -> Trajectory | None:
        """End homing wherever the arm is and return a stop to send; None if it was not moving."""
        self.homing = None
        now, sent = self._supervisor.advance(now)
        if self._supervisor.situation.source is not ControlSource.HOME:
            return sent
        return self._supervisor.apply(Event.LEADER_SILENT, now, reason)

    def is_stationary(self, now: float) -> bool:
        """Return whether no motion is commanded and fresh joint states show a stationary arm."""
        return not self._guard.moving(now) and self._guard.monitor.is_stationary(now)

    def is_too_late(self, now: float) -> bool:
        """Return whether the last trajectory would arrive after the time at which it starts."""
        delivery = 0.0 if self._from_rest else _DELIVERY_S
        return now + self._guard.clock.possible_delay + delivery > self._joins_at

    def withdraw(self, reason: str) -> None:
        """Undo the last :meth:`on_chunk`, whose trajectory was not sent, and report ``reason``."""
        self._policy.withdraw()
        status, self._supervisor.situation = self._before
        self._log.withdrawn(status, reason)

    def withdraw_teleoperation(self) -> None:
        """Undo the last :meth:`on_teleoperation`, because its trajectory was not sent."""
        self._guard.withdraw()

    def tick(self, now: float) -> Trajectory | None:
        """Monitor the arm and return a trajectory to send when something is wrong, else None.

        Must be called at ``contract.rate_hz``, or at 100 Hz where that is lower.
        """
        if self._stopwatch:
            beat = self._stopwatch()
            self._guard.leads.note_delay(beat - self._ticked - self._tick_period)
            self._ticked = beat
        return self._supervisor.tick(now)

    def setpoint(self, now: float) -> Setpoint | None:
        """Return the command to stream at ``now`` [s]; None when the arm is to hold position."""
        return self._supervisor.setpoint(now)

    @property
    def path(self) -> CommandedPath | None:
        """The commanded path; None: it is unknown what the controller follows."""
        return self._guard.path

    @property
    def situation(self) -> Situation:
        """The conditions from which the state is derived."""
        return self._supervisor.situation

    @property
    def status(self) -> ExecutorStatus:
        """A snapshot of the status at the latest time passed in."""
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
