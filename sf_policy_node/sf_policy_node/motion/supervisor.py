"""Applies events to the state machine, performs the actions of its transitions, and monitors the
arm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from sf_policy_node.contract import Contract
from sf_policy_node.motion.chunks.follower import ChunkFollower
from sf_policy_node.motion.leader import LeaderWatch
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.findings import Deviation, Fault
from sf_policy_node.motion.safety.guard import Guard
from sf_policy_node.motion.safety.lost_path import LostPath
from sf_policy_node.motion.safety.playback import Playback, PlaybackWatch
from sf_policy_node.motion.safety.stop_watch import Act, StopWatch
from sf_policy_node.motion.state_machine import (
    Event,
    Memory,
    Situation,
    State,
    Stop,
    may_move,
    transition,
)
from sf_policy_node.motion.status import REPLAY_SILENT, StatusLog
from sf_policy_node.motion.types import ControlSource, Setpoint, Trajectory

CONTROLLED_BY = {
    ControlSource.TELEOPERATION: "an operator teleoperates the arm",
    ControlSource.REPLAY: "an episode is replayed",
    ControlSource.HOME: "the arm moves to its home or rest pose",
}
"""The sources of joint commands, with the reason while they control the arm."""
_RELEASED = {
    ControlSource.TELEOPERATION: "the operator released the arm",
    ControlSource.REPLAY: REPLAY_SILENT,
    ControlSource.HOME: "homing was not continued",
}
_FAULTS = {
    Fault.OBSTACLE: Event.OBSTACLE,
    Fault.STALLED: Event.ARM_ELSEWHERE,
    Fault.SCALED: Event.ARM_ELSEWHERE,
    Fault.ELSEWHERE: Event.SENSOR_FAULT,
    Fault.SENSOR: Event.SENSOR_FAULT,
}
AGAIN = "give an instruction again"
IN_SHADOW_MODE = (
    "the executor is in shadow mode and moves nothing; start it with shadow:=false to move the arm"
)
NOT_ACTIVE = "the executor is not active; activate it first"
PAUSED = "the executor is paused; call its pause service with false to resume"
SHUTTING_DOWN = "the executor is shutting down"
STATE_REASONS = {
    State.STOPPED: "emergency stop: release it, call reset_emergency_stop, give an instruction",
    State.INACTIVE: "not active",
    State.PAUSED: "paused; call the pause service with false to resume",
}


class Supervisor:
    """Holds the situation of one executor and reacts to events. Calls must not overlap.

    Args:
        shadow: shadow mode: the operator moves the arm and nothing is sent.
    """

    def __init__(
        self,
        contract: Contract,
        guard: Guard,
        policy: ChunkFollower,
        log: StatusLog,
        *,
        shadow: bool,
    ) -> None:
        self._guard, self._policy, self._log, self._shadow = guard, policy, log, shadow
        guard.watches_arm = not shadow
        limits, silent_s = guard.limits, contract.budgets.teleop_age_s
        self.situation = Situation()
        self.leaders = {source: LeaderWatch(limits, silent_s) for source in CONTROLLED_BY}
        self.control_until = -math.inf
        """When an operator, a replay or homing loses control without a new command [s]."""
        self.stop_watch = StopWatch(limits)
        self._lost: list[LostPath] = []
        self._playback = PlaybackWatch(limits)
        self._log.report(STATE_REASONS[State.INACTIVE])

    def apply(
        self, event: Event, now: float, reason: str = "", deviation: Deviation | None = None
    ) -> Trajectory | None:
        """Apply an event to the state machine, perform its actions and return a stop to send.

        Args:
            reason: for the status; some states have a reason of their own.
            deviation: of the arm, for events that stop it where it is measured.
        """
        step = transition(self.situation, event)
        self.situation = step.situation
        trajectory = self._end_motion(step.stop, now, deviation)
        if Memory.PATH in step.forget:
            self._guard.path = None
            self._guard.stream.forget()
        if Memory.MOTION in step.forget:
            self._policy.forget_motion()
        if Memory.ORDER in step.forget:
            self._policy.accept_any_order()
        if step.accept_from_now:
            self._policy.accept_from = now
        if event in (Event.ACTIVATED, Event.RESET):
            self._require_release("the arm was not allowed to move")
        self.report(reason)
        return trajectory

    def check_may_move(self, source: ControlSource) -> None:
        """Check that a source may move the arm now.

        Raises:
            MotionRefused: it may not.
        """
        situation = self.situation
        if situation.latched:
            raise MotionRefused(
                "the emergency stop is latched; release it, and call reset_emergency_stop"
            )
        if not situation.active:
            raise MotionRefused(NOT_ACTIVE)
        if situation.ending and source is not ControlSource.HOME:
            raise MotionRefused(SHUTTING_DOWN)
        if not may_move(situation):
            raise MotionRefused(
                "the arm has not been stationary since the clock jumped; wait until it is"
            )

    def check_follows_chunks(self, now: float) -> None:
        """Check that a chunk may move the arm now.

        Raises:
            MotionRefused, ChunkRefused: it may not.
        """
        self.check_may_move(ControlSource.POLICY)
        if problem := self._guard.monitor.problem(now):
            raise ChunkRefused(problem)
        if self.situation.is_teleoperated:
            raise ChunkRefused(CONTROLLED_BY[self.situation.source])
        if self.situation.paused:
            raise ChunkRefused(PAUSED)

    def _end_motion(self, stop: Stop, now: float, deviation: Deviation | None) -> Trajectory | None:
        match stop:
            case Stop.BRAKE:
                trajectory = self._guard.brake(now)
            case Stop.RETREAT:
                trajectory = self._guard.retreat(now, deviation.measured)
            case Stop.MEET:
                trajectory = self._guard.meet(now, deviation.measured)
            case _:
                return None
        return self.sent_stop(trajectory, now)

    def sent_stop(
        self, trajectory: Trajectory | None, now: float, before: CommandedPath | None = None
    ) -> Trajectory | None:
        """Start watching a stop that the guard has planned, and return it; None: there is none.

        Args:
            before: the path that the stop replaces; None: the guard's previous path.
        """
        if trajectory is not None:
            self._policy.end_motion(self._guard.path.end)
            if not self._shadow:
                self.stop_watch.begin(self._guard.path, before or self._guard.before, now)
        return trajectory

    def report(self, reason: str) -> None:
        """Set the reason of the status, unless the current state has a reason of its own."""
        self._log.report(STATE_REASONS.get(self.situation.state, reason))

    def advance(self, now: float) -> tuple[float, Trajectory | None]:
        """Advance the clock to ``now`` [s]; return the time and what to send after a clock jump.

        A streamed motion that stalled is abandoned before the caller plans a stop.
        """
        if jump := self._guard.clock.jump(now):
            return now, self._after_clock_jump(now, jump)
        now = self._guard.clock.advance(now)
        self._notice_stall(now)
        return now, None

    def tick(self, now: float) -> Trajectory | None:
        """Monitor the arm and return a trajectory to send when something is wrong, else None."""
        if jump := self._guard.clock.jump(now):
            return self._after_clock_jump(now, jump)
        now = self._guard.clock.advance(now)
        if self._guard.clock.is_stalled:  # ages are unknown until the clock continues
            return None
        if self.situation.settling:
            return self._settle(now)
        state = self.situation.state
        if self.situation.is_teleoperated:
            return self._watch_leader(now)
        if state is not State.FOLLOWING:
            return self._watch_stop(now)
        if ended := self.out_of_motion(now):
            return self.apply(
                Event.MOTION_ENDED, now, f"{ended}: holds position at the end of the last chunk"
            )
        return self._watch_arm(now)

    def setpoint(self, now: float) -> Setpoint | None:
        """Return the command to stream at ``now`` [s]; None when the arm is to hold position."""
        guard = self._guard
        if self._shadow or guard.clock.jump(now):
            return None
        return self._notice_stall(now) or guard.stream.next(guard.path, now)

    def _notice_stall(self, now: float) -> Setpoint | None:
        """Abandon a streamed motion that stalled and return the command to repeat.

        None: there is no such motion. The arm has stopped at the last command, so a stop that
        begins where the path is at ``now`` would make it jump there.
        """
        stream = self._guard.stream
        if self._shadow or self._guard.path is None or not (lost := stream.stall(now)):
            return None
        setpoint = stream.abandon(now)
        self._guard.freeze(now, setpoint.positions)
        reason = f"stopped: this process was suspended for {lost:.2f} s during a motion"
        self.apply(Event.STREAM_STALLED, now, reason)
        return setpoint

    def lose_controller(
        self, reason: str, now: float, joints: Sequence[int] | None = None, *, taken: bool = False
    ) -> Trajectory | None:
        """Forget the commanded path; see :meth:`ChunkExecutor.on_controller_lost`."""
        now, sent = self.advance(now)
        path = self._guard.path
        if self.situation.moves:
            self._policy.block(f"{reason}; {AGAIN}")
            self._require_release(reason)
            reason = f"stopped: {reason}; {AGAIN}"
        self.stop_watch.end()
        stop = self._stop_others(now, joints)
        if path is not None and not (self._shadow or self._guard.streams):
            every = range(len(self._guard.limits.names))
            lost = tuple(every if joints is None else joints)
            # Controllers for which no stop could be planned now are stopped when they move on.
            rest = () if stop else tuple(sorted(set(every) - set(lost)))
            left = () if taken else lost
            self._lost = [LostPath(path, each, now) for each in (left, rest) if each]
        return self.apply(Event.CONTROLLER_LOST, now, reason) or stop or sent

    def _stop_others(self, now: float, joints: Sequence[int] | None) -> Trajectory | None:
        """Stop all controllers except that of ``joints``; None where there is nothing to stop."""
        if joints is None or len(joints) == len(self._guard.limits.names) or self._shadow:
            return None
        stop = self._guard.brake(now)
        return None if stop is None else dataclasses.replace(stop, left_out=tuple(joints))

    def _stop_on_lost_path(self, now: float) -> Trajectory | None:
        """Stop a controller that is still on the path which it is said to have left."""
        guard = self._guard
        if guard.path is not None:
            self._lost = []
        if guard.awaits_clock:
            return None
        if self._lost and (
            slow := self._playback.find_slow(
                self._lost[0].path, guard.monitor.references.fresh(now)
            )
        ):
            self._keep_slow(slow, self._lost[0].path, now)
        lost = next((each for each in self._lost if each.is_followed(guard.monitor, now)), None)
        if lost is None:
            return None
        self._lost.remove(lost)
        guard.path = lost.path
        stop = guard.brake(now)
        others = sorted(set(range(len(guard.limits.names))) - set(lost.joints))
        if not (others or lost.is_certain):
            return self.sent_stop(stop, now)
        guard.path = None  # of the other controllers, or of one that is slower than its stop
        return stop and dataclasses.replace(stop, left_out=tuple(others))

    def _stop_slow(self, playback: Playback, path: CommandedPath, now: float) -> Trajectory | None:
        """Stop a controller that plays its path too slowly, where it is on the path."""
        names = self._guard.limits.names
        reason = (
            f"the controller of {names[playback.joints[0]]} follows its path at"
            f" {100.0 * playback.rate:.0f} % of its speed; set the speed scaling of the robot to"
            " 100 %"
        )
        stop = self.lose_controller(reason, now, playback.joints)
        self._keep_slow(playback, path, now)
        return stop or self._stop_on_lost_path(now)

    def _keep_slow(self, playback: Playback, path: CommandedPath, now: float) -> None:
        """Keep on which path a lost controller is, which plays ``path`` too slowly."""
        slow = LostPath(playback.played(path, now), playback.joints, now, is_certain=True)
        self._lost = [slow, *(each for each in self._lost if each.joints != slow.joints)]

    def out_of_motion(self, now: float) -> str:
        """Return why the motion ended if the last chunk ran out; empty when it did not.

        After a stall the next chunk can arrive before the watchdog reports it.
        """
        if self.situation.state is not State.FOLLOWING or self._guard.moving(now):
            return ""
        return f"no new chunk for {now - self._policy.last.stamp:.2f} s"

    def _watch_leader(self, now: float) -> Trajectory | None:
        if now > self.control_until:
            reason = f"{_RELEASED[self.situation.source]}; waiting for a new chunk"
            return self.apply(Event.LEADER_SILENT, now, reason)
        return self._watch_arm(now) if self._guard.moving(now) else None

    def _watch_arm(self, now: float) -> Trajectory | None:
        monitor, path = self._guard.monitor, self._guard.path
        if problem := monitor.problem(now):
            return self.apply(Event.JOINT_STATES_LOST, now, f"stopped: {problem}")
        if self._shadow:
            return None
        if slow := self._playback.find_slow(path, monitor.references.fresh(now)):
            return self._stop_slow(slow, path, now)
        if reference := monitor.references.deviation(path, now):
            sentence, joints = reference
            return self.lose_controller(f"{sentence}: it does not follow", now, joints)
        deviation = monitor.deviation(path)
        if deviation is None:
            return None
        self._policy.block(f"{deviation.reason}; {AGAIN}")
        self._require_release(deviation.reason)
        reason = f"stopped: {deviation.reason} and {AGAIN}"
        event = _FAULTS[deviation.fault]
        if deviation.fault is Fault.STALLED and monitor.references.confirm(path, now):
            event = Event.OBSTACLE  # the controller follows its path, so it needs no meeting point
        return self.apply(event, now, reason, deviation)

    def _require_release(self, reason: str) -> None:
        for leader in self.leaders.values():
            leader.require_release(reason)

    def _watch_stop(self, now: float) -> Trajectory | None:
        if self._guard.is_stop_due:
            return self.sent_stop(self._guard.brake(now), now)
        if stop := self._stop_on_lost_path(now):
            return stop
        act = self.stop_watch.check(now, self._guard.monitor)
        if self._guard.streams:  # the last command is repeated anyway
            return None
        match act:
            case Act.REPEAT:
                return self._guard.repeat(now)
            case Act.STOP_EARLIER_PATH:
                before = self.stop_watch.before
                return self.sent_stop(self._guard.stop_earlier_path(before, now), now, before)
        return None

    def _settle(self, now: float) -> Trajectory | None:
        if self.situation.latched and self._guard.path is None:
            return self.sent_stop(self._guard.brake_after_clock_jump(now), now)
        trajectory, settled = self._guard.settle(now)
        if settled:
            reason = self._log.status.reason
            self.apply(Event.SETTLED, now, reason)
        return trajectory

    def _after_clock_jump(self, now: float, jump: float) -> Trajectory | None:
        guard = self._guard
        moving = guard.moving(now - jump) and not guard.streams
        trajectory = guard.after_clock_jump(now, jump)
        self.control_until, self._lost = -math.inf, []
        self.stop_watch.end()
        event = Event.CLOCK_SET_IN_MOTION if moving else Event.CLOCK_SET_AT_REST
        direction = "back" if jump < 0 else "forward"
        reason = f"stopped: the clock went {direction} by {abs(jump):.3f} s"
        self.apply(event, now, f"{reason}; do not set it while the arm moves")
        return trajectory
