"""Simulates a control loop: the model of the controller at its update rate, and servos that lag.

NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.controller.limiter import JointLimiter
from sf_policy_node.controller.parameters import ControllerParameters
from sf_policy_node.controller.trajectory_controller import (
    JointTrajectoryController,
    TrajectoryLike,
    TrajectoryRejected,
)


@dataclass(frozen=True)
class Commands:
    """Positions (N, J) [rad or m] commanded to the hardware, one per control cycle.

    ``times`` (N,) are on the sender's clock [s].
    """

    times: np.ndarray
    positions: np.ndarray

    @property
    def velocities(self) -> np.ndarray:
        """Mean velocities (N - 1, J) [per s] from one command to the next."""
        return np.diff(self.positions, axis=0) / np.diff(self.times)[:, None]

    @property
    def accelerations(self) -> np.ndarray:
        """Mean accelerations (N - 2, J) [per s^2], as second differences."""
        return np.diff(self.velocities, axis=0) / np.diff(self.times)[1:, None]


class ControlLoop:
    """Simulates a controller and the servos that it commands. All times are the sender's [s].

    Each cycle is as in ``controller_manager``: read the state, update the controller, write its
    command. The servos are of first order with the time constant ``servo_lag_s``. With 0 a servo
    reaches its command one cycle later.

    Args:
        joint_names: J names.
        positions: of the arm at the start (J,) [rad or m].
        start: time of the first cycle.
        parameters: of the controller; None: its defaults.
        update_rate_hz: of the controller manager, 50 to 1000.
        servo_lag_s: time constant of the servos.
        clock_offset_s: how far the controller's clock is ahead of the sender's; negative: behind.
            It may be changed at any time, as by setting the clock of the controller's host.
        velocity_state: the hardware reports velocities, here the mean of the last cycle.
        limiter: of the controller manager; None: it does not enforce limits.
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        positions: np.ndarray,
        start: float = 0.0,
        *,
        parameters: ControllerParameters | None = None,
        update_rate_hz: float = 100.0,
        servo_lag_s: float = 0.0,
        clock_offset_s: float = 0.0,
        velocity_state: bool = True,
        limiter: JointLimiter | None = None,
    ) -> None:
        self.controller = JointTrajectoryController(
            joint_names, parameters, update_rate_hz=update_rate_hz
        )
        self.position = np.array(positions, dtype=float)
        self.velocity = np.zeros_like(self.position)
        self.commanded = self.position.copy()
        self.offset = np.zeros_like(self.position)
        """Measured minus true positions (J,): the error of the sensors."""
        self.clock_offset_s = clock_offset_s
        self._period, self._start, self._cycles = 1.0 / update_rate_hz, start, 0
        self._share = 1.0 if servo_lag_s <= 0 else -math.expm1(-self._period / servo_lag_s)
        self._velocity_state, self._limiter = velocity_state, limiter
        if limiter is not None:
            limiter.hold(self.position)
        self._times: list[float] = []
        self._positions: list[np.ndarray] = []
        self.activate()

    @property
    def now(self) -> float:
        """Time of the next control cycle."""
        return self._start + self._cycles * self._period

    @property
    def messages(self) -> list[str]:
        """The controller's log messages, newest last."""
        return self.controller.messages

    def activate(self) -> None:
        """Activate the controller at the present time; it holds the last command."""
        self.controller.activate(self.measured, self.measured_velocity)

    def deactivate(self) -> None:
        """Deactivate the controller; the servos keep the last command."""
        self.controller.deactivate()

    def receive(self, trajectory: TrajectoryLike, now: float) -> bool:
        """Deliver a trajectory at ``now``, after all earlier cycles.

        Returns False when the controller refuses it.
        """
        self.advance(now)
        try:
            self.controller.accept(trajectory, now + self.clock_offset_s)
        except TrajectoryRejected:
            return False
        return True

    def advance(self, until: float) -> None:
        """Run all cycles that are due before ``until``."""
        while (now := self.now) < until:
            self._servo()
            planned = self.controller.update(
                now + self.clock_offset_s,
                self.measured,
                self.measured_velocity,
                self._period,
            )
            planned = self.commanded if planned is None else planned
            if self._limiter is not None:
                planned, _ = self._limiter.limit(planned, self.velocity, now)
            self.commanded = planned
            self._times.append(now)
            self._positions.append(planned)
            self._cycles += 1

    def take(self) -> Commands:
        """Return all commands since the last call."""
        times, positions = (
            np.array(self._times),
            np.array(self._positions).reshape(len(self._times), len(self.position)),
        )
        self._times, self._positions = [], []
        return Commands(times, positions)

    @property
    def measured(self) -> np.ndarray:
        """Positions (J,) that the sensors report [rad or m]."""
        return self.position + self.offset

    @property
    def measured_velocity(self) -> np.ndarray | None:
        """Velocities (J,) that the sensors report; None: none."""
        return self.velocity if self._velocity_state else None

    def _servo(self) -> None:
        """Move the servos for the period that ends now."""
        if self._cycles:
            step = self._share * (self.commanded - self.position)
            self.position, self.velocity = self.position + step, step / self._period
