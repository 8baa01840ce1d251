"""Simulate ``forward_command_controller`` for joint positions."""

from __future__ import annotations

import numpy as np

from sf_training.simulation.controller_base import CommandRejected, JointLimiter, Measured


class ForwardCommandController:
    """Hold each command until the next one: no interpolation, no velocities, no watchdog. A joint
    limiter clips the output.

    Args:
        lower, upper, velocity: limits (J,) [rad or m, per s].
    """

    def __init__(self, lower: np.ndarray, upper: np.ndarray, velocity: np.ndarray) -> None:
        self._limiter = JointLimiter(lower, upper, velocity)
        self.position_clips, self.velocity_clips = (
            self._limiter.position_clips,
            self._limiter.velocity_clips,
        )
        self._still = np.zeros(len(self._limiter.lower))
        self.hold(self._still)

    def hold(self, positions: np.ndarray) -> None:
        """Drop all motion and hold ``positions`` (J,) at once, as after a reset of the arm."""
        self._limiter.hold(positions)
        self._command = self._limiter.position

    def accept(self, command: np.ndarray, now: float) -> None:
        """Command joint positions (J,) from the next sample on.

        Raises:
            CommandRejected: the number of values is wrong, or one is not finite.
        """
        command = np.array(command, dtype=float)
        if command.shape != self._still.shape:
            raise CommandRejected(
                f"data must be {len(self._still)} joint positions, got {command.size}"
            )
        if not np.isfinite(command).all():
            raise CommandRejected("data has a value that is not finite")
        if self._limiter.time is None:
            self._limiter.time = now
        self._command = command

    def sample(self, now: float, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return commanded positions (J,) at ``now`` [s], within the limits, and zero velocities,
        which this controller does not command.
        """
        return self._limiter.limit(self._command, self._still, now)[0], self._still
