"""The gripper's commands as goals of a ``control_msgs/ParallelGripperCommand`` action."""

from __future__ import annotations

import math

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

STOP = "stop"  # where it is, mid-way
_SAME = 0.02  # of the way from closed to open: nearer is the same target
_STILL = 0.01  # of the gripper's speed limit: slower is standing still
_GOAL_PERIOD_S = (
    0.1  # between two goals of a gripper that is not binary: each goal ends the one before
)


class GripperGoals:
    """Which goals a motion of the gripper's joint amounts to: one for each target, not one for each
    sample on the way there.
    """

    def __init__(self, gripper: Gripper) -> None:
        self._ends = sorted((gripper.open, gripper.closed))
        self._binary = gripper.binary
        self._same = _SAME * (self._ends[1] - self._ends[0])
        self._still = _STILL * gripper.velocity
        self._sent = -math.inf
        self.forget()

    def forget(self) -> None:
        """Record that the last goal is not in force."""
        self._goal: float | None = None

    def next(self, position: float, velocity: float, now: float) -> float | str | None:
        """Return a joint position [unit] to send as a goal now, :data:`STOP`, or None when the last
        goal stays in force.

        Args:
            position, velocity: where the joint is to be now, and how fast it moves there [unit,
            unit/s].
            now: time [s].
        """
        moving = abs(velocity) > self._still
        if self._goal is None and not moving:
            self._goal = position  # is there already
        # A binary gripper has two targets, so its goal is known from the start of the motion.
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
    """Sends a goal when the gripper's target changes, and cancels it when a stop comes in between.

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
        command = arm.command.gripper
        self._goals, self._key = GripperGoals(arm.gripper), key
        self._joint, self._effort = (
            arm.gripper.joint,
            ([command.max_effort] if command.max_effort else []),
        )
        self._node, self._action = node, command.topic
        self._client = ActionClient(node, ParallelGripperCommand, self._action)
        node.resources.callback(self._client.destroy)
        self._waiting: float | None = None  # a goal, for the action server to be there
        self._answer: Future | None = None  # to the last goal

    def send(self, trajectory: Trajectory) -> None:
        """Nothing: goals follow the motion as it is streamed."""

    def stream(self, setpoint: Setpoint | None) -> None:
        """Send one cycle of the gripper's joint alone."""
        if setpoint is None:
            if self._waiting is not None:  # the gripper must not move when its driver starts later
                self._waiting = None
                self._goals.forget()
            return
        goal = self._goals.next(
            float(setpoint.positions[0]), float(setpoint.velocities[0]), setpoint.stamp
        )
        if goal == STOP:
            self._stop()
        elif goal is not None:
            self._waiting = goal
        if self._waiting is not None:
            self._send_goal()

    def listeners(self) -> list[tuple[str, int]]:
        return [(f"the action {self._action}", int(self._client.server_is_ready()))]

    def wait(self) -> None:
        """Nothing: a goal that was sent is the action server's to end."""

    def flush(self) -> None:
        """Nothing, as above."""

    def _send_goal(self) -> None:
        if not self._client.server_is_ready():
            self._warn(
                "is not there: the gripper does not move; start its controller, or correct"
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
        if not answer.result().accepted:
            self._warn("refused a goal: see the log of the gripper's controller")
            if answer is self._answer:
                self._goals.forget()

    def _stop(self) -> None:
        self._waiting = None
        if self._answer is not None:
            self._answer.add_done_callback(_cancel)  # at once when the goal has been accepted

    def _warn(self, problem: str) -> None:
        self._node.get_logger().warning(
            f"action {self._action} {problem}", throttle_duration_sec=5.0
        )


def _cancel(answer: Future) -> None:
    if answer.result().accepted:
        answer.result().cancel_goal_async()
