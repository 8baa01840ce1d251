"""Offer the gripper of the simulated arm as an action, like ``parallel_gripper_action_controller``
(``control_msgs/ParallelGripperCommand``) or ``gripper_controllers`` (``GripperCommand``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState

from sf_policy_node.contract import Arm
from sf_policy_node.nodes.gripper_action import action_type
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.controller_base import CommandRejected
from sf_training.simulation.controllers import ControllerPart

_CHECK_S = 0.05  # between two checks of the goal
_REACHED = 0.001  # m from the goal at which it counts as reached
# A gripper slower than _STALL_SPEED [m/s] for _STALL_S [s] has stalled.
_STALL_SPEED = 0.001
_STALL_S = 0.3


def serve_gripper(node: Node, part: ControllerPart, sim: ArmSim, arm: Arm) -> None:
    """Offer the action: a new goal replaces the current one, a cancelled goal stops the gripper.

    Raises:
        ContractError: control_msgs is not installed.
    """
    _GripperServer(node, part, sim, arm)


class GoalFormat:
    """Reads the goals and makes the results of the gripper's action of an arm."""

    def __init__(self, arm: Arm) -> None:
        gripper, command = arm.gripper, arm.command.gripper
        assert gripper is not None and command is not None  # a contract has both or none
        self._gripper, self._command = gripper, command

    def position(self, goal: Any) -> np.ndarray:
        """Return the joint positions (1,) of a goal [unit of the gripper]."""
        values = np.atleast_1d(np.array(goal.command.position, dtype=float))
        return np.array([self._command.from_goal(self._gripper, value) for value in values])

    def fill(self, result: Any, position: float, velocity: float, ended: str) -> Any:
        """Fill and return a result of the action.

        Args:
            position, velocity: of the joint [unit, unit/s of the gripper].
            ended: "reached", "stalled", "cancelled" or "replaced".
        """
        result.stalled, result.reached_goal = ended == "stalled", ended == "reached"
        if self._command.output == "gripper_command":
            result.position = self._command.to_goal(self._gripper, position)
        else:
            result.state = JointState(
                name=[self._gripper.joint], position=[position], velocity=[velocity]
            )
        return result


class _GripperServer:
    """Pass each goal to the simulated controller at once, and watch the gripper for its result."""

    def __init__(self, node: Node, part: ControllerPart, sim: ArmSim, arm: Arm) -> None:
        self._node, self._controller, self._sim = node, part.controller, sim
        assert arm.command.gripper is not None
        self._format, self._type = GoalFormat(arm), action_type(arm.command.gripper)
        self._column = int(part.columns[0])
        self._goal: ServerGoalHandle | None = None
        # Result of the goal: "reached", "stalled", "cancelled" or "replaced".
        self._result: Future | None = None
        self._moved_at = 0.0
        self._server = ActionServer(
            node,
            self._type,
            part.topic,
            self._follow,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
        )
        node.create_timer(_CHECK_S, self._check)

    def _on_goal(self, request: Any) -> GoalResponse:
        try:
            self._controller.accept(self._format.position(request), self._sim.time)
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
        return self._format.fill(
            self._type.Result(),
            float(self._sim.joint_positions()[self._column]),
            float(self._sim.joint_velocities()[self._column]),
            result,
        )

    def _check(self) -> None:
        if self._goal is None:
            return
        if abs(self._sim.joint_velocities()[self._column]) > _STALL_SPEED:
            self._moved_at = self._sim.time
        target = self._format.position(self._goal.request)[0]
        if np.abs(self._sim.joint_positions()[self._column] - target) < _REACHED:
            self._end("reached")
        elif self._sim.time - self._moved_at > _STALL_S:
            self._end("stalled")

    def _end(self, result: str) -> None:
        if self._result is not None and not self._result.done():
            self._result.set_result(result)
        self._goal = None
