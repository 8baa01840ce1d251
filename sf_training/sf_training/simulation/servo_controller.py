"""A stand-in for MoveIt Servo with a trajectory controller behind it: follows a twist or a pose of
the tool, as a NumPy class.

From moveit_servo: the newest command is followed until it is older than
``incoming_command_timeout``, then the arm comes to rest; a twist turns about the tool; a pose is
approached as fast as the speed limits allow; joints that would be too fast slow all of them down.
Poses go through its default smoothing filter; twists do not, as with ``use_smoothing:
false``. Not copied: collision checks, and slowing near singularities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.simulation.controller_base import CommandRejected, JointLimiter, Measured

COMMAND_TIMEOUT = 0.1  # s, Servo's default
PUBLISH_PERIOD = (
    0.01  # s, Servo's default: so often it makes a new joint velocity of the newest command
)
TURN_SPEED = 3.0  # rad/s, of the tool
_DAMPING = 1e-4  # of the inverse of the Jacobian
_FILTER = 1.5  # butterworth_filter_coeff, Servo's default


@dataclass(frozen=True)
class ToolTwist:
    """``twist`` (6,): velocity of the tool [m/s], then angular velocity [rad/s], in ``frame``; said
    at ``stamp`` [s].
    """

    stamp: float
    frame: str
    twist: np.ndarray


@dataclass(frozen=True)
class ToolTarget:
    """``position`` (3,) [m] and ``quaternion`` (4,) x y z w of the tool in ``frame``; said at
    ``stamp`` [s].
    """

    stamp: float
    frame: str
    position: np.ndarray
    quaternion: np.ndarray


class ServoController:
    """Follows twists and poses of the tool with the arm joints of a contract, without the
    gripper.
    """

    def __init__(self, contract: Contract) -> None:
        limits, count = JointLimits.of(contract), len(contract.joints)
        self._kinematics = Kinematics(contract)
        self._frame = contract.base_frame
        self._tool_speed = contract.workspace.tool_speed or np.inf
        self._acceleration = limits.acceleration[:count]
        self._limiter = JointLimiter(
            limits.lower[:count], limits.upper[:count], limits.velocity[:count]
        )
        self.position_clips, self.velocity_clips = (
            self._limiter.position_clips,
            self._limiter.velocity_clips,
        )
        self.hold(np.zeros(count))

    def hold(self, positions: np.ndarray) -> None:
        """Drop all motion and stand at ``positions`` (J,) at once, as after a reset of the arm."""
        self._limiter.hold(positions)
        self._speed = np.zeros_like(self._limiter.position)
        self._next_update, self._goal = -np.inf, self._limiter.position
        self._command: ToolTwist | ToolTarget | None = None

    def accept(self, command: ToolTwist | ToolTarget, now: float) -> None:
        """Follow a command from the next sample on.

        Raises:
            CommandRejected: another frame than the base frame, a value that is not finite, or a
                quaternion of length 0.
        """
        if command.frame != self._frame:
            raise CommandRejected(
                f"header.frame_id must be {self._frame}, got {command.frame or 'none'}"
            )
        values = (
            command.twist
            if isinstance(command, ToolTwist)
            else np.append(command.position, command.quaternion)
        )
        if not np.isfinite(values).all():
            raise CommandRejected("the command has a value that is not finite")
        if isinstance(command, ToolTarget) and np.linalg.norm(command.quaternion) < 1e-6:
            raise CommandRejected("orientation is no rotation: its length is 0")
        self._command = command

    def sample(self, now: float, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Commanded positions and velocities (J,) at ``now`` [s], inside the limits."""
        position, period = (
            self._limiter.position,
            (0.0 if self._limiter.time is None else now - self._limiter.time),
        )
        if now >= self._next_update - 1e-9:
            self._next_update = now + PUBLISH_PERIOD
            self._speed = self._wanted_speed(position, now)
        position, self._speed = self._limiter.limit(
            position + period * self._speed, self._speed, now
        )
        return position, self._speed

    def _wanted_speed(self, position: np.ndarray, now: float) -> np.ndarray:
        command = self._command
        if command is not None and now - command.stamp >= COMMAND_TIMEOUT:
            self._command = command = None
        if command is None:
            self._goal = position
            slower = np.maximum(np.abs(self._speed) - self._acceleration * PUBLISH_PERIOD, 0.0)
            return np.copysign(slower, self._speed)
        twist = (
            command.twist if isinstance(command, ToolTwist) else self._towards(command, position)
        )
        jacobian = self._kinematics.jacobian(position)
        speed = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING * np.eye(6), twist)
        speed /= max(1.0, float((np.abs(speed) / self._limiter.velocity).max()))
        before, self._goal = self._goal, position + PUBLISH_PERIOD * speed
        if isinstance(command, ToolTwist):
            return speed
        # The Butterworth filter, which works on positions.
        return (self._goal + before - 2.0 * position) / (1.0 + _FILTER) / PUBLISH_PERIOD

    def _towards(self, target: ToolTarget, position: np.ndarray) -> np.ndarray:
        """The twist (6,) that reaches a pose within a period, or comes nearer at the highest
        speed.
        """
        tool: ToolPose = self._kinematics.forward(position)
        wanted = pinocchio.Quaternion(
            *np.roll(target.quaternion / np.linalg.norm(target.quaternion), 1)
        ).toRotationMatrix()
        linear = (target.position - tool.position) / PUBLISH_PERIOD
        angular = pinocchio.log3(wanted @ tool.rotation.T) / PUBLISH_PERIOD
        linear /= max(1.0, float(np.linalg.norm(linear)) / self._tool_speed)
        angular /= max(1.0, float(np.linalg.norm(angular)) / TURN_SPEED)
        return np.append(linear, angular)
