"""The last component before the arm: whatever made a motion, it is sent from here or not at all.

It holds what the controller has been told, the latch of the emergency stop, the clock and the measured arm, and it
can always stop the arm by itself. It works the same for a policy, a person and a replay.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.limits import JointLimits, require_limits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.safety.clock import STANDS_S, ClockWatch
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.monitor import ArmMonitor
from sf_policy_node.motion.safety.stopping import give_way, stop
from sf_policy_node.motion.safety.verification import Motion, find_violation
from sf_policy_node.motion.shaping import brake
from sf_policy_node.motion.types import Trajectory

# The old motion is kept for this long, so that a command that takes its time still joins it.
JOIN_LEAD_S = 0.06  # from the arrival of a motion to its first step
_STOP_LEAD_S = 0.02


@dataclass(frozen=True)
class Start:
    """Where a new motion leaves the one under way: commanded position and velocity (J,) at grid point ``join``, ``time`` [s]."""

    path: CommandedPath
    join: int
    time: float
    position: np.ndarray
    velocity: np.ndarray
    moving: bool


class Guard:
    """Permission, limits and stops for one arm. Calls must not overlap.

    Args:
        stopwatch, simulated: see :class:`ClockWatch`.

    Raises:
        ContractError: a limit is missing.
    """

    def __init__(
        self, contract: Contract, workspace: Workspace, *, stopwatch: Callable[[], float] | None = None, simulated: bool = False
    ) -> None:
        require_limits(contract)
        self.limits = JointLimits.of(contract)
        self.monitor = ArmMonitor(contract)
        self.clock = ClockWatch(stopwatch, simulated=simulated)
        self.path: CommandedPath | None = None
        self.active = self.stopped = self.pressed = False
        self.refusals = 0
        self.settling = False  # the clock was set in the middle of a motion, which has not been seen to end
        self.streams = contract.command.output != "joint_trajectory"
        self._workspace = workspace
        self._period = 1.0 / contract.command.rate_hz
        self._lead = max(1, math.ceil(JOIN_LEAD_S / self._period - 1e-9))
        self._stop_lead = max(1, math.ceil(_STOP_LEAD_S / self._period - 1e-9))
        self._before: CommandedPath | None = None
        self._stays_at = -math.inf  # when a controller has come to stay, after the clock was set
        self._led_to: np.ndarray | None = None  # where a motion ends that nobody knows the time of any more

    # ---- the emergency stop ----

    def press(self, pressed: bool) -> None:
        """The state of the button. Pressing latches; releasing does not reset."""
        self.pressed = pressed
        self.stopped = self.stopped or pressed

    def latch(self) -> None:
        """Stopped until :meth:`reset`."""
        self.stopped = True

    def reset(self) -> None:
        """Clear the latch.

        Raises:
            ValueError: while the button is still pressed.
        """
        if self.pressed:
            raise ValueError("the emergency stop is still pressed; release it first")
        self.stopped = False

    # ---- motion ----

    def moving(self, now: float) -> bool:
        """The controller has been told to move at this time."""
        return self.path is not None and now < self.path.end

    def problem(self, now: float) -> str:
        """Why nothing may move now; empty when it may."""
        if not self.active:
            return "the executor is not active"
        if self.stopped:
            return "the emergency stop is latched"
        if self.settling:
            return "the arm has not been seen at rest since the clock was set"
        return self.monitor.problem(now)

    def start(self, now: float) -> Start:
        """Where a new motion may begin.

        Raises:
            MotionRefused: nothing may move, or the arm is not where it was sent.
        """
        if problem := self.problem(now):
            raise MotionRefused(problem)
        if self.clock.stands:  # it is later by nobody knows how much
            raise MotionRefused("the clock has stood still, or this process has")
        moving = self.moving(now)
        path = self.path if moving else CommandedPath.resting(now, self._period, self.monitor.standing_position(self.path))
        join = path.index(now + self.clock.unheard) + 1 + self._lead
        return Start(path, join, path.time(join), *path.at(join), moving)

    def admit(self, start: Start, positions: np.ndarray, velocities: np.ndarray, now: float) -> Trajectory:
        """Take over a motion: samples (N, J) from one period after ``start``. Returns what is to be sent.

        Raises:
            MotionRefused: it breaks a limit; what was sent before stays in force.
        """
        motion = Motion(self._period, np.vstack([start.position, positions]), np.vstack([start.velocity, velocities]))
        if violation := find_violation(motion, self.limits, self._workspace):
            self.refusals += 1
            raise MotionRefused(f"the guard does not let it through: {violation}")
        self._before, self.path = self.path, start.path.spliced(start.join, positions, velocities)
        return self.path.trajectory(now, self.limits.names)

    def withdraw(self) -> None:
        """What :meth:`admit` just returned was not sent: what was sent before it is in force."""
        self.path = self._before

    def stop(self, now: float, give_way_to: np.ndarray | None = None) -> Trajectory | None:
        """Stop the motion under way, if any; ``give_way_to`` (J,): and go back there."""
        if self.settling and self.monitor.heard:  # nobody knows where the controller is in its motion
            self.settling, self._stays_at = False, -math.inf
            _, position, velocity = self.monitor.newest
            path = CommandedPath(now, self._period, position[None], velocity[None])
            self.path = path.spliced(0, *brake(position, velocity, self.limits, self._period))
            return self.path.trajectory(now, self.limits.names)
        if not self.moving(now):
            return None
        join = self.path.index(now + min(self.clock.unheard, STANDS_S)) + 1 + self._stop_lead
        if give_way_to is None:
            samples = stop(self.path, join, self.limits, self._workspace)
        else:
            samples = give_way(self.path, join, give_way_to, self.limits, self._workspace)
        self.path = self.path.spliced(join, *samples)
        return self.path.trajectory(now, self.limits.names)

    def rest_of_stop(self, now: float) -> Trajectory | None:
        """What is left of the motion under way, to send again."""
        return self.path.trajectory(now, self.limits.names) if self.moving(now) else None

    def stay(self, now: float, place: np.ndarray) -> Trajectory:
        """The arm stands at ``place`` (J,), whatever it was told: tell it to stay there."""
        place = np.minimum(np.maximum(place, self.limits.lower), self.limits.upper)[None]
        self.path = CommandedPath.resting(now, self._period, place[0]).spliced(self._lead, place, np.zeros_like(place))
        return self.path.trajectory(now, self.limits.names)

    def after_clock_jump(self, now: float, jump: float) -> Trajectory | None:
        """The clock was set by ``jump`` [s] and shows ``now``: all that was told has the old time. What to send, if anything.

        A controller of trajectories is somewhere in the last one: where exactly depends on its own clock. That motion ends at
        rest by itself, and a stop that begins a few milliseconds beside it would be a leap: nothing is sent
        until the arm stands (:meth:`settle`). Commands that are sent one by one come from here: those slow down.
        """
        moving = self.moving(self.clock.now)
        self.clock.reset(now)
        self.monitor.forget()
        if self.streams and moving:
            self.path = dataclasses.replace(self.path, origin=self.path.origin + jump)
            return self.stop(now)
        self._led_to = self.path.positions[-1] if moving else self._led_to
        self.path, self.settling, self._stays_at = None, moving or self.settling, -math.inf
        return None

    def settle(self, now: float) -> Trajectory | None:
        """Once the arm stands after the clock was set: tell it to stay there, whatever a controller has kept for later.

        It is told to be there only after a while: what it was told last may not have reached it, and where it believes to
        stand may then be a tracking error away.
        """
        if not self.settling or now < self._stays_at or not self.monitor.at_rest(now):
            return None
        if self._stays_at > -math.inf:
            self.settling, self._stays_at = False, -math.inf
            return None
        limits = self.limits
        place = np.minimum(np.maximum(self.monitor.near(self._led_to), limits.lower), limits.upper)
        furthest = np.where(np.isfinite(limits.tracking_error), limits.tracking_error, limits.upper - limits.lower)
        slowly = float(np.maximum(np.sqrt(6.0 * furthest / limits.acceleration), 1.5 * furthest / limits.velocity).max())  # of a cubic
        self._stays_at = now + slowly
        self.path = CommandedPath.resting(now, self._period, place)
        return Trajectory(now, limits.names, np.array([slowly]), place[None], np.zeros((1, len(place))))
