"""Sends motion to controllers: one class for each ``command.output`` of the contract.

``doc/outputs.md`` compares them.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, TwistStamped
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.motion.arm.tool_motion import Drift, ToolMotion, limit_correction
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.safety.correction import CorrectionLimits
from sf_policy_node.motion.streaming import longest_gap
from sf_policy_node.motion.types import Setpoint, Trajectory, of_joints
from sf_policy_node.nodes.conversions import to_seconds, to_stamp, trajectory_to_message
from sf_policy_node.nodes.gripper_action import GripperActionOutput
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.perception.observation import JointStates

# Reliable, so that every controller can subscribe. With depth 1 an old command is not sent again.
NEWEST = QoSProfile(depth=1)
_ACKNOWLEDGED = Duration(nanoseconds=200_000_000)  # how long to wait for the last command to arrive
_STREAMED: dict[str, type[Any]] = {
    "forward_command": Float64MultiArray,
    "servo_twist": TwistStamped,
    "servo_pose": PoseStamped,
}
_ZERO_TWISTS = 4  # how many zero twists end a motion
_LAST_POINT_S = 0.1  # longer than the period of every stream
_LAST_POSE_S = 0.2  # how long the last pose of a motion is repeated


class Output(Protocol):
    """Sends motion to a controller; all calls must come from one thread.

    Joints are those of ``contract.command_joints``, in order.
    """

    streams: bool
    """Whether :meth:`stream` must be called at ``command.rate_hz``."""

    def send(self, trajectory: Trajectory) -> None:
        """Take a motion, which ends stationary. Also called for outputs that stream commands."""

    def stream(self, setpoint: Setpoint | None) -> None:
        """Send one streamed command; None: the arm holds position and there is none."""

    def listeners(self) -> list[tuple[str, int]]:
        """Return the topics or actions of the commands, with the number of subscribers of each."""

    def wait(self) -> None:
        """Block until the sent messages have arrived, for 0.2 s at most."""

    def flush(self) -> None:
        """Finish the last motion (a stop) before the node ends; block until it has been sent."""


def make_output(
    node: ManagedNode, contract: Contract, workspace: Workspace | None = None
) -> Output:
    """Create the output of a contract; its publishers live until the node is cleaned up.

    Args:
        workspace: checks what an output adds to a motion; None: created where it is needed.

    Raises:
        ContractError: the output needs a package that is not installed.
    """
    parts = [
        (_arm_output(node, contract, topic, workspace), np.array(joints))
        for topic, joints in contract.command_groups.items()
    ]
    for name, arm in contract.arms.items():
        if gripper := arm.command.gripper:
            output = (
                GripperActionOutput(node, arm, contract.key_of(name, "command.gripper"))
                if gripper.action
                else ForwardCommandOutput(node, gripper.topic)
            )
            joints = contract.columns.commands.indices(ColumnKind.GRIPPER, arm=name)
            parts.append((output, joints))
    return parts[0][0] if len(parts) == 1 else SeveralOutputs(node, parts)


def streamed_topics(contract: Contract) -> Iterator[tuple[type[Any], str, list[int]]]:
    """Yield message type, topic and indices of the joints in ``contract.command_joints`` of every
    topic on which commands are streamed. Actions of grippers are no topics.
    """
    if contract.output != "joint_trajectory":
        message_type = _STREAMED[contract.output]
        for topic, joints in contract.command_groups.items():
            yield message_type, topic, joints
    for name, arm in contract.arms.items():
        gripper = arm.command.gripper
        if gripper and gripper.output == "forward_command":
            joints = contract.columns.commands.indices(ColumnKind.GRIPPER, arm=name).tolist()
            yield _STREAMED["forward_command"], gripper.topic, joints


def sampled(motion: Trajectory, now: float) -> Setpoint | None:
    """Return the command of a motion at ``now`` [s], for outputs that stream.

    The last point is repeated for 0.1 s; None after that.
    """
    time_s = now - motion.stamp
    if time_s > motion.times[-1] + _LAST_POINT_S:
        return None
    columns = range(len(motion.joint_names))
    positions, velocities = (
        np.array([np.interp(time_s, motion.times, values[:, column]) for column in columns])
        for values in (motion.positions, motion.velocities)
    )
    return Setpoint(now, motion.joint_names, positions, velocities)


def _arm_output(
    node: ManagedNode, contract: Contract, topic: str, workspace: Workspace | None
) -> Output:
    match contract.output:
        case "joint_trajectory":
            return JointTrajectoryOutput(node, topic)
        case "forward_command":
            return ForwardCommandOutput(node, topic)
        case "servo_twist":
            workspace = workspace or Workspace.of(contract, kinematics_of(contract))
            return ServoTwistOutput(node, contract, workspace)
    return ServoPoseOutput(node, contract)


class JointTrajectoryOutput:
    """Publishes ``trajectory_msgs/JointTrajectory`` for ``joint_trajectory_controller``."""

    streams = False

    def __init__(self, node: ManagedNode, topic: str) -> None:
        self._publisher = node.publisher(JointTrajectory, topic, NEWEST)

    def send(self, trajectory: Trajectory) -> None:
        self._publisher.publish(trajectory_to_message(trajectory))

    def stream(self, setpoint: Setpoint | None) -> None:
        """Do nothing: the controller follows the trajectory on its own."""

    def listeners(self) -> list[tuple[str, int]]:
        return [(self._publisher.topic_name, self._publisher.get_subscription_count())]

    def wait(self) -> None:
        self._publisher.wait_for_all_acked(_ACKNOWLEDGED)

    def flush(self) -> None:
        self.wait()


class StreamingOutput:
    """The base class of outputs that stream commands; subclasses implement :meth:`publish`."""

    streams = True

    def __init__(self, node: ManagedNode) -> None:
        self._now = node.now
        self._motion: Trajectory | None = None
        self._sent = -math.inf  # when the motion was taken [s]
        self._quiet = False

    def send(self, trajectory: Trajectory) -> None:
        self._motion, self._sent, self._quiet = trajectory, self._now(), False

    def publish(self, setpoint: Setpoint | None) -> None:
        """Publish a command; None: the motion has ended."""
        raise NotImplementedError

    def stream(self, setpoint: Setpoint | None) -> None:
        self.publish(None if self._quiet else setpoint)

    def listeners(self) -> list[tuple[str, int]]:
        raise NotImplementedError

    def wait(self) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Stream the rest of the last motion, because no other process would stop the arm.

        It continues where it was when :meth:`send` took it, however late this call is. A point that
        is late delays those after it: sent at once, they would make the arm jump. After a long
        delay the arm has stopped at the last command, and the rest is not sent.
        Afterwards :meth:`stream` sends no commands until the next :meth:`send`: its caller does not
        know which commands were sent here.
        """
        motion, self._motion, self._quiet = self._motion, None, True
        if motion is not None:
            # In real time: a simulated clock does not advance while its node is busy here.
            begin, started = max(self._sent, motion.stamp), time.monotonic()
            due = motion.stamp + motion.times
            ahead = due > begin
            # The last point is also sent if it was due less than one period ago.
            ahead[-1] |= due[-1] > begin - motion.times[0]
            gap = longest_gap((due[-1] - due[0]) / max(1, len(due) - 1))
            for index in np.flatnonzero(ahead):
                time.sleep(max(0.0, started + (due[index] - begin) - time.monotonic()))
                late = time.monotonic() - started - (due[index] - begin)
                if late > gap:
                    break
                started += max(0.0, late)
                self.publish(
                    Setpoint(
                        float(due[index]),
                        motion.joint_names,
                        motion.positions[index],
                        motion.velocities[index],
                    )
                )
        self.publish(None)
        self.wait()


