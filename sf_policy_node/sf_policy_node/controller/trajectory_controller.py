"""Models ``joint_trajectory_controller``: computes its command in every cycle. NumPy only.

The simulated arm, the tests and the benchmarks use this one class. Source of every rule:
``joint_trajectory_controller/src/joint_trajectory_controller.cpp`` of ros2_controllers 5.17.0 (the
same code as in 4.42.1 of Jazzy), with the functions named below; 6.9.0 and master 94e74de35 where
``replacement`` says so. The model has position commands, position states, and velocity states where
they are given. Not modelled: the action, several command interfaces, partial goals,
``decelerate_on_cancel``. It is stricter in one respect: values that are not finite are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sf_policy_node.controller.parameters import ControllerParameters, Replacement
from sf_policy_node.controller.sampling import (
    Point,
    SampledTrajectory,
    TrajectoryLike,
    shortest_angle,
)
from sf_policy_node.controller.upsampling import upsampled
from sf_policy_node.controller.validation import TrajectoryRejected, checked_points

__all__ = ["JointTrajectoryController", "TrajectoryLike", "TrajectoryRejected"]

_MESSAGES_KEPT = 100


class JointTrajectoryController:
    """Follows joint trajectories on the controller's own clock [s], passed in with every call.

    Args:
        joint_names: J names; positions go in and out in this order.
        parameters: as on the controller.
        update_rate_hz: cycles per second for which :meth:`update` will be called.
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        parameters: ControllerParameters | None = None,
        *,
        update_rate_hz: float = 100.0,
    ) -> None:
        self.joint_names = tuple(joint_names)
        self.parameters = parameters or ControllerParameters()
        self.period_ns = int(1e9 / update_rate_hz)
        self.scaling = 1.0
        """Speed scaling: the share (0 to 1) of its speed at which a trajectory is followed."""
        self.is_active = False
        self.holding = False
        """Whether it holds a position on its own: after activation, a violated tolerance or
        ``cmd_timeout``.
        """
        self.accepted = self.rejected = 0
        self.messages: list[str] = []
        """Its log messages, newest last."""
        self.command: np.ndarray | None = None
        """The position command interfaces (J,); None before the first cycle."""
        given = self.parameters
        self._state_tolerance = np.array(
            [given.trajectory_tolerance.get(name, 0.0) for name in self.joint_names]
        )
        self._goal_tolerance = np.array(
            [given.goal_tolerance.get(name, 0.0) for name in self.joint_names]
        )
        self._wraps = np.array([name in given.continuous for name in self.joint_names])
        self._now = self._time = 0
        self._current: SampledTrajectory | None = None
        self._pending: SampledTrajectory | None = None
        # The trajectory of one point that holds a position; it is modified in place.
        self._held = SampledTrajectory([Point(0, np.zeros(len(self.joint_names)))], 0)

    # ---- lifecycle ----

    def activate(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Hold the last command, else the measured ``positions`` (J,) (``on_activate``).

        With ``set_last_command_interface_value_as_state_on_activation: false`` always the measured
        positions are held. ``velocities`` (J,) None: the hardware does not report them.
        """
        positions = np.array(positions, dtype=float)
        if (
            self.parameters.set_last_command_interface_value_as_state_on_activation
            and self.command is not None
        ):
            positions = self.command.copy()
        self._current, self._pending = None, None
        self._last = Point(
            0, positions, None if velocities is None else np.array(velocities, dtype=float)
        )
        self._last_time = 0
        self._desired_ended = False
        self._error = np.zeros_like(positions)
        self.is_active = True
        self._hold(positions)

    def deactivate(self) -> None:
        """Forget the trajectory; the hardware keeps the last command (``on_deactivate``)."""
        self.is_active, self._current = False, None

    # ---- inputs ----

    def accept(self, trajectory: TrajectoryLike, now: float) -> None:
        """Take a trajectory to follow from the next cycle on (``topic_callback``).

        An inactive controller ignores it without a message.

        Raises:
            TrajectoryRejected: names, sizes, times or values are wrong, or it ends in the past.
        """
        stamp, parameters = round(1e9 * trajectory.stamp), self.parameters
        allow_moving_end = parameters.allow_nonzero_velocity_at_trajectory_end
        if parameters.positions_upsampling and self._interpolates:
            trajectory = upsampled(trajectory, parameters.policy_frequency)
        try:
            points = checked_points(
                trajectory,
                stamp,
                self.joint_names,
                round(1e9 * now),
                allow_moving_end=allow_moving_end,
            )
        except TrajectoryRejected as error:
            self.rejected += 1
            self._log(str(error))
            raise
        if self.is_active:
            self._new, self.holding = SampledTrajectory(points, stamp), False
            self.accepted += 1

    def update(
        self,
        now: float,
        positions: np.ndarray,
        velocities: np.ndarray | None = None,
        period: float | None = None,
    ) -> np.ndarray | None:
        """Run one cycle and return the position command (J,).

        ``now`` decides where a new trajectory starts; from then on it advances by ``period``.
        ``controller_manager`` passes ROS time and the period of a steady clock, so a trajectory in
        progress does not notice that the clock is set (``ros2_control_node.cpp``,
        ``ControllerManager::update`` of 4.46.0 (Jazzy), 5.16.0 (Kilted) and master 53b9999d1).

        Args:
            positions, velocities: measured (J,); velocities None: not reported.
            period: since the last cycle [s]; None: as ``now`` says, as with simulated time.

        Returns None before the first command.
        """
        time = round(1e9 * now)
        if not self.is_active:
            return self.command
        measured = Point(
            0,
            np.asarray(positions, dtype=float),
            None if velocities is None else np.asarray(velocities, dtype=float),
        )
        if self._new is not self._current and self._new is not self._pending:
            self._take_over(self._new, time)
        if self._pending is not None and time >= self._pending.start:
            self._install(self._pending)
            self._pending = None
        current = self._current
        first_sample = not current.is_sampled
        if first_sample:
            self._desired_ended = False
            if self.parameters.interpolate_from_desired_state:
                current.approach_from(self._last_time or time, self._last, self._wraps)
            else:
                current.approach_from(time, measured, self._wraps)
            self._time = time
        else:
            passed = time - self._now if period is None else round(1e9 * period)
            self._time += int(passed * self.scaling)
        self._now = time
        if first_sample:
            # A start of 0 becomes this time.
            current.sample(self._time, interpolate=self._interpolates)
        following = current.sample(self._time + self.period_ns, interpolate=self._interpolates)
        if following is not None:
            self._follow(*following, measured, first_sample)
        return self.command

    # ---- reports ----

    @property
    def velocity(self) -> np.ndarray:
        """Velocity (J,) of the last command, as a velocity command interface would receive it."""
        return (
            np.zeros(len(self.joint_names)) if self._last.velocity is None else self._last.velocity
        )

    @property
    def reference(self) -> Point:
        """The desired state of this cycle: ``reference`` of ``~/controller_state``."""
        sampled = None if self._current is None else self._desired()
        return sampled or replace(self._last, time=0)

    @property
    def error(self) -> np.ndarray:
        """Reference minus measured positions (J,) in the last cycle that checked tolerances."""
        return self._error

    # ---- one cycle ----

    @property
    def _interpolates(self) -> bool:
        return self.parameters.interpolation_method != "none"

    def _take_over(self, new: SampledTrajectory, time: int) -> None:
        """Install a new trajectory, or keep it until its time (``update``)."""
        replacement, current = self.parameters.replacement, self._current
        if replacement is Replacement.DEFER and new is not self._held:
            if current is not None and new.start > time:
                self._pending = new
                return
            self._pending = None
        if (
            replacement is Replacement.RETIME
            and current is not None
            and len(current.points) > 1
            and not self.holding
        ):
            self._new = new = self._retimed(new, current, time)
        self._install(new)

    def _install(self, trajectory: SampledTrajectory) -> None:
        trajectory.restart()
        self._current = trajectory

    def _retimed(
        self, new: SampledTrajectory, old: SampledTrajectory, time: int
    ) -> SampledTrajectory:
        """Blend a new trajectory into the old one at the playback position, as after 6.9.0.

        Its stamp only counts if it is in the future. Otherwise the trajectory starts now.

        Source: ``blend_with_active_trajectory`` of master 94e74de35.
        """
        cursor = self._time
        begin = cursor + (int((new.start - time) * self.scaling) if new.start > time else 0)
        bridge = old.sample(begin, interpolate=self._interpolates)
        points = [replace(point, time=begin + point.time - cursor) for point in new.points]
        before = [
            replace(point, time=old.start + point.time - cursor)
            for point in old.points
            if cursor < old.start + point.time < begin
        ]
        if bridge is not None and begin - cursor < points[0].time:
            before.append(replace(bridge[0], time=begin - cursor))
        return SampledTrajectory([*before, *points], 0)

    def _follow(self, state: Point, index: int, measured: Point, first_sample: bool) -> None:
        """Check timeout and tolerances, and command ``state`` or hold the measured position.

        Args:
            state: of the trajectory one period ahead, in the segment ``index``.
            first_sample: this is the first cycle of the trajectory.
        """
        current, parameters = self._current, self.parameters
        last = len(current.points) - 1
        before_last_point = index < last
        since = 1e-9 * (self._time - current.start - current.points[max(index, 0)].time)
        if not before_last_point and not self.holding and 0.0 < parameters.timeout < since:
            self._hold(measured.position, "Aborted due to command timeout")
        checks = (self._state_tolerance > 0).any() or (self._goal_tolerance > 0).any()
        violated, in_time = False, True
        if checks:
            sampled = self._desired()
            desired = measured.position if sampled is None else sampled.position
            self._error = np.where(
                self._wraps, shortest_angle(measured.position, desired), desired - measured.position
            )
            size = np.abs(self._error)
            if not self.holding:
                violated = (before_last_point or first_sample) and _outside(
                    size, self._state_tolerance
                )
                outside = not before_last_point and _outside(size, self._goal_tolerance)
                in_time = not (
                    outside and parameters.goal_time != 0.0 and since > parameters.goal_time
                )
        if not violated and in_time:
            self.command, self._last, self._last_time = state.position.copy(), state, self._now
        if violated:
            self._hold(measured.position, "Holding position due to state tolerance violation")
        elif not in_time:
            self._hold(measured.position, "Exceeded goal_time_tolerance: holding position...")
        # Up to 5.x the sample one period ahead moves the reference to the end one cycle early
        # (trajectory.cpp:211).
        self._desired_ended = (
            not before_last_point and parameters.replacement is not Replacement.RETIME
        )

    def _desired(self) -> Point | None:
        if self._desired_ended:
            return self._current.points[-1]
        sampled = self._current.sample(self._time, interpolate=self._interpolates)
        return None if sampled is None else sampled[0]

    def _hold(self, positions: np.ndarray, message: str = "") -> None:
        """Hold ``positions`` (J,) from the next cycle on (``set_hold_position``)."""
        self._held.points[0] = Point(0, positions.copy())
        self._new, self.holding = self._held, True
        if message:
            self._log(message)

    def _log(self, message: str) -> None:
        self.messages = [*self.messages[-_MESSAGES_KEPT:], message]


def _outside(error: np.ndarray, tolerance: np.ndarray) -> bool:
    return bool(((tolerance > 0) & (error > tolerance)).any())
