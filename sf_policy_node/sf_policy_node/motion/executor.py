"""Decides what the arm is told: a policy's chunks and a person's commands in, joint trajectories out.

Every time is in seconds on one clock that the caller passes in, so it works in simulated time as well.
The rules in words are in ``doc/motion.md``. ``planning`` and ``teleoperation`` make motions, ``guard`` lets them
through and stops the arm; what stands here is who may move it and what is said about it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.chunks.follower import ChunkFollower
from sf_policy_node.motion.chunks.frames import FixedFrames
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.guard import Guard
from sf_policy_node.motion.shadow import ShadowScore
from sf_policy_node.motion.status import REPLAY_SILENT, ExecutorState, ExecutorStatus, StatusLog
from sf_policy_node.motion.streaming import Stream
from sf_policy_node.motion.teleoperation import TeleoperationPlanner
from sf_policy_node.motion.types import Chunk, ControlSource, Join, Setpoint, Trajectory

_DELIVERY_S = 0.02  # from here to the controller
_FOLLOWING = (ExecutorState.EXECUTING, ExecutorState.SHADOW)
_LED_BY = {ControlSource.TELEOPERATION: "a person moves the arm", ControlSource.REPLAY: "an episode is replayed"}
_LED_NO_MORE = {ControlSource.TELEOPERATION: "a person let go of the arm", ControlSource.REPLAY: REPLAY_SILENT}


class ChunkExecutor:
    """Moves one arm. Calls must not overlap.

    Args:
        shadow: plan as usual for an arm that somebody else moves; the caller sends nothing.
        join: how chunks are joined; None: as each policy says.
        stopwatch, simulated: see :class:`~sf_policy_node.motion.safety.clock.ClockWatch`.

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
    ) -> None:
        self.contract = contract
        kinematics = Kinematics(contract)
        self.frames = FixedFrames(contract, kinematics)
        workspace = Workspace(contract, kinematics)
        self._guard = Guard(contract, workspace, stopwatch=stopwatch, simulated=simulated)
        names = self._guard.limits.names
        self._log = StatusLog(names)
        self._score = ShadowScore(len(names)) if shadow else None
        self._policy = ChunkFollower(contract, kinematics, workspace, self._guard, self._log, join=join, score=self._score)
        self._teleoperation = TeleoperationPlanner(contract, workspace)
        self._stream = Stream(contract.command.rate_hz, names, alone=self._guard.streams)
        self._paused = False
        self._led_until = -math.inf  # a person or a replay is in charge until then, unless heard again
        self._log.rest(ExecutorState.INACTIVE, "not active")

    # ---- lifecycle, pause and emergency stop ----

    def activate(self, now: float | None = None) -> None:
        """Allow motion, for chunks observed from ``now`` on (None: the latest time that was passed in)."""
        self._guard.active, self._paused = True, False
        self._policy.accept_from = self._guard.clock.now if now is None else now
        self._policy.forget_order()
        self._policy.forget_motion()
        self._guard.path = None
        self._stream.forget()
        self._rest("waiting for the first chunk")

    def deactivate(self, now: float | None = None) -> Trajectory | None:
        """Forbid motion; a stop to send when the arm was moving. A latched emergency stop stays latched."""
        self._guard.active = False
        trajectory = self._stop(self._guard.clock.now if now is None else self._guard.clock.advance(now))
        self._rest("")
        return trajectory

    def pause(self, paused: bool, now: float) -> Trajectory | None:
        """Stand still until resumed; a stop to send when the arm was moving. A person may still move the arm, a replay not.

        Raises:
            ValueError: the executor is not active.
        """
        if not self._guard.active:
            raise ValueError("the executor is not active; activate it first")
        now = self._guard.clock.advance(now)
        self._paused, self._policy.accept_from = paused, now
        if self._leader is ControlSource.TELEOPERATION:
            return None
        self._rest("resumed; waiting for a new chunk")
        return self._stop(now)

    def on_emergency_stop(self, pressed: bool, now: float) -> Trajectory | None:
        """The state of the button. Pressing latches; releasing does not reset."""
        latched = self._guard.stopped
        self._guard.press(pressed)
        return self._emergency_stop(now, latched) if pressed else None

    def emergency_stop(self, now: float) -> Trajectory | None:
        """Latch, and stop at once inside the limits; the rest of that stop when called again. None when the arm stands."""
        latched = self._guard.stopped
        self._guard.latch()
        return self._emergency_stop(now, latched)

    def take_latch(self, before: ChunkExecutor) -> None:
        """This executor takes the place of another one, whose emergency stop stays as it is until a person resets it."""
        self._guard.pressed, self._guard.stopped = before._guard.pressed, before._guard.stopped
        self._rest("")

    def reset_emergency_stop(self, now: float | None = None) -> None:
        """Clear the latch. The arm stays where it is until a chunk arrives that was observed afterwards.

        Raises:
            ValueError: while the button is still pressed.
        """
        latched = self._guard.stopped
        self._guard.reset()
        if latched:
            self._policy.accept_from = self._guard.clock.now if now is None else now
            self._led_until = -math.inf
            self._rest("the emergency stop was reset; waiting for a new chunk")

    # ---- inputs ----

    def on_joint_state(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Measured joints (J,) in the order of ``contract.command_joints``; values that are not finite count as lost."""
        self._guard.monitor.add(stamp, positions, velocities)
        if self._score is not None:
            self._score.measured(stamp, np.asarray(positions, dtype=float))

    def on_chunk(self, chunk: Chunk, now: float) -> Trajectory:
        """Join a chunk to the motion under way.

        Returns:
            The motion to send instead of the one before. It ends at rest.

        Raises:
            ChunkRefused: the motion under way goes on to its end.
        """
        self._before = dataclasses.replace(self._log.status)
        try:
            if jump := self._guard.clock.jump(now):
                raise ChunkRefused(f"the clock jumped by {jump:+.3f} s")
            now = self._guard.clock.advance(now)
            self._check_in_charge(now)
            chunk = self.frames.in_base(chunk)
            self._policy.check(chunk, now)
            stood = self._out_of_motion(now)
            trajectory = self._policy.follow(chunk, now)
            self._log.status.reason = self._log.status.reason or (stood and f"goes on; {stood}")
            return trajectory
        except MotionRefused as refusal:
            self._log.refused(chunk, refusal, say=self._log.status.state in (*_FOLLOWING, ExecutorState.HOLDING))
            raise refusal if isinstance(refusal, ChunkRefused) else ChunkRefused(str(refusal)) from None

    def on_policy_state(self, following: bool, epoch: int, reason: str, now: float) -> Trajectory | None:
        """The policy says whether it still follows the instruction of ``epoch``; a stop to send when it does not."""
        last = self._policy.last
        if following or (last is not None and epoch < last.epoch):
            return None
        self._policy.block("its instruction has ended", epoch)  # also when its first chunk is still on its way
        if self._log.status.state not in _FOLLOWING:
            return None
        self._rest(reason)
        return self._stop(self._guard.clock.advance(now))

    def on_teleoperation(
        self,
        stamp: float,
        positions: np.ndarray,
        velocities: np.ndarray,
        now: float,
        source: ControlSource = ControlSource.TELEOPERATION,
    ) -> Trajectory:
        """Bring the joints (J,) there, moving at ``velocities``: outranks the policy until silent for ``budgets.teleop_age_s``.

        Args:
            source: a person, or a replay: that yields to a person and to a pause.

        Raises:
            MotionRefused: the motion under way goes on to its end.
        """
        if jump := self._guard.clock.jump(now):
            raise MotionRefused(f"the clock jumped by {jump:+.3f} s")
        now = self._guard.clock.advance(now)
        target, speed = self._teleoperation.check(stamp, positions, velocities, now)
        leader = self._leader
        if source is ControlSource.REPLAY and leader is ControlSource.TELEOPERATION:
            raise MotionRefused("a person moves the arm, who outranks a replay")
        if source is ControlSource.REPLAY and self._paused:
            raise MotionRefused("the executor is paused")
        start = self._guard.start(now)
        if leader is not source:
            self._teleoperation.take_over()
        self._led_until = now + self.contract.budgets.teleop_age_s
        self._log.led(source, _LED_BY[source])
        plan = self._teleoperation.plan(target, speed, start.position, start.velocity)
        if plan is None:
            self._log.status.workspace_clips += 1
            raise MotionRefused("the teleoperation command leads the tool out of the workspace box")
        self._log.clipped(position=plan.position_clips, velocity=plan.velocity_clips, acceleration=plan.acceleration_clips)
        self._policy.forget_motion()
        return self._guard.admit(start, plan.positions, plan.velocities, now)

    def too_late(self, now: float) -> bool:
        """Whether the motion of the last :meth:`on_chunk` would reach a controller after it has left the one before it."""
        return now + self._guard.clock.unheard + _DELIVERY_S > self._policy.joins_at

    def withdraw(self, reason: str) -> None:
        """The trajectory that :meth:`on_chunk` just returned was not sent: what was sent before it is in force."""
        self._policy.withdraw()
        self._log.withdrawn(self._before, reason)

    def tick(self, now: float) -> Trajectory | None:
        """The watchdog, to be called regularly: a stop to send when the motion under way must not go on."""
        if jump := self._guard.clock.jump(now):
            return self._after_clock_jump(now, jump)
        now, state = self._guard.clock.advance(now), self._log.status.state
        if self._guard.clock.stands:  # nothing has an age until it goes on
            return None
        if self._guard.settling:
            return self._guard.settle(now)
        if state is ExecutorState.TELEOPERATION:
            return self._watch_leader(now)
        if state not in _FOLLOWING:
            return None
        if ended := self._out_of_motion(now):
            self._rest(f"{ended}: stands at the end of the last one")
            return None
        return self._watch_arm(now)

    def setpoint(self, now: float) -> Setpoint | None:
        """For outputs that send one command after another: where the joints are to be now; None when the arm is to stay."""
        if self._score is not None or self._guard.clock.jump(now):
            return None
        if self._guard.path is None:
            self._stream.forget()
            return None
        setpoint, lost = self._stream.at(self._guard.path, now)
        if lost:
            self._guard.stay(now, setpoint.positions)
            self._rest(f"stopped: this process stood still for {lost:.2f} s in the middle of a motion")
            self._policy.accept_from = now
            self._policy.forget_motion()
        return setpoint

    # ---- what it says ----

    @property
    def path(self) -> CommandedPath | None:
        """What the controller was told last; None before the first motion."""
        return self._guard.path

    @property
    def status(self) -> ExecutorStatus:
        """A snapshot, as of the latest time that was passed in."""
        now = self._guard.clock.now
        status = self._log.snapshot(guard_refusals=self._guard.refusals, joint_state_age_s=self._guard.monitor.age(now))
        if status.state in _FOLLOWING:
            status.chunk_age_s = now - self._policy.last.stamp
            status.queue_depth = self._policy.rows_ahead(now)
        if self._score is not None:
            status.shadow_error_rms, status.shadow_error_max = self._score.rms, self._score.largest
            status.shadow_rows = self._score.rows
        return status

    # ---- how ----

    def _check_in_charge(self, now: float) -> None:
        if problem := self._guard.problem(now):
            raise ChunkRefused(problem)
        if self._leader is not None:
            raise ChunkRefused(_LED_BY[self._leader])
        if self._paused:
            raise ChunkRefused("the executor is paused")

    @property
    def _leader(self) -> ControlSource | None:
        """Whose joint commands are followed; None when nobody's are."""
        return self._log.leader if self._log.status.state is ExecutorState.TELEOPERATION else None

    def _out_of_motion(self, now: float) -> str:
        """That the last chunk was followed to its end, when nobody has said so yet: a process that stood still hears the next one first."""
        if self._log.status.state not in _FOLLOWING or self._guard.moving(now):
            return ""
        return f"no new chunk for {now - self._policy.last.stamp:.2f} s"

    def _watch_leader(self, now: float) -> Trajectory | None:
        if now > self._led_until:
            self._policy.accept_from = now
            self._rest(f"{_LED_NO_MORE[self._leader]}; waiting for a new chunk")
            return self._stop(now)
        return self._watch_arm(now) if self._guard.moving(now) else None

    def _watch_arm(self, now: float) -> Trajectory | None:
        if problem := self._guard.problem(now):
            self._rest(f"stopped: {problem}")
            return self._stop(now)
        deviation = None if self._score is not None else self._guard.monitor.deviation(self._guard.path)
        if deviation is None:
            return None
        self._policy.block("the arm was blocked while following this instruction; clear its way and give an instruction again")
        what = f"{deviation.joint} is {deviation.distance:.2f} from where it was sent"
        if deviation.elsewhere:  # the controller follows somebody else, or the arm was reset: do not pull it back
            self._rest(f"stopped: {what}; find out who moved it and give an instruction again")
            self._policy.forget_motion()
            return self._guard.stay(now, deviation.measured)
        self._rest(f"stopped: {what}, something is in its way; clear it and give an instruction again")
        return self._stop(now, give_way_to=deviation.measured)

    def _emergency_stop(self, now: float, latched: bool) -> Trajectory | None:
        if jump := self._guard.clock.jump(now):
            trajectory = self._guard.after_clock_jump(now, jump)
        else:
            now = self._guard.clock.advance(now)
            trajectory = self._guard.rest_of_stop(now) if latched else self._stop(now)
        self._rest("")
        return trajectory

    def _stop(self, now: float, give_way_to: np.ndarray | None = None) -> Trajectory | None:
        trajectory = self._guard.stop(now, give_way_to)
        if trajectory is not None:
            self._policy.stopped(self._guard.path.end)
        return trajectory

    def _after_clock_jump(self, now: float, jump: float) -> Trajectory | None:
        trajectory = self._guard.after_clock_jump(now, jump)
        self._stream.clock_set(jump)
        self._policy.accept_from, self._led_until = now, -math.inf
        self._policy.forget_order()
        self._policy.forget_motion()
        self._rest(f"stopped: the clock went {'back' if jump < 0 else 'forward'} by {abs(jump):.3f} s")
        return trajectory

    def _rest(self, reason: str) -> None:
        if self._guard.stopped:
            self._log.rest(ExecutorState.STOPPED, "emergency stop: release it, call reset_emergency_stop, then send a new chunk")
        elif not self._guard.active:
            self._log.rest(ExecutorState.INACTIVE, "not active")
        elif self._paused:
            self._log.rest(ExecutorState.PAUSED, "paused; call the pause service with false to go on")
        else:
            self._log.rest(ExecutorState.HOLDING, reason)
