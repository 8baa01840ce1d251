"""Offer the gripper of the simulated arm as a ``control_msgs/ParallelGripperCommand`` action, like
``parallel_gripper_action_controller``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState

from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.controller_base import CommandRejected
from sf_training.simulation.controllers import ControllerPart

try:  # not on PyPI: comes with ROS 2, or from source
    from control_msgs.action import ParallelGripperCommand
except ImportError:
    ParallelGripperCommand = None

_CHECK_S = 0.05  # between two checks of the goal
_REACHED = 0.001  # m from the goal at which it counts as reached
# A gripper slower than _STALL_SPEED [m/s] for _STALL_S [s] has stalled.
_STALL_SPEED = 0.001
_STALL_S = 0.3


def serve_gripper(node: Node, part: ControllerPart, sim: ArmSim) -> None:
    """Offer the action: a new goal replaces the current one, a cancelled goal stops the gripper.

    Raises:
        ValueError: control_msgs is not installed.
    """
    if ParallelGripperCommand is None:
        raise ValueError(
            "command.gripper.output: parallel_gripper needs the ROS package control_msgs, which is"
            " not installed; install ros-$ROS_DISTRO-control-msgs or use forward_command"
        )
    _GripperServer(node, part, sim)


class _GripperServer:
    """Pass each goal to the simulated controller at once, and watch the gripper for its result."""

    def __init__(self, node: Node, part: ControllerPart, sim: ArmSim) -> None:
        self._node, self._controller, self._sim = node, part.controller, sim
        self._column = int(part.columns[0])
        self._goal: ServerGoalHandle | None = None
        # Result of the goal: "reached", "stalled", "cancelled" or "replaced".
        self._result: Future | None = None
        self._moved_at = 0.0
        self._server = ActionServer(
            node,
            ParallelGripperCommand,
            part.topic,
            self._follow,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
        )
        node.create_timer(_CHECK_S, self._check)

    def _on_goal(self, request: Any) -> GoalResponse:
        try:
            self._controller.accept(request.command.position, self._sim.time)
        except CommandRejected as error:
            self._node.get_logger().warning(
                f"gripper goal rejected: {error}", throttle_duration_sec=1.0
            )
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        if handle is self._goal:
            self._controller.accept(
                self._sim.joint_positions()[self._column : self._column + 1], self._sim.time
            )
            self._end("cancelled")
        return CancelResponse.ACCEPT

    async def _follow(self, handle: ServerGoalHandle) -> Any:
        self._end("replaced")
        pending: Future = Future()
        self._goal, self._result, self._moved_at = handle, pending, self._sim.time
        result = await pending
        assert result is not None
        {"cancelled": handle.canceled, "replaced": handle.abort}.get(result, handle.succeed)()
        position, speed = (
            float(self._sim.joint_positions()[self._column]),
            float(self._sim.joint_velocities()[self._column]),
        )
        state = JointState(
            name=list(handle.request.command.name), position=[position], velocity=[speed]
        )
        return ParallelGripperCommand.Result(
            state=state, stalled=result == "stalled", reached_goal=result == "reached"
        )

    def _check(self) -> None:
        if self._goal is None:
            return
        if abs(self._sim.joint_velocities()[self._column]) > _STALL_SPEED:
            self._moved_at = self._sim.time
        if (
            np.abs(
                self._sim.joint_positions()[self._column] - self._goal.request.command.position[0]
            )
            < _REACHED
        ):
            self._end("reached")
        elif self._sim.time - self._moved_at > _STALL_S:
            self._end("stalled")

    def _end(self, result: str) -> None:
        if self._result is not None and not self._result.done():
            self._result.set_result(result)
        self._goal = None
