"""Simulate ``joint_trajectory_controller`` followed by a joint limiter.

The behaviour is that of :mod:`sf_policy_node.controller.trajectory_controller`, which follows the
sources of ros2_controllers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sf_policy_node.controller.limiter import JointLimiter
from sf_policy_node.controller.parameters import ControllerParameters
from sf_policy_node.controller.trajectory_controller import JointTrajectoryController as Model
from sf_policy_node.controller.trajectory_controller import TrajectoryLike
from sf_training.simulation.controller_base import Measured


class JointTrajectoryController:
    """Follow joint trajectories. Times [s] are on the clock of the caller.

    Each :meth:`sample` is one cycle of the controller manager, so the physics step is its period.

    Args:
        joint_names: J names; positions and velocities go in and out in this order.
        lower, upper: position limits (J,) [rad or m].
        velocity: speed limits (J,) [rad/s or m/s], enforced between two samples.
        parameters: of the controller; None means the defaults of joint_trajectory_controller.
        update_rate_hz: rate at which :meth:`sample` will be called.
        clock_offset_s: clock of the controller minus that of the caller [s].
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        lower: np.ndarray,
        upper: np.ndarray,
        velocity: np.ndarray,
        *,
        parameters: ControllerParameters | None = None,
        update_rate_hz: float = 200.0,
        clock_offset_s: float = 0.0,
    ) -> None:
        self._made_of = joint_names, lower, upper, velocity
        self.model = Model(joint_names, parameters, update_rate_hz=update_rate_hz)
        self.joint_names = self.model.joint_names
        self.clock_offset_s = clock_offset_s
        self._limiter = JointLimiter(lower, upper, velocity)
        self.position_clips = self._limiter.position_clips
        self.velocity_clips = self._limiter.velocity_clips
        self.hold(np.zeros(len(self.joint_names)))

    def at_rate(self, update_rate_hz: float) -> JointTrajectoryController:
        """Return a copy with another update rate that holds the current position."""
        parameters, offset = self.model.parameters, self.clock_offset_s
        other = JointTrajectoryController(
            *self._made_of,
            parameters=parameters,
            update_rate_hz=update_rate_hz,
            clock_offset_s=offset,
        )
        other.hold(self._limiter.position)
        return other

    @property
    def accepted(self) -> int:
        """Number of accepted trajectories."""
        return self.model.accepted

    @property
    def rejected(self) -> int:
        """Number of rejected trajectories."""
        return self.model.rejected

    def hold(self, positions: np.ndarray) -> None:
        """Drop all motion and hold ``positions`` (J,) at once, as after a reset of the arm."""
        self._limiter.hold(positions)
        self.model.command = None
        self.model.activate(self._limiter.position, np.zeros_like(self._limiter.position))

    def deactivate(self) -> None:
        """Deactivate the controller: the servos keep its last command, messages are dropped."""
        self.model.deactivate()

    def activate(self, measured: Measured | None = None) -> None:
        """Activate the controller; it holds its last command."""
        self.model.activate(*(measured or self._commanded_state()))

    def accept(self, trajectory: TrajectoryLike, now: float) -> None:
        """Follow a trajectory from the next sample on.

        Raises:
            TrajectoryRejected: names, sizes, times or values are wrong, or it ends in the past.
        """
        self.model.accept(trajectory, now + self.clock_offset_s)

    def sample(self, now: float, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return commanded positions and velocities (J,), within the limits.

        Args:
            now: must not go back.
            measured: positions and velocities (J,) now; default the commanded ones.
        """
        joints = measured or self._commanded_state()
        position = self.model.update(now + self.clock_offset_s, *joints)
        if position is None:
            position = self._limiter.position
        return self._limiter.limit(position, self.model.velocity, now)

    def _commanded_state(self) -> Measured:
        return self._limiter.position, self.model.velocity
