"""The guard: checks every motion before it is sent to the controller.

It knows the last command, the clock and the measured arm, and it can stop the arm on its own. It
treats a policy, an operator and a replay alike. The state machine decides whether the arm may move
at all, the guard does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.limits import JointLimits, require_limits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.refusals import MotionDelayed, MotionRefused
from sf_policy_node.motion.safety.clock import STALLED_S, ClockWatch
from sf_policy_node.motion.safety.commanded import CommandedPath, Start
from sf_policy_node.motion.safety.displacement import DisplacementWatch
from sf_policy_node.motion.safety.leads import Leads
from sf_policy_node.motion.safety.meeting import Approach, MeetingPlanner, State
from sf_policy_node.motion.safety.monitor import ArmMonitor
from sf_policy_node.motion.safety.stopping import Samples, retreat_candidates, stop_candidates
from sf_policy_node.motion.safety.verification import Motion, find_leap, find_violation
from sf_policy_node.motion.streaming import Stream
from sf_policy_node.motion.types import Trajectory

_VALID_S = 1.0  # how late a stop may arrive so that a controller still accepts it
_UNSURE = 0.1  # share of the tracking error by which the arm may differ from its estimated state
_DROOP = 0.25  # share of the tracking error by which a servo may droop at an unknown position
_REPORTS_S = 0.1  # time in which a controller reports several times


class Guard:
    """Checks, starts and stops the motions of all arms of a robot. Calls must not overlap.

    Args:
        stopwatch, simulated: see :class:`ClockWatch`.
        joint_state_problem: see :class:`ArmMonitor`.

    Raises:
        ContractError: a limit is missing.
    """

    def __init__(
        self,
        contract: Contract,
        workspace: Workspace,
        *,
        stopwatch: Callable[[], float] | None = None,
        simulated: bool = False,
        joint_state_problem: Callable[[float], str] | None = None,
    ) -> None:
        require_limits(contract)
        self.limits = JointLimits.of(contract)
        self.clock = ClockWatch(stopwatch, simulated=simulated)
        self.monitor = ArmMonitor(contract, joint_state_problem, self.clock.future_s)
        self.path: CommandedPath | None = None
        """The commanded path; None: it is unknown what the controller follows."""
        self.watches_arm = True  # False in shadow mode, in which an operator moves the arm
        self.refusals = 0
        self.streams = contract.output != "joint_trajectory"
        """Whether commands are streamed one by one instead of sent as trajectories."""
        steps = self.limits if self.streams and contract.output != "servo_twist" else None
        self.stream = Stream(contract.rate_hz, self.limits.names, steps, alone=self.streams)
        self._may_start_where_measured = False  # whether the next streamed motion may
        self.is_stop_due = False
        """Whether a stop waits for the next readings of a clock that may have been set."""
        self._displacement = DisplacementWatch(self.monitor.band, self.limits.acceleration)
        self._workspace = workspace
        self._period = 1.0 / contract.rate_hz
        self._meeting = MeetingPlanner(self.limits, self._period, workspace)
        self._is_gripper = self.limits.is_gripper
        self.leads = Leads(self._period, delivered=not self.streams)
        self.before: CommandedPath | None = None
        """The path that :attr:`path` replaced."""
        # The controller's motion to where :attr:`path` begins; None: it is on the path already.
        self._approach: Approach | None = None
        self._approach_before: Approach | None = None
        # After a clock jump: when the controller holds a known position; -inf: not yet.
        self._settled_at = -math.inf
        self._clock_path: CommandedPath | None = None  # at the last clock jump, on the new time
        self._reports_due = -math.inf  # until when controllers that report are waited for then [s]

    def activate(self) -> None:
        """Prepare the first motion after an activation.

        A streamed motion starts at the last command where that is known and the arm is near it:
        the controller still holds it, and servos that droop make the measured joints a step. While
        this executor was inactive, something else may have moved the arm, or the controller may
        have been restarted. If a joint is further than its tracking error from the last command, or
        jumped away from it, the motion starts where the arm is measured.
        """
        self._may_start_where_measured = True
        self.stream.forget()

    # ---- starts ----

    def moving(self, now: float) -> bool:
        """Return whether the controller has been commanded to move at ``now`` [s]."""
        return self.path is not None and self.stream.time(now) < self.path.end

    def on_joint_state(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Take a joint state (J,) and compare it with the commanded path and the clock."""
        self.clock.note_stamp(stamp)
        if (present := self.clock.estimate) > -math.inf:
            self.leads.note_stamp(stamp - present)
        if self.monitor.add(stamp, positions, velocities):
            # With streamed commands the arm is at most at the newest command.
            due = min(stamp, self.stream.time(stamp))
            self._displacement.compare(self.path, stamp, self.monitor.newest[1], due)

    def start(self, now: float) -> Start:
        """Return the state from which a new motion may start.

        Raises:
            MotionDelayed: the arm moves to the start, or the clock was read late.
            MotionRefused: the clock has stalled, joint states are missing or implausible, or the
                arm cannot start where it is measured.
        """
        if problem := self.monitor.problem(now):
            raise MotionRefused(problem)
        self.clock.check()
        moving = self.moving(now)
        if moving or not (self.path is None or self.streams or self.path.is_over(now)):
            if self._approach is not None and not self.path.is_reached(now):
                wait = self.path.begins - now
                raise MotionDelayed(
                    f"the arm moves to where it was measured, for {wait:.2f} s more"
                )
            watched = moving and self.watches_arm
            if watched and (reason := self.monitor.explain_standstill(self.path)):
                raise MotionRefused(reason)
            path, join = self.path, self._join(now + self.clock.possible_delay, self.leads.join)
        else:
            path, join = self._from_rest(now), 0
        return Start(path, join, path.time(join), *path.at(join), moving)

    def _join(self, now: float, lead: int) -> int:
        """Return the grid point, ``lead`` periods ahead, from which a motion can continue."""
        ahead = max(now, self.stream.time(now))
        return max(self.path.index(ahead) + 1 + lead, self.path.first_known)

    def _from_rest(self, now: float) -> CommandedPath:
        """Return a path with one point, at which an arm that holds position starts a motion.

        A controller that is not at its command is first moved to where the arm is measured.
        """
        lead = self.leads.start_s + self.clock.possible_delay
        start = self.monitor.start_position(self.path, now, self._displacement)
        if self.streams and self._may_start_where_measured and not start.is_commanded:
            self.path = None
        self._may_start_where_measured = False
        if start.is_commanded or (self.streams and self.path is None):
            if self.path is not None and not np.array_equal(
                self.path.positions[-1], start.position
            ):
                self.path = CommandedPath.resting(now, self._period, start.position)
            return CommandedPath.resting(now + lead, self._period, start.position)
        if self.streams:
            raise MotionRefused(
                f"{start.reason}, and streamed commands would make the arm jump there; find out "
                "what moved the arm, then deactivate and activate the executor"
            )
        if reason := self._violation_at(start.position):
            raise MotionRefused(f"{start.reason}; there, {reason}; move the arm back by hand")
        starts = [(each, 0.0 * each) for each in self._possible_positions(start.position)]
        needed = self._meeting.time(starts, start.position)
        if needed is None:
            raise MotionRefused(
                f"{start.reason}, and the limits allow no motion from its command to there; move"
                " the arm back by hand"
            )
        begins = now + lead + needed  # the message may arrive as late as the lead
        return CommandedPath.resting(begins, self._period, start.position, begins=begins)

    def _possible_positions(self, position: np.ndarray) -> list[np.ndarray]:
        """Return the commands (J,) with which the controller may hold an arm at ``position``."""
        known = [] if self.path is None else [self.path.positions[-1]]
        droop = _DROOP * self.limits.finite_tracking_error
        return [position + droop, self.monitor.newest[1], *known]

    def admit(
        self, start: Start, positions: np.ndarray, velocities: np.ndarray, now: float
    ) -> Trajectory:
        """Check a motion, make it the commanded path and return the trajectory to send.

        Args:
            positions, velocities: samples (N, J) from one period after ``start``.

        Raises:
            MotionRefused: the motion breaks a limit; the commanded path remains unchanged.
        """
        try:
            return self._release(start.path, start.join, (positions, velocities), now)
        except MotionRefused as refusal:
            self.refusals += 1
            raise MotionRefused(f"the guard refuses the motion: {refusal}") from None

    def withdraw(self) -> None:
        """Undo the last motion: its trajectory was not sent."""
        self.path, self._approach = self.before, self._approach_before
        self.stream.withdraw()

    # ---- stops ----

    def brake(self, now: float) -> Trajectory | None:
        """Stop the current motion as fast as the limits allow and return the trajectory to send.

        None when the arm holds position, or when no stop keeps the limits: the motion then
        continues to its end.
        """
        return self._stop(now, lambda path, join: stop_candidates(path, join, self.limits))

    def retreat(self, now: float, position: np.ndarray) -> Trajectory | None:
        """Stop and move back towards ``position`` (J,), where an obstacle keeps the arm.

        Returns as :meth:`brake` does.
        """
        return self._stop(
            now,
            lambda path, join: retreat_candidates(path, join, position, self.limits),
        )

    def _stop(self, now: float, candidates: Callable[..., Iterable[Samples]]) -> Trajectory | None:
        self.is_stop_due = (moving := self.moving(now)) and self.awaits_clock
        if self.is_stop_due or not moving:
            return None
        if now < self.path.begins and (early := self._stop_approach(now)):
            return early
        if not self.path.is_reached(now) and self.path.ends_at_begin:
            return None  # the motion in progress is a stop already
        # Newer joint states show that the clock message is late, and not the clock.
        delay = min(self.clock.possible_delay, max(STALLED_S, -self.monitor.age(now)))
        join = self._join(now + delay, self.leads.stop)
        for tool in (True, False):  # stopping is more important than staying in the workspace box
            for stop in candidates(self.path, join):
                try:
                    return self._release(self.path, join, stop, now, stop=True, tool=tool)
                except MotionRefused:
                    pass
        self.refusals += 1  # the current motion ends stationary on its own
        return None

    @property
    def awaits_clock(self) -> bool:
        """Whether the next readings decide if the clock was set, or this process was delayed."""
        return self.clock.is_behind and not self.streams

    def _stop_approach(self, now: float) -> Trajectory | None:
        """Stop an arm on its way to where the path begins; None: it is not on that way."""
        approach = self._approach
        if approach is None or not approach.is_known:
            return None
        measured = None if self.monitor.problem(now) else self.monitor.newest[1]
        states = approach.possible_states(measured, now, self.limits.tracking_error)
        return self._brake_from(now, states[0], states[1:]) if states else None

    def repeat(self, now: float) -> Trajectory | None:
        """Return the rest of the commanded path, to send again; None while no path is known, the
        controller is still on its way to it, or the clock may have been set.
        """
        if self.path is None or not self.path.is_reached(now) or self.awaits_clock:
            return None
        return self.path.trajectory(now, self.limits.names, valid_until=now + _VALID_S)

    def meet(self, now: float, target: np.ndarray) -> Trajectory | None:
        """Stop the arm at ``target`` (J,), whatever state its controller is in.

        The controller may follow the commanded path, or hold position at ``target`` because it was
        restarted. A gripper keeps its commanded position. None where no motion keeps the limits:
        the current one then continues to its end.
        """
        target = self.limits.inside(target)
        if self.path is not None:
            target[self._is_gripper] = self.path.positions[-1][self._is_gripper]
        if self._violation_at(target):
            return self.brake(now)
        at_rest = [] if self.streams else [(target, np.zeros(len(target)))]
        starts = [self._last_command(now), *at_rest]
        if self._meeting.time(starts, target) is None:
            return self.brake(now)  # a joint is too fast to stop before its limit
        return self._meet(now, starts, target)

    def _meet(self, now: float, starts: list[State], target: np.ndarray) -> Trajectory | None:
        """Command ``target`` (J,) so far ahead that the limits hold from all ``starts``.

        Args:
            starts: the states in which the controller may be; the first is assumed for the path.
        """
        origin, motion = self._meeting.stop(starts, target, now, bridges=not self.streams)
        return self._release_stop(origin, motion, now)

    def _violation_at(self, position: np.ndarray) -> str:
        """Return why the arm must not be at ``position`` (J,): it is further outside the workspace
        than the last command, or in collision. Empty if it may.
        """
        if self.path is None:
            return ""
        return self._workspace.explain_violation(self.path.positions[-1], position[None])[1]

    def freeze(self, now: float, position: np.ndarray) -> None:
        """Hold the last streamed command (J,), because the stream stalled during a motion."""
        self._displacement.forget()
        self.stream.forget()
        self.before, self.path = self.path, CommandedPath.resting(now, self._period, position)

    def end_stream(self, now: float) -> Trajectory | None:
        """Return the rest of the motion for the output to stream on its own; None: there is none.

        It continues from the newest command, which may lag behind the path. The path is shifted by
        that lag, so that it is where the arm is commanded to be.
        """
        lag = self.stream.lag(now)
        self.stream.forget()
        if self.path is not None:
            self.path = self.path.shifted(lag)
        return self.repeat(now) if self.moving(now) else None

    # ---- every motion passes here ----

    def _release(
        self,
        base: CommandedPath,
        join: int,
        motion: Samples,
        now: float,
        *,
        stop: bool = False,
        tool: bool = True,
    ) -> Trajectory:
        """Check a motion, make it the commanded path and return the trajectory to send.

        Args:
            base: the path that the motion continues at grid point ``join``.
            motion: samples (N, J) from one period after ``join``.
            stop: the motion is a stop, which a controller accepts although it arrives late.
            tool: check the workspace box, collisions and the tool's speed as well.

        Raises:
            MotionRefused: a limit is broken; nothing changes.
        """
        position, velocity = base.at(join)
        candidate = Motion(
            self._period, np.vstack([position, motion[0]]), np.vstack([velocity, motion[1]])
        )
        violation = find_violation(candidate, self.limits, self._workspace if tool else None)
        if not violation and base is not self.path is not None:
            violation = find_leap(self._last_command(now), base, now, self.limits)
        if violation:
            raise MotionRefused(violation)
        self._approach_before = self._approach
        self.stream.begin(base.time(join), position)
        if base is not self.path:
            is_met = len(base.positions) == 1 and base.begins > now
            self._approach = self._bridge_to(base, now) if is_met else None
        self.before, self.path = self.path, base.spliced(join, *motion)
        return self.path.trajectory(
            now, self.limits.names, valid_until=now + _VALID_S if stop else -math.inf
        )

    def _release_stop(self, base: CommandedPath, motion: Samples, now: float) -> Trajectory | None:
        """Release a stop that begins with ``base``; None if it breaks a limit."""
        try:
            return self._release(base, 0, motion, now, stop=True, tool=False)
        except MotionRefused:
            self.refusals += 1
            return None

    def _bridge_to(self, base: CommandedPath, now: float) -> Approach:
        """Return the controller's motion from its last command to where ``base`` begins."""
        target, is_known = base.positions[0], self.path is not None
        origin = self._last_command(now)[0] if is_known or self.monitor.has_joint_states else target
        return Approach(now, origin, base.begins, target, is_known)

    def _last_command(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the commanded state (J,) at ``now`` [s]; the measured joints if none is known."""
        if self.path is not None:
            due = self.stream.time(now)
            if self._approach is not None and self._approach.is_known and due < self.path.begins:
                return self._approach.state(due)
            return self.path.state(due)
        position = self.limits.inside(self.monitor.newest[1])
        return position, np.zeros(len(position))

    # ---- the clock ----

    def after_clock_jump(self, now: float, jump: float) -> Trajectory | None:
        """Adapt to a clock that jumped by ``jump`` [s] to ``now`` and return a stop to send.

        A trajectory controller is somewhere on the old path, depending on its own clock. A stop
        that starts a few milliseconds beside it would make the arm jump, and the motion ends on its
        own: nothing is sent (None) until the arm has settled (:meth:`settle`). Streamed commands
        are timed by this process, so these brake.
        """
        before = now - jump  # this moment on the clock as it was
        moving = self.moving(before)
        self.stream.shift_clock(jump)
        self.is_stop_due = False
        reports = self.monitor.references.fresh(before)
        self._reports_due = now + _REPORTS_S if reports else -math.inf
        self._settled_at += jump
        self.clock.reset(now, jump)
        self.monitor.forget()
        self._displacement.forget()
        if self._clock_path is not None:
            self._clock_path = self._clock_path.shifted(jump)
        if self.path is None:
            return None
        if self.streams:
            self.path = self.path.shifted(jump)
            return self.brake(now) if moving else None
        if moving:
            self._clock_path, self.path = self.path.shifted(jump), None
            self._settled_at = -math.inf
        else:
            self.path = self.path.shifted(jump)
        return None

    def settle(self, now: float) -> tuple[Trajectory | None, bool]:
        """Command a known position after a clock jump during a motion; called until that is done.

        It is the end of the old path, or the measured position if no path is known. Returns a
        trajectory to send or None, and whether the arm has settled.
        """
        if self._settled_at > -math.inf:
            return None, now >= self._settled_at and self.monitor.is_stationary(now)
        if self._clock_path is not None and now < self._clock_path.end:
            return None, False  # the old motion lasts until then, whatever is measured
        if not self.monitor.is_stationary(now):
            return None, False
        measured = self.limits.inside(self.monitor.stationary_position())
        target = measured if self._clock_path is None else self._clock_path.positions[-1]
        if self.monitor.away(target, measured).any():
            # Something else moved the arm: it is not moved back.
            self.path = CommandedPath.resting(now, self._period, target)
            return None, True
        if (np.abs(target - measured) <= self.monitor.band)[~self._is_gripper].all():
            self._settled_at = now
            return self._hold(target, now), False
        possible = (measured, target + self.limits.finite_tracking_error, target)
        trajectory = self._meet(now, [(each, 0.0 * each) for each in possible], target)
        if trajectory is not None:
            self._settled_at = self.path.end
        return trajectory, False

    def _hold(self, position: np.ndarray, now: float) -> Trajectory | None:
        """Command a position (J,) that the controller already holds.

        The point is in the past. With a point in the future the controller would start from the
        measured joints, and a gripper would loosen its grip.
        """
        base = CommandedPath.resting(now - self._period, self._period, position)
        motion = position[None], np.zeros((1, len(position)))
        return self._release_stop(base, motion, now)

    def brake_after_clock_jump(self, now: float) -> Trajectory | None:
        """Stop an arm whose time on its path is unknown after a clock jump.

        None while neither joint states nor the old path give its state, and for up to 0.1 s in
        which reports of its controllers are awaited.
        """
        if self.path is not None:  # the controller is on a known path again
            return self.repeat(now)
        path = self._clock_path
        if path is not None and self.monitor.references.confirm(path, now):
            self.path = path
            trajectory = self.brake(now)
            self._settled_at = self.path.end
            return trajectory
        if now < self._reports_due:
            return None
        state = None if self.monitor.problem(now) else self.monitor.state_from_positions()
        planned = None if path is None else path.state(now)
        if planned and (state is None or self.monitor.away(planned[0], state[0]).any()):
            state = planned
        if state is None:
            return None
        trajectory = self._brake_from(now, state, [planned] if planned else [])
        if trajectory is not None:
            self._settled_at = self.path.end
        return trajectory

    def stop_earlier_path(self, before: CommandedPath, now: float) -> Trajectory | None:
        """Stop a controller that ignored the last stop and still follows the path ``before``."""
        return self._brake_from(now, before.state(now), [self._last_command(now)])

    def _brake_from(self, now: float, state: State, others: list[State]) -> Trajectory | None:
        """Stop a controller that is in ``state`` (J,), close to it, or in one of ``others``.

        See :meth:`MeetingPlanner.stop_position` for where it stops.
        """
        path = self.path or self._clock_path
        grippers = None if path is None else path.state(now)[0][self._is_gripper]
        (position, velocity), target = self._meeting.stop_position([state, *others], grippers)
        unsure = _UNSURE * self.limits.finite_tracking_error
        starts = [(position + sign * unsure, velocity) for sign in (0.0, 1.0, -1.0)]
        return self._meet(now, [*starts, *others], target)
