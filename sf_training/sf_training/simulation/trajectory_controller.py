"""The simulated arm's ``joint_trajectory_controller``, with the joint limiter behind it.

The rules are those of :mod:`sf_policy_node.controller.trajectory_controller`, which follows the
genuine controller's sources; tests and benchmarks use the same class.
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
    """Follows joint trajectories on one clock (seconds) that is passed in with every call.

    Each :meth:`sample` is a cycle of the controller manager, so the physics' step is its period.

    Args:
        joint_names: J names; positions and velocities go in and out in this order.
        lower, upper: position limits (J,) [rad or m].
        velocity: speed limits (J,) [rad/s or m/s], enforced between two samples.
        parameters: of the controller; default: the genuine one's defaults.
        update_rate_hz: how often :meth:`sample` will be called.
        clock_offset_s: what the controller's clock is ahead of the one passed in.
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
        """Return a controller like this one, updated at another rate, that stands there too."""
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
        """Trajectories that were taken."""
        return self.model.accepted

    @property
    def rejected(self) -> int:
        """Trajectories that were refused."""
        return self.model.rejected

    def hold(self, positions: np.ndarray) -> None:
        """Forget all motion and stand at ``positions`` (J,), as after a reset of the arm."""
        self._limiter.hold(positions)
        self._stand(self._limiter.position)

    def deactivate(self) -> None:
        """Deactivate the controller: the servos keep its last command, messages are dropped."""
        self.model.deactivate()

    def activate(self, measured: Measured | None = None) -> None:
        """Activate the controller; it holds its last command."""
        self.model.activate(*(measured or self._where_commanded()))

    def accept(self, trajectory: TrajectoryLike, now: float) -> None:
        """Take a trajectory, to be followed from the next sample on.

        Raises:
            TrajectoryRejected: names, sizes, times or values are wrong, or it ends in the past.
        """
        self.model.accept(trajectory, now + self.clock_offset_s)

    def sample(self, now: float, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return commanded positions and velocities (J,), inside the limits.

        ``measured``: positions and velocities (J,) now; default: where the joints were commanded
        to be. ``now`` must not go back.
        """
        joints = measured or self._where_commanded()
        position = self.model.update(now + self.clock_offset_s, *joints)
        if position is None:
            position = self._limiter.position
        return self._limiter.limit(position, self.model.velocity, now)

    def _where_commanded(self) -> Measured:
        return self._limiter.position, self.model.velocity

    def _stand(self, positions: np.ndarray) -> None:
        self.model.command = None
        self.model.activate(positions, np.zeros_like(positions))
