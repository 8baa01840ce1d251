"""How motion leaves the executor: a class for each ``command.output`` of the contract. Which one suits what: ``doc/outputs.md``."""

from __future__ import annotations

import dataclasses
import time
from array import array
from typing import Protocol, TypeVar

import numpy as np
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from sf_policy_node.contract import Contract, ContractError
from sf_policy_node.motion.types import Setpoint, Trajectory
from sf_policy_node.nodes.conversions import trajectory_to_message
from sf_policy_node.nodes.lifecycle import ManagedNode

# Reliable, which every controller can subscribe to; a command that a newer one has replaced is not repeated.
NEWEST = QoSProfile(depth=1)
_LAST_WORDS = Duration(nanoseconds=200_000_000)  # for the last command to arrive before the node ends

Motion = TypeVar("Motion", Trajectory, Setpoint)


class Output(Protocol):
    """Takes motion to a controller. Joints are those of ``contract.command_joints``, in order; calls come from one thread."""

    streams: bool  # wants stream() at command.rate_hz

    def send(self, trajectory: Trajectory) -> None:
        """The motion from now on, to its end at rest. Every motion is handed over here, also where commands are streamed."""

    def stream(self, setpoint: Setpoint | None) -> None:
        """One cycle: where the arm is to be now; None while it stands still and nothing is to be said."""

    def flush(self) -> None:
        """Before the node ends: bring the last motion (a stop) to its end, and wait until it has arrived. May block that long."""


def make_output(node: ManagedNode, contract: Contract) -> Output:
    """The output that the contract asks for; its publishers live until the node is cleaned up.

    Raises:
        ContractError: the output needs what this machine does not have.
    """
    kind = _ARM_OUTPUTS.get(contract.command.output)
    if kind is None:
        raise ContractError(f"command.output: {contract.command.output} is not known; use one of {', '.join(_ARM_OUTPUTS)}")
    arm = kind(node, contract.command.topic)
    if contract.command.gripper is None:
        return arm
    return ArmAndGripper(node, arm, ForwardCommandOutput(node, contract.command.gripper.topic))


class JointTrajectoryOutput:
    """``trajectory_msgs/JointTrajectory``, stamped and with velocities, as ``joint_trajectory_controller`` takes it."""

    streams = False

    def __init__(self, node: ManagedNode, topic: str) -> None:
        self._publisher = node.publisher(JointTrajectory, topic, NEWEST)

    def send(self, trajectory: Trajectory) -> None:
        self._publisher.publish(trajectory_to_message(trajectory))

    def stream(self, setpoint: Setpoint | None) -> None:
        """Nothing: the controller follows the trajectory by itself."""

    def flush(self) -> None:
        self._publisher.wait_for_all_acked(_LAST_WORDS)


class StreamingOutput:
    """What outputs have in common whose controller knows only the newest command."""

    streams = True

    def __init__(self, node: ManagedNode) -> None:
        self._now = node.now
        self._motion: Trajectory | None = None

    def send(self, trajectory: Trajectory) -> None:
        self._motion = trajectory

    def stream(self, setpoint: Setpoint | None) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Play what is left of the last motion: nobody else will bring this arm to rest."""
        motion, self._motion = self._motion, None
        if motion is not None:
            # Played on real time: a simulated clock stands still while its node is busy here.
            begin, started = max(self._now(), motion.stamp), time.monotonic()
            due = motion.stamp + motion.times
            ahead = due > begin
            ahead[-1] |= due[-1] > begin - motion.times[0]  # the end at rest falls between two cycles
            for index in np.flatnonzero(ahead):
                time.sleep(max(0.0, started + (due[index] - begin) - time.monotonic()))
                self.stream(Setpoint(float(due[index]), motion.joint_names, motion.positions[index], motion.velocities[index]))
        self.stream(None)


class ForwardCommandOutput(StreamingOutput):
    """``std_msgs/Float64MultiArray`` of joint positions in the contract's order, as ``forward_command_controller`` takes it."""

    def __init__(self, node: ManagedNode, topic: str) -> None:
        super().__init__(node)
        self._publisher = node.publisher(Float64MultiArray, topic, NEWEST)

    def stream(self, setpoint: Setpoint | None) -> None:
        if setpoint is not None:  # the controller holds the last command
            self._publisher.publish(Float64MultiArray(data=array("d", setpoint.positions.tolist())))

    def flush(self) -> None:
        super().flush()
        self._publisher.wait_for_all_acked(_LAST_WORDS)


class ArmAndGripper(StreamingOutput):
    """The arm's output, and another one for the gripper, which is the last joint."""

    def __init__(self, node: ManagedNode, arm: Output, gripper: Output) -> None:
        super().__init__(node)
        self._arm, self._gripper = arm, gripper

    def send(self, trajectory: Trajectory) -> None:
        super().send(trajectory)
        if not self._arm.streams:  # what streams is played from here
            self._arm.send(_joints(trajectory, slice(None, -1)))

    def stream(self, setpoint: Setpoint | None) -> None:
        self._arm.stream(None if setpoint is None else _joints(setpoint, slice(None, -1)))
        self._gripper.stream(None if setpoint is None else _joints(setpoint, slice(-1, None)))

    def flush(self) -> None:
        super().flush()
        self._arm.flush()
        self._gripper.flush()


_ARM_OUTPUTS = {"joint_trajectory": JointTrajectoryOutput, "forward_command": ForwardCommandOutput}


def _joints(motion: Motion, part: slice) -> Motion:
    positions, velocities = np.asarray(motion.positions)[..., part], np.asarray(motion.velocities)[..., part]
    return dataclasses.replace(motion, joint_names=motion.joint_names[part], positions=positions, velocities=velocities)