class ForwardCommandOutput(StreamingOutput):
    """Publishes joint positions in the contract's order for ``forward_command_controller``
    (``std_msgs/Float64MultiArray``).
    """

    def __init__(self, node: ManagedNode, topic: str) -> None:
        super().__init__(node)
        self._publisher = node.publisher(Float64MultiArray, topic, NEWEST)

    def publish(self, setpoint: Setpoint | None) -> None:
        if setpoint is not None:  # otherwise the controller holds the last command
            self._publisher.publish(Float64MultiArray(data=array("d", setpoint.positions.tolist())))

    def listeners(self) -> list[tuple[str, int]]:
        return [(self._publisher.topic_name, self._publisher.get_subscription_count())]

    def wait(self) -> None:
        self._publisher.wait_for_all_acked(_ACKNOWLEDGED)


class ServoTwistOutput(StreamingOutput):
    """Publishes twists of the tool in the base frame [m/s, rad/s] for MoveIt Servo with
    ``speed_units`` (``geometry_msgs/TwistStamped``).

    Servo integrates twists and loses some of them, so the tool drifts; measured joints correct the
    drift slowly, as far as joint limits, workspace box and collisions allow. When the motion ends,
    some zero twists are sent and then nothing, as Servo requires.
    """

    def __init__(self, node: ManagedNode, contract: Contract, workspace: Workspace) -> None:
        super().__init__(node)
        self._tool, self._frame, self._joints = (
            ToolMotion(contract),
            contract.base_frame,
            len(contract.joints),
        )
        self._limits, self._logger = CorrectionLimits(contract, workspace), node.get_logger()
        self._arm = np.zeros(0)  # (J,) joints measured last
        self._publisher = node.publisher(TwistStamped, contract.command.topic, NEWEST)
        self._measured, self._drift = JointStates(contract), Drift()
        self._fastest = contract.workspace.tool_speed or math.inf
        node.subscribe(
            JointState, contract.topics.joint_states, self._on_joint_state, qos_profile_sensor_data
        )
        self._zeros_left = 0

    def _on_joint_state(self, message: JointState) -> None:
        joints = self._measured.read(
            to_seconds(message.header.stamp), message.name, message.position, message.velocity
        )
        if joints is not None and self._zeros_left and np.isfinite(joints[1]).all():
            self._arm = joints[1]
            self._drift.measure(joints[0], self._tool.pose(joints[1][: self._joints]))

    def publish(self, setpoint: Setpoint | None) -> None:
        if setpoint is not None:
            positions, velocities = (
                setpoint.positions[: self._joints],
                setpoint.velocities[: self._joints],
            )
            self._drift.note(setpoint.stamp, self._tool.pose(positions))
            correction = self._drift.twist
            if correction.any():
                correction = self._limits.limit(self._arm, velocities, correction)
                if self._limits.reason:
                    self._logger.warning(
                        f"the tool's drift is not corrected fully: {self._limits.reason}",
                        throttle_duration_sec=5.0,
                    )
            twist = limit_correction(
                self._fastest, self._tool.twist(positions, velocities), correction
            )
            self._zeros_left = _ZERO_TWISTS
        elif self._zeros_left:
            self._drift.forget()
            twist = np.zeros(6)
            self._zeros_left -= 1
        else:
            return
        message = TwistStamped(header=Header(stamp=to_stamp(self._now()), frame_id=self._frame))
        linear, angular = message.twist.linear, message.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = twist.tolist()
        self._publisher.publish(message)

    def listeners(self) -> list[tuple[str, int]]:
        return [(self._publisher.topic_name, self._publisher.get_subscription_count())]

    def wait(self) -> None:
        self._publisher.wait_for_all_acked(_ACKNOWLEDGED)


