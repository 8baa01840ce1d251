"""Sends gripper commands as goals of a ``control_msgs/ParallelGripperCommand`` action."""

from __future__ import annotations

import math
from typing import Any

from rclpy.action import ActionClient
from rclpy.task import Future
from sensor_msgs.msg import JointState

from sf_policy_node.contract import Arm, ContractError, Gripper
from sf_policy_node.motion.types import Setpoint, Trajectory
from sf_policy_node.nodes.lifecycle import ManagedNode

try:  # not on PyPI: comes with ROS 2, or from source
    from control_msgs.action import ParallelGripperCommand
except ImportError:
    ParallelGripperCommand = None

STOP = "stop"
"""Stop the gripper where it is."""
_SAME = 0.02  # share of the range from closed to open within which two targets are the same
_STILL = 0.01  # share of the gripper's speed limit below which it is stationary
# Between two goals of a gripper that is not binary, because each goal aborts the one before.
_GOAL_PERIOD_S = 0.1


class GripperGoals:
    """Derives goals from the motion of the gripper's joint: one for each target, not one for each
    sample.
    """

    def __init__(self, gripper: Gripper) -> None:
        self._ends = sorted((gripper.open, gripper.closed))
        self._binary = gripper.binary
        self._same = _SAME * (self._ends[1] - self._ends[0])
        self._still = _STILL * gripper.velocity
        self._sent = -math.inf
        self.forget()

    def forget(self) -> None:
        """Record that no goal is active."""
        self._goal: float | None = None

    def next(self, position: float, velocity: float, now: float) -> float | str | None:
        """Return the joint position [unit] of a new goal, :data:`STOP`, or None if the last goal
        remains active.

        Args:
            position, velocity: commanded state of the joint now [unit, unit/s].
            now: [s].
        """
        moving = abs(velocity) > self._still
        if self._goal is None and not moving:
            self._goal = position  # the gripper is already there
        # A binary gripper has two targets, so its goal is known when the motion starts.
        target = self._ends[int(velocity > 0)] if self._binary and moving else position
        if self._goal is not None and abs(target - self._goal) <= self._same:
            return None
        if self._binary and not moving:
            self.forget()
            return STOP
        if moving and not self._binary and now - self._sent < _GOAL_PERIOD_S:
            return None
        self._goal, self._sent = target, now
        return target


class ParallelGripperOutput:
    """Sends a goal when the gripper's target changes, and cancels it when the motion is stopped.

    Args:
        key: path of ``arm.command.gripper`` in the contract, for messages.

    Raises:
        ContractError: control_msgs is not installed.
    """

    streams = True

    def __init__(self, node: ManagedNode, arm: Arm, key: str = "command.gripper") -> None:
        if ParallelGripperCommand is None:
            raise ContractError(
                f"{key}.output: parallel_gripper needs the ROS package control_msgs, which"
                " is not installed; install ros-$ROS_DISTRO-control-msgs or use forward_command"
            )
        gripper, command = arm.gripper, arm.command.gripper
        assert gripper is not None and command is not None  # a contract has both or none
        self._goals, self._key = GripperGoals(gripper), key
        self._joint, self._effort = (
            gripper.joint,
            ([command.max_effort] if command.max_effort else []),
        )
        self._node, self._action = node, command.topic
        self._client: ActionClient = ActionClient(node, ParallelGripperCommand, self._action)
        node.resources.callback(self._client.destroy)
        self._waiting: float | None = None  # a goal to send once the action server is available
        self._answer: Future | None = None  # the server's response to the last goal

    def send(self, trajectory: Trajectory) -> None:
        """Do nothing: goals are derived from streamed commands."""

    def stream(self, setpoint: Setpoint | None) -> None:
        """Take one streamed command of the gripper's joint (1,) and send a goal when it needs one.

        None discards a goal that still waits for the action server.
        """
        if setpoint is None:
            if self._waiting is not None:  # the gripper must not move when its driver starts later
                self._waiting = None
                self._goals.forget()
            return
        goal = self._goals.next(
            float(setpoint.positions[0]), float(setpoint.velocities[0]), setpoint.stamp
        )
        if isinstance(goal, str):  # STOP
            self._stop()
        elif goal is not None:
            self._waiting = goal
        if self._waiting is not None:
            self._send_goal()

    def listeners(self) -> list[tuple[str, int]]:
        return [(f"the action {self._action}", int(self._client.server_is_ready()))]

    def wait(self) -> None:
        """Do nothing: the action server finishes a goal on its own."""

    def flush(self) -> None:
        """Do nothing; see :meth:`wait`."""

    def _send_goal(self) -> None:
        if not self._client.server_is_ready():
            self._warn(
                "is not available, so the gripper does not move; start its controller, or correct"
                f" {self._key}.topic"
            )
            return
        goal = ParallelGripperCommand.Goal(
            command=JointState(name=[self._joint], position=[self._waiting], effort=self._effort)
        )
        self._waiting = None
        self._answer = self._client.send_goal_async(goal)
        self._answer.add_done_callback(self._on_answer)

    def _on_answer(self, answer: Future) -> None:
        handle: Any = answer.result()
        if not handle.accepted:
            self._warn("refused a goal: see the log of the gripper's controller")
            if answer is self._answer:
                self._goals.forget()

    def _stop(self) -> None:
        self._waiting = None
        if self._answer is not None:
            # Runs immediately if the goal has been accepted already.
            self._answer.add_done_callback(_cancel)

    def _warn(self, problem: str) -> None:
        self._node.get_logger().warning(
            f"action {self._action} {problem}", throttle_duration_sec=5.0
        )


def _cancel(answer: Future) -> None:
    handle: Any = answer.result()
    if handle.accepted:
        handle.cancel_goal_async()
