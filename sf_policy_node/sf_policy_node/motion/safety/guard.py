"""The last component before the arm: every motion leaves from here, or not at all.

It knows what the controller was commanded last, the clock and the measured arm, and it can stop the
arm by itself. It works the same for a policy, an operator and a replay. Whether anything may move
is the state machine's decision, not the guard's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.limits import JointLimits, require_limits
from sf_policy_node.motion.arm.workspace import TOLERANCE, Workspace
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.safety.clock import STANDS_S, ClockWatch
from sf_policy_node.motion.safety.commanded import CommandedPath, Start
from sf_policy_node.motion.safety.displacement import DisplacementWatch
from sf_policy_node.motion.safety.meeting import (
    Approach,
    State,
    fits,
    meeting_times,
    samples,
)
from sf_policy_node.motion.safety.monitor import ArmMonitor
from sf_policy_node.motion.safety.stopping import Samples, ways_to_give_way, ways_to_stop
from sf_policy_node.motion.safety.verification import Motion, find_violation
from sf_policy_node.motion.shaping import brake
from sf_policy_node.motion.types import Trajectory

# The old motion is kept for this long, so that a command that takes its time still joins it.
JOIN_LEAD_S = 0.06  # from the arrival of a chunk to its first step, while the arm moves
_START_LEAD_S = 0.02  # from rest: what delivery takes, since the first steps from rest are tiny
_START_LEAD_MOST_S = 0.08
_STOP_LEAD_S = 0.04  # the controller's clock may be 30 ms ahead
_VALID_S = 1.0  # a stop is accepted by a controller although it arrives this late
_UNSURE = 0.1  # share of the tracking error by which the arm is measured beside its command
_DROOP = 0.25  # share of the tracking error by which a servo may droop at a place that is not known
_SAME_PLACE = 1e-6  # rad or m: rounding


class Guard:
    """Limits, starts and stops for all arms of a robot. Calls must not overlap.

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
        self.monitor = ArmMonitor(contract, joint_state_problem)
        self.clock = ClockWatch(stopwatch, simulated=simulated)
        self.path: CommandedPath | None = None
        """What the controller was commanded last; None: that is not known."""
        self.refusals = 0
        self.streams = contract.output != "joint_trajectory"
        self.streamed: float | None = None
        """Time on the path of the newest streamed command [s]; None while none is due."""
        self.takes_over = False
        """Streamed commands may start where the arm is measured: a person activated the
        executor.
        """
        self._displacement = DisplacementWatch(self.monitor.band, self.limits.acceleration)
        self._met_at = -math.inf  # since when displacement is watched: the path's ``begins``
        self.planning_s = 0.0  # how long planning took lately
        self.lateness_s = 0.0  # how late this process was called lately
        self._workspace = workspace
        self._period = 1.0 / contract.rate_hz
        self._grips = self.limits.is_gripper
        self._lead = max(1, math.ceil(JOIN_LEAD_S / self._period - 1e-9))
        self._stop_lead = max(1, math.ceil(_STOP_LEAD_S / self._period - 1e-9))
        self.before: CommandedPath | None = None
        """What was commanded before :attr:`path`."""
        self._approach: Approach | None = None  # to where :attr:`path` begins
        self._approach_before: Approach | None = None
        self._settled_at = -math.inf  # when the controller has been met, after the clock was set
        self._clock_path: CommandedPath | None = (
            None  # in force when the clock was set, on its time
        )

    # ---- starts ----

    def moving(self, now: float) -> bool:
        """The controller has been commanded to move at this time."""
        if self.path is None:
            return False
        return (now if self.streamed is None else min(now, self.streamed)) < self.path.end

    def notice_joint_state(self, stamp: float) -> None:
        """Compare a joint state that was received with the commanded path."""
        path = self.path
        if path is None or (stamp >= path.begins != self._met_at):
            self._displacement.forget()
            self._met_at = -math.inf if path is None else path.begins
        newest, positions, _ = self.monitor.newest
        if path is not None and newest == stamp >= path.begins:
            # A controller of single commands is where the newest command was, not further.
            due = stamp if self.streamed is None else min(stamp, self.streamed)
            self._displacement.add(stamp, positions - path.state(due)[0])

    def start(self, now: float) -> Start:
        """Return where a new motion may begin.

        Raises:
            MotionRefused: the clock or the joint states do not allow it, or nobody knows where the
                arm is.
        """
        if problem := self.monitor.problem(now):
            raise MotionRefused(problem)
        if self.clock.stands:  # it is later by nobody knows how much
            raise MotionRefused("the clock has stood still, or this process has")
        moving = self.moving(now)
        if moving:
            path, join = self.path, self._join(now + self.clock.unheard, self._lead)
        else:
            path, join = self._from_rest(now), 0
        return Start(path, join, path.time(join), *path.at(join), moving)

    def _join(self, now: float, lead: int) -> int:
        """Return the grid point ``lead`` periods ahead, at which the controller is on the path."""
        ahead = now if self.streamed is None else max(now, self.streamed)
        return max(self.path.index(ahead) + 1 + lead, self.path.first_known)

    def _from_rest(self, now: float) -> CommandedPath:
        """Return the path of an arm that holds position until a motion leaves its only point.

        A controller that is where it was commanded needs no more time than delivery takes. Any
        other one is met first, where the arm is measured.
        """
        lead = min(_START_LEAD_S + self.planning_s + self.lateness_s, _START_LEAD_MOST_S)
        lead += self.clock.unheard
        place = self.monitor.place_to_start(self.path, now, self._displacement)
        if self.streams and self.takes_over and not place.is_commanded:
            self.path = None
        self.takes_over = False
        if place.is_commanded or (self.streams and self.path is None):
            if self.path is not None and not np.array_equal(
                self.path.positions[-1], place.position
            ):
                self.path = CommandedPath.resting(now, self._period, place.position)
            return CommandedPath.resting(now + lead, self._period, place.position)
        if self.streams:
            raise MotionRefused(
                f"{place.reason}, and a controller of single commands would leap there: find out "
                "who moved the arm, then deactivate and activate the executor"
            )
        if self._leads_out(place.position):
            raise MotionRefused(
                f"{place.reason}, where the tool is outside the workspace box; lead it back by hand"
            )
        at_rest = np.zeros(len(place.position))
        starts = [(each, at_rest) for each in self._may_stand_at(place.position)]
        needed = self._meeting_time(starts, place.position)
        if needed is None:
            raise MotionRefused(f"{place.reason}, and cannot be met there inside the limits")
        begins = now + max(lead, needed)
        return CommandedPath.resting(begins, self._period, place.position, begins=begins)

    def _may_stand_at(self, place: np.ndarray) -> list[np.ndarray]:
        """Return where the controller may hold position (J,) when the arm is to start at
        ``place``.
        """
        error = self.limits.tracking_error
        droop = np.where(np.isfinite(error), _DROOP * error, 0.0)
        known = [] if self.path is None else [self.path.positions[-1]]
        return [place + droop, self.monitor.newest[1], *known]

    def admit(
        self, start: Start, positions: np.ndarray, velocities: np.ndarray, now: float
    ) -> Trajectory:
        """Take over a motion, samples (N, J) from one period after ``start``, and return it.

        Raises:
            MotionRefused: it breaks a limit; the one before stays in force.
        """
        try:
            return self._release(start.path, start.join, (positions, velocities), now)
        except MotionRefused as refusal:
            self.refusals += 1
            raise MotionRefused(f"the guard does not let it through: {refusal}") from None

    def withdraw(self) -> None:
        """Undo the last release, which was not sent."""
        self.path, self._approach = self.before, self._approach_before

    # ---- stops ----

    def brake(self, now: float) -> Trajectory | None:
        """Stop the motion under way as soon as the limits allow; None when there is none."""
        return self._stop(
            now, lambda path, join: ways_to_stop(path, join, self.limits, self._workspace)
        )

    def give_way(self, now: float, place: np.ndarray) -> Trajectory | None:
        """Stop, and return towards ``place`` (J,), where something keeps the arm."""
        return self._stop(
            now,
            lambda path, join: ways_to_give_way(path, join, place, self.limits, self._workspace),
        )

    def _stop(self, now: float, ways: Callable[..., Iterable[Samples]]) -> Trajectory | None:
        if not self.moving(now):
            return None
        if now < self.path.begins and (early := self._stop_approach(now)):
            return early
        join = self._join(now + min(self.clock.unheard, STANDS_S), self._stop_lead)
        for tool in (True, False):  # to stop is more important than the box
            for stop in ways(self.path, join):
                try:
                    return self._release(self.path, join, stop, now, stop=True, tool=tool)
                except MotionRefused:
                    continue
        self.refusals += 1  # what is under way ends at rest by itself
        return None

    def _stop_approach(self, now: float) -> Trajectory | None:
        """Stop on the way to where the controller is met; None: the arm is not seen on it.

        It is met at the measured joints. Where those were wrong it moves, and must be stopped.
        """
        approach = self._approach
        if approach is None or self.monitor.problem(now):
            return None
        measured, allowed = self.monitor.newest[1], self.limits.tracking_error
        if not approach.is_seen(measured, now, allowed):
            return None
        return self._brake_from(now, approach.state(now), [])

    def repeat(self, now: float) -> Trajectory | None:
        """Return the end of the motion commanded last, to send again; None where none is known."""
        if self.path is None:
            return None
        return self.path.trajectory(now, self.limits.names, valid_until=now + _VALID_S)

    def meet(self, now: float, place: np.ndarray) -> Trajectory | None:
        """Lead the controller to rest at ``place`` (J,), from wherever it may be.

        It may be on the commanded path, or hold position at ``place`` because it was started again.
        A gripper keeps its grip. None where that breaks a limit: the motion ends by itself.
        """
        place = self.limits.inside(place)
        if self.path is not None:
            place[self._grips] = self.path.positions[-1][self._grips]
        if self._leads_out(place):
            return self.brake(now)
        at_rest = [] if self.streams else [(place, np.zeros(len(place)))]
        starts = [self._last_command(now), *at_rest]
        if (
            self._meeting_time(starts, place) is None
        ):  # a joint is too fast to stop before its limit
            return self.brake(now)
        return self._meet(now, starts, place)

    def _meet(self, now: float, starts: list[State], place: np.ndarray) -> Trajectory | None:
        """Command one place (J,) far enough ahead for all states that the controller may be in."""
        duration = self._meeting_time(starts, place) or self._meeting_time(
            starts, place, bounded=False
        )
        begins = -math.inf if self.streams else now + duration
        position, velocity = starts[0]
        origin = CommandedPath(now, self._period, position[None], velocity[None], begins)
        motion = samples(position, velocity, place, duration, self._period)
        try:
            return self._release(origin, 0, motion, now, stop=True, tool=False)
        except MotionRefused:
            self.refusals += 1
            return None

    def _leads_out(self, place: np.ndarray) -> bool:
        """The tool is further outside the box at ``place`` (J,) than where it was commanded
        last.
        """
        if self.path is None:
            return False
        return self._workspace.leaves(self.path.positions[-1], place[None]) is not None

    def _meeting_time(
        self, starts: list[State], place: np.ndarray, *, bounded: bool = True
    ) -> float | None:
        """Return the shortest time [s] in which the tool keeps its speed limit, too; None: none."""
        duration = None
        for duration in meeting_times(starts, place, self.limits, self._period, bounded=bounded):
            motions = [samples(*start, place, duration, self._period) for start in starts]
            surveys = [
                self._workspace.survey(
                    np.vstack([start[0], motion[0]]), np.vstack([start[1], motion[1]])
                )
                for start, motion in zip(starts, motions, strict=True)
            ]
            if not any(survey.too_fast for survey in surveys):
                break
        return duration

    def freeze(self, now: float, position: np.ndarray) -> None:
        """Hold the last streamed command (J,): the stream stood still in the middle of a motion."""
        self._displacement.forget()
        self.before, self.path = self.path, CommandedPath.resting(now, self._period, position)

    # ---- the one way out ----

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
        """Check a motion from the last command on, command it, and return it to be sent.

        Args:
            base: the path that the motion leaves at grid point ``join``.
            motion: samples (N, J) from one period after it.
            stop: a controller accepts it also when it arrives late.
            tool: workspace box and tool speed count, too.

        Raises:
            MotionRefused: a limit is broken; nothing changes.
        """
        position, velocity = base.at(join)
        candidate = Motion(
            self._period, np.vstack([position, motion[0]]), np.vstack([velocity, motion[1]])
        )
        violation = find_violation(candidate, self.limits, self._workspace if tool else None)
        if violation or (violation := self._leap(base, now)):
            raise MotionRefused(violation)
        self._approach_before = self._approach
        if base is not self.path:
            is_met = self.path is not None and len(base.positions) == 1 and base.begins > now
            self._approach = (
                Approach(now, self._last_command(now)[0], base.begins, base.positions[0])
                if is_met
                else None
            )
        self.before, self.path = self.path, base.spliced(join, *motion)
        return self.path.trajectory(
            now, self.limits.names, valid_until=now + _VALID_S if stop else -math.inf
        )

    def _leap(self, base: CommandedPath, now: float) -> str:
        """Return why a path does not begin at the last command; empty when it does."""
        if self.path is None or base is self.path:
            return ""
        (position, velocity), (first, speed) = self._last_command(now), base.at(0)
        if base.begins > now:
            reached = fits(
                position, velocity, base.at(base.first_known)[0], base.begins - now, self.limits
            )
        else:
            reached = (
                np.abs(first - position).max() <= _SAME_PLACE
                and np.abs(speed - velocity).max() <= _SAME_PLACE
            )
        return "" if reached else "it does not start at the last command"

    def _last_command(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the commanded state (J,) at ``now``; at rest where measured if none is known."""
        if self.path is not None:
            due = now if self.streamed is None else self.streamed
            if self._approach is not None and due < self.path.begins:
                return self._approach.state(due)
            return self.path.state(due)
        place = self.limits.inside(self.monitor.newest[1])
        return place, np.zeros(len(place))

    # ---- the clock ----

    def after_clock_jump(self, now: float, jump: float) -> Trajectory | None:
        """Take over a clock that was set by ``jump`` [s] and shows ``now``; what to send, if
        anything.

        All that was commanded has the old time. A controller of trajectories is somewhere in the
        last one: where exactly depends on its own clock. That motion ends at rest by itself, and a
        stop that begins a few milliseconds beside it would be a leap: nothing is sent until the arm
        stands (:meth:`settle`). Commands that are streamed come from here: those slow down.
        """
        moving = self.moving(self.clock.now)
        self.clock.reset(now)
        self.monitor.forget()
        self._displacement.forget()
        if self._clock_path is not None:
            self._clock_path = self._clock_path.shifted(jump)
        if self.path is None:
            return None
        if self.streams:
            self.path = self.path.shifted(jump)
            if self.streamed is not None:
                self.streamed += jump
            return self.brake(now) if moving else None
        if moving:
            self._clock_path, self.path = self.path.shifted(jump), None
            self._settled_at = -math.inf
        else:
            self.path = self.path.shifted(jump)
        return None

    def settle(self, now: float) -> tuple[Trajectory | None, bool]:
        """Return what to send after the clock was set during a motion, and whether that is over.

        An arm measured at rest is led to hold position there, whatever its controller has kept.
        """
        if self._settled_at > -math.inf:
            return None, now >= self._settled_at and self.monitor.at_rest(now)
        if self._clock_path is not None and now < self._clock_path.end:
            return None, False  # whatever is measured: what was commanded takes until then
        if not self.monitor.at_rest(now):
            return None, False
        measured = self.limits.inside(self.monitor.resting_place())
        place = measured if self._clock_path is None else self._clock_path.positions[-1]
        if self.monitor.away(place, measured).any():  # whatever moved it, it is not led back
            self.path = CommandedPath.resting(now, self._period, place)
            return None, True
        near = np.abs(place - measured) <= self.monitor.band
        if near[~self._grips].all():
            self._settled_at = now
            return self._hold(place, now), False
        error = np.where(np.isfinite(self.limits.tracking_error), self.limits.tracking_error, 0.0)
        places = (measured, place + error, place)
        trajectory = self._meet(now, [(each, np.zeros(len(place))) for each in places], place)
        if trajectory is not None:
            self._settled_at = self.path.end
        return trajectory, False

    def _hold(self, place: np.ndarray, now: float) -> Trajectory | None:
        """Command a place (J,) at which the controller already holds position.

        A point ahead would make it start at the measured joints, and a gripper loosen its grip.
        """
        base = CommandedPath.resting(now - self._period, self._period, place)
        motion = place[None], np.zeros((1, len(place)))
        try:
            return self._release(base, 0, motion, now, stop=True, tool=False)
        except MotionRefused:
            self.refusals += 1
            return None

    def brake_unsure(self, now: float) -> Trajectory | None:
        """Stop an arm in a motion of unknown time; None while it is not known where the arm is."""
        if self.path is not None:  # it has been met already
            return self.repeat(now)
        state = None if self.monitor.problem(now) else self.monitor.state_from_positions()
        planned = None if self._clock_path is None else self._clock_path.state(now)
        if planned and (state is None or self.monitor.away(planned[0], state[0]).any()):
            state = planned
        if state is None:
            return None
        trajectory = self._brake_from(now, state, [planned] if planned else [])
        if trajectory is not None:
            self._settled_at = self.path.end
        return trajectory

    def stop_anew(self, before: CommandedPath, now: float) -> Trajectory | None:
        """Stop a controller that still follows the motion ``before`` the stop commanded last."""
        return self._brake_from(now, before.state(now), [self._last_command(now)])

    def _brake_from(self, now: float, state: State, others: list[State]) -> Trajectory | None:
        """Lead the controller to rest from a state (J,), near it, or one of ``others``.

        It stops at the end of braking from ``state``, or from one of ``others`` where the tool is
        less far outside its box: a servo droops, and may be measured outside.
        """
        path = self.path or self._clock_path
        ends = []
        for position, velocity in (state, *others):
            position, velocity = self.limits.inside(position), velocity.copy()
            if path is not None:  # a gripper keeps its grip
                position[self._grips] = path.state(now)[0][self._grips]
            velocity[self._grips] = 0.0
            end = brake(position, velocity, self.limits, self._period)[0][-1]
            ends.append((self.limits.inside(end), position, velocity))
        place = min(ends, key=lambda each: max(self._workspace.outside(each[0]), TOLERANCE))[0]
        _, position, velocity = ends[0]
        error = self.limits.tracking_error
        unsure = np.where(np.isfinite(error), _UNSURE * error, 0.0)
        starts = [(position + beside, velocity) for beside in (0.0 * unsure, unsure, -unsure)]
        return self._meet(now, [*starts, *others], place)