class ServoPoseOutput(StreamingOutput):
    """Publishes tool poses in the base frame for MoveIt Servo (``geometry_msgs/PoseStamped``).

    When the motion ends, the last pose is repeated for 0.2 s, so that Servo reaches it before it
    times out.
    """

    def __init__(self, node: ManagedNode, contract: Contract) -> None:
        super().__init__(node)
        self._tool, self._frame, self._joints = (
            ToolMotion(contract),
            contract.base_frame,
            len(contract.joints),
        )
        self._publisher = node.publisher(PoseStamped, contract.command.topic, NEWEST)
        self._repeats, self._repeats_left = math.ceil(_LAST_POSE_S * contract.rate_hz), 0
        self._pose = Pose()

    def publish(self, setpoint: Setpoint | None) -> None:
        if setpoint is not None:
            tool = self._tool.pose(setpoint.positions[: self._joints])
            (px, py, pz), (x, y, z, w) = tool.position.tolist(), tool.quaternion.tolist()
            self._pose = Pose(
                position=Point(x=px, y=py, z=pz), orientation=Quaternion(x=x, y=y, z=z, w=w)
            )
            self._repeats_left = self._repeats
        elif self._repeats_left:
            self._repeats_left -= 1
        else:
            return
        self._publisher.publish(
            PoseStamped(
                header=Header(stamp=to_stamp(self._now()), frame_id=self._frame), pose=self._pose
            )
        )

    def listeners(self) -> list[tuple[str, int]]:
        return [(self._publisher.topic_name, self._publisher.get_subscription_count())]

    def wait(self) -> None:
        self._publisher.wait_for_all_acked(_ACKNOWLEDGED)


class SeveralOutputs(StreamingOutput):
    """Sends motion to several controllers, each with some of the joints (arms, grippers).

    Args:
        parts: each output with the indices (N,) of its joints in ``contract.command_joints``.
    """

    def __init__(self, node: ManagedNode, parts: Sequence[tuple[Output, np.ndarray]]) -> None:
        super().__init__(node)
        self._parts = tuple(parts)
        self._left_out: frozenset[int] = frozenset()
        self.streams = any(output.streams for output, _ in parts)

    def send(self, trajectory: Trajectory) -> None:
        super().send(trajectory)
        self._left_out = frozenset(trajectory.left_out)
        for output, joints in self._receiving():
            # Outputs that stream get their commands from `publish`.
            if not output.streams:
                output.send(of_joints(trajectory, joints))

    def publish(self, setpoint: Setpoint | None) -> None:
        for output, joints in self._receiving():
            output.stream(None if setpoint is None else of_joints(setpoint, joints))

    def _receiving(self) -> Iterator[tuple[Output, np.ndarray]]:
        """Yield the parts that the last motion has not left out."""
        for output, joints in self._parts:
            if self._left_out.isdisjoint(joints.tolist()):
                yield output, joints

    def listeners(self) -> list[tuple[str, int]]:
        return [each for output, _ in self._parts for each in output.listeners()]

    def wait(self) -> None:
        for output, _ in self._parts:
            output.wait()

    def flush(self) -> None:
        if self.streams:
            super().flush()
        else:
            self.wait()
