"""How motion leaves the executor: a class for each ``command.output`` of the contract. Which one
suits what: ``doc/outputs.md``.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, TwistStamped
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.tool_motion import Drift, ToolMotion, limit_correction
from sf_policy_node.motion.types import Setpoint, Trajectory, of_joints
from sf_policy_node.nodes.conversions import to_seconds, to_stamp, trajectory_to_message
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.nodes.parallel_gripper import ParallelGripperOutput
from sf_policy_node.perception.observation import JointStates

# Reliable, which every controller can subscribe to; a command that a newer one has replaced is not
# repeated.
NEWEST = QoSProfile(depth=1)
_LAST_WORDS = Duration(
    nanoseconds=200_000_000
)  # for the last command to arrive before the node ends
_ZERO_TWISTS = 4
_LAST_POSE_S = 0.2


class Output(Protocol):
    """Takes motion to a controller. Joints are those of ``contract.command_joints``, in order;
    calls come from one thread.
    """

    streams: bool  # wants stream() at command.rate_hz

    def send(self, trajectory: Trajectory) -> None:
        """Take the motion from now on, to its end at rest. Every motion is handed over here, also
        where commands are streamed.
        """

    def stream(self, setpoint: Setpoint | None) -> None:
        """Send one cycle of a streamed command. ``None``: the arm holds position and nothing is
        sent.
        """

    def listeners(self) -> list[tuple[str, int]]:
        """Return the topics or actions of the commands, and how many nodes subscribe to each."""

    def wait(self) -> None:
        """Block until what was sent has arrived, or a moment has passed."""

    def flush(self) -> None:
        """Before the node ends: bring the last motion (a stop) to its end, and wait until it has
        arrived. May block that long.
        """


def make_output(node: ManagedNode, contract: Contract) -> Output:
    """Create the output that the contract asks for; its publishers live until the node is cleaned
    up.

    Raises:
        ContractError: the output needs what this machine does not have.
    """
    parts = [
        (_arm_output(node, contract, topic), np.array(joints))
        for topic, joints in contract.command_groups.items()
    ]
    for name, arm in contract.arms.items():
        if gripper := arm.command.gripper:
            output = (
                ParallelGripperOutput(node, arm, contract.key_of(name, "command.gripper"))
                if gripper.output == "parallel_gripper"
                else ForwardCommandOutput(node, gripper.topic)
            )
            joints = contract.columns.commands.indices(ColumnKind.GRIPPER, arm=name)
            parts.append((output, joints))
    return parts[0][0] if len(parts) == 1 else SeveralOutputs(node, parts)


def _arm_output(node: ManagedNode, contract: Contract, topic: str) -> Output:
    match contract.output:
        case "joint_trajectory":
            return JointTrajectoryOutput(node, topic)
        case "forward_command":
            return ForwardCommandOutput(node, topic)
        case "servo_twist":
            return ServoTwistOutput(node, contract)
    return ServoPoseOutput(node, contract)


class JointTrajectoryOutput:
    """``trajectory_msgs/JointTrajectory``, stamped and with velocities, as
    ``joint_trajectory_controller`` takes it.
    """

    streams = False

    def __init__(self, node: ManagedNode, topic: str) -> None:
        self._publisher = node.publisher(JointTrajectory, topic, NEWEST)

    def send(self, trajectory: Trajectory) -> None:
        self._publisher.publish(trajectory_to_message(trajectory))

    def stream(self, setpoint: Setpoint | None) -> None:
        """Nothing: the controller follows the trajectory by itself."""

    def listeners(self) -> list[tuple[str, int]]:
        return [(self._publisher.topic_name, self._publisher.get_subscription_count())]

    def wait(self) -> None:
        self._publisher.wait_for_all_acked(_LAST_WORDS)

    def flush(self) -> None:
        self.wait()


class StreamingOutput:
    """What outputs have in common whose controller knows only the newest command. Subclasses fill
    in :meth:`say`.
    """

    streams = True

    def __init__(self, node: ManagedNode) -> None:
        self._now = node.now
        self._motion: Trajectory | None = None
        self._quiet = False

    def send(self, trajectory: Trajectory) -> None:
        self._motion, self._quiet = trajectory, False

    def say(self, setpoint: Setpoint | None) -> None:
        """Publish a setpoint, or what there is to say when there is none."""
        raise NotImplementedError

    def stream(self, setpoint: Setpoint | None) -> None:
        self.say(None if self._quiet else setpoint)

    def listeners(self) -> list[tuple[str, int]]:
        raise NotImplementedError

    def wait(self) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Play the rest of the last motion: no other process brings this arm to rest.

        Until the next motion is sent, nothing is streamed then: whoever streams does not know what
        was played.
        """
        motion, self._motion, self._quiet = self._motion, None, True
        if motion is not None:
            # Played on real time: a simulated clock does not advance while its node is busy here.
            begin, started = max(self._now(), motion.stamp), time.monotonic()
            due = motion.stamp + motion.times
            ahead = due > begin
            ahead[-1] |= (
                due[-1] > begin - motion.times[0]
            )  # the end at rest falls between two cycles
            for index in np.flatnonzero(ahead):
                time.sleep(max(0.0, started + (due[index] - begin) - time.monotonic()))
                self.say(
                    Setpoint(
                        float(due[index]),
                        motion.joint_names,
                        motion.positions[index],
                        motion.velocities[index],
                    )
                )
        self.say(None)
        self.wait()


