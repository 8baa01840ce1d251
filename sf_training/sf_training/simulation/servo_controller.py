"""Simulate MoveIt Servo with a trajectory controller: follow a twist or a pose of the tool.

As in moveit_servo, the newest command is followed until it is older than
``incoming_command_timeout``, then the arm stops. A twist rotates about the tool. A pose is
approached as fast as the speed limits allow. If a joint would be too fast, all joints are slowed
down. Poses pass the default smoothing filter; twists do not, as with ``use_smoothing: false``. Not
simulated: collision checks, and slowing near singularities.
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
PUBLISH_PERIOD = 0.01  # s, Servo's default: period at which it computes a new joint velocity
TURN_SPEED = 3.0  # rad/s, maximum of the tool
_DAMPING = 1e-4  # of the damped least-squares inverse of the Jacobian
_FILTER = 1.5  # butterworth_filter_coeff, Servo's default


@dataclass(frozen=True)
class ToolTwist:
    """Twist command: ``twist`` (6,), linear [m/s], then angular [rad/s], in ``frame`` at ``stamp``
    [s].
    """

    stamp: float
    frame: str
    twist: np.ndarray


@dataclass(frozen=True)
class ToolTarget:
    """Pose command: ``position`` (3,) [m] and ``quaternion`` (4,) x y z w of the tool in ``frame``
    at ``stamp`` [s].
    """

    stamp: float
    frame: str
    position: np.ndarray
    quaternion: np.ndarray


class ServoController:
    """Follow twists and poses of the tool with the arm joints of a contract; not the gripper."""

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
        """Drop all motion and hold ``positions`` (J,) at once, as after a reset of the arm."""
        self._limiter.hold(positions)
        self._speed = np.zeros_like(self._limiter.position)
        self._next_update, self._goal = -np.inf, self._limiter.position
        self._command: ToolTwist | ToolTarget | None = None

    def accept(self, command: ToolTwist | ToolTarget, now: float) -> None:
        """Follow a command from the next sample on.

        Raises:
            CommandRejected: the frame is not the base frame, a value is not finite, or the
                quaternion has length 0.
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
            raise CommandRejected("orientation is not a rotation: its length is 0")
        self._command = command

    def sample(self, now: float, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return commanded positions and velocities (J,) at ``now`` [s], within the limits."""
        position, period = (
            self._limiter.position,
            (0.0 if self._limiter.time is None else now - self._limiter.time),
        )
        if now >= self._next_update - 1e-9:
            self._next_update = now + PUBLISH_PERIOD
            self._speed = self._joint_velocity(position, now)
        position, self._speed = self._limiter.limit(
            position + period * self._speed, self._speed, now
        )
        return position, self._speed

    def _joint_velocity(self, position: np.ndarray, now: float) -> np.ndarray:
        """Return the joint velocity (J,) for the newest command.

        With Jacobian J (6, J) and tool twist V (6,): J^T (J J^T + d I)^-1 V (damped least squares,
        d = :data:`_DAMPING`), scaled down to the velocity limits. For poses, Servo's first-order
        Butterworth filter with coefficient c is applied to positions:
        (x_k + x_{k-1} - 2 y_{k-1}) / (1 + c) is the change of the output y.
        """
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
        return (self._goal + before - 2.0 * position) / (1.0 + _FILTER) / PUBLISH_PERIOD

    def _towards(self, target: ToolTarget, position: np.ndarray) -> np.ndarray:
        """Return the twist (6,) that reaches a pose in one period, within the maximum speeds."""
        tool: ToolPose = self._kinematics.forward(position)
        wanted = pinocchio.Quaternion(
            *np.roll(target.quaternion / np.linalg.norm(target.quaternion), 1)
        ).toRotationMatrix()
        linear = (target.position - tool.position) / PUBLISH_PERIOD
        angular = pinocchio.log3(wanted @ tool.rotation.T) / PUBLISH_PERIOD
        linear /= max(1.0, float(np.linalg.norm(linear)) / self._tool_speed)
        angular /= max(1.0, float(np.linalg.norm(angular)) / TURN_SPEED)
        return np.append(linear, angular)