class ForwardCommandOutput(StreamingOutput):
    """``std_msgs/Float64MultiArray`` of joint positions in the contract's order, as
    ``forward_command_controller`` takes it.
    """

    def __init__(self, node: ManagedNode, topic: str) -> None:
        super().__init__(node)
        self._publisher = node.publisher(Float64MultiArray, topic, NEWEST)

    def say(self, setpoint: Setpoint | None) -> None:
        if setpoint is not None:  # the controller holds the last command
            self._publisher.publish(Float64MultiArray(data=array("d", setpoint.positions.tolist())))

    def listeners(self) -> list[tuple[str, int]]:
        return [(self._publisher.topic_name, self._publisher.get_subscription_count())]

    def wait(self) -> None:
        self._publisher.wait_for_all_acked(_LAST_WORDS)


class ServoTwistOutput(StreamingOutput):
    """``geometry_msgs/TwistStamped`` of the tool in the base frame [m/s, rad/s], as MoveIt Servo
    takes it in ``speed_units``.

    Twists add up, and Servo loses some of them; so measured joints lead the tool back to its path,
    slowly. When the motion ends it sends zero a few times and then nothing, as Servo expects of a
    source that lets go.
    """

    def __init__(self, node: ManagedNode, contract: Contract) -> None:
        super().__init__(node)
        self._tool, self._frame, self._joints = (
            ToolMotion(contract),
            contract.base_frame,
            len(contract.joints),
        )
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
            self._drift.measure(joints[0], self._tool.pose(joints[1][: self._joints]))

    def say(self, setpoint: Setpoint | None) -> None:
        if setpoint is not None:
            positions, velocities = (
                setpoint.positions[: self._joints],
                setpoint.velocities[: self._joints],
            )
            self._drift.note(setpoint.stamp, self._tool.pose(positions))
            twist = limit_correction(
                self._fastest, self._tool.twist(positions, velocities), self._drift.twist
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
        self._publisher.wait_for_all_acked(_LAST_WORDS)


class ServoPoseOutput(StreamingOutput):
    """``geometry_msgs/PoseStamped`` of the tool in the base frame, as MoveIt Servo tracks it.

    When the motion ends its last pose is repeated for a moment, so that Servo gets there before it
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

    def say(self, setpoint: Setpoint | None) -> None:
        if setpoint is not None:
            place = self._tool.pose(setpoint.positions[: self._joints])
            (px, py, pz), (x, y, z, w) = place.position.tolist(), place.quaternion.tolist()
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
        self._publisher.wait_for_all_acked(_LAST_WORDS)


class SeveralOutputs(StreamingOutput):
    """Outputs to several controllers, each of some of the joints: arms, grippers.

    Args:
        parts: each output with the indices (N,) of its joints in ``contract.command_joints``.
    """

    def __init__(self, node: ManagedNode, parts: Sequence[tuple[Output, np.ndarray]]) -> None:
        super().__init__(node)
        self._parts = tuple(parts)
        self.streams = any(output.streams for output, _ in parts)

    def send(self, trajectory: Trajectory) -> None:
        super().send(trajectory)
        for output, joints in self._parts:
            # What streams is played from here.
            if not output.streams and not set(joints.tolist()) & set(trajectory.left_out):
                output.send(of_joints(trajectory, joints))

    def say(self, setpoint: Setpoint | None) -> None:
        for output, joints in self._parts:
            output.stream(None if setpoint is None else of_joints(setpoint, joints))

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
