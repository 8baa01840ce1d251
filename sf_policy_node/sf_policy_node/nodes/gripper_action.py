"""Sends gripper commands as goals of an action of ``control_msgs``: ``ParallelGripperCommand`` or
``GripperCommand``.
"""

from __future__ import annotations

import importlib
import math
import time
from typing import Any

from rclpy.action import ActionClient, get_action_server_names_and_types_by_node
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState

from sf_policy_node.contract import Arm, ContractError, Gripper, GripperCommand
from sf_policy_node.contract.sections import GRIPPER_ACTIONS
from sf_policy_node.motion.types import Setpoint, Trajectory
from sf_policy_node.nodes.lifecycle import ManagedNode

STOP = "stop"
"""Stop the gripper where it is."""
_SAME = 0.02  # share of the range from closed to open within which two targets are the same
_STILL = 0.01  # share of the gripper's speed limit below which it is stationary
# Between two goals of a gripper that is not binary, because each goal aborts the one before.
_GOAL_PERIOD_S = 0.1
_EXPIRY_S = 3.0  # how long a goal waits for the end of the last one
_WARN_S = 5.0  # between two warnings


def action_type(command: GripperCommand, key: str = "command.gripper") -> Any:
    """Return the class of the action that ``command.output`` names.

    Args:
        key: path of the command in the contract, for messages.

    Raises:
        ContractError: control_msgs is not installed.
    """
    assert command.action is not None
    package, _, name = command.action.split("/")
    try:  # not on PyPI: comes with ROS 2, or from source
        return getattr(importlib.import_module(f"{package}.action"), name)
    except ImportError:
        raise ContractError(
            f"{key}.output: {command.output} needs the ROS package {package}, which is not"
            f" installed; install ros-$ROS_DISTRO-{package.replace('_', '-')} or use"
            " forward_command"
        ) from None


def served_types(node: Node, action: str) -> set[str]:
    """Return the types under which nodes of the graph serve an action, as ``package/action/Name``.

    Args:
        action: its full name.
    """
    found: set[str] = set()
    for name, namespace in node.get_node_names_and_namespaces():
        try:
            served = get_action_server_names_and_types_by_node(node, name, namespace)
        except RuntimeError:  # the node has ended
            continue
        found.update(*(types for each, types in served if each == action))
    return found


def type_fault(command: GripperCommand, types: set[str], key: str) -> tuple[str, str] | None:
    """Return what is wrong with the types under which the gripper's action is served, and the
    cure; None: nothing.

    Args:
        types: of :func:`served_types`.
        key: path of the command in the contract.
    """
    if not types or command.action in types:
        return None
    served = ", ".join(sorted(types))
    outputs = [output for output, name in GRIPPER_ACTIONS.items() if name in types]
    cure = (
        f"set {key}.output: {outputs[0]}"
        if outputs
        else f"set {key}.topic to the action of the gripper's controller"
    )
    return f"is served as {served}, and {command.output} sends {command.action}", cure


def make_goal(action: Any, command: GripperCommand, gripper: Gripper, position: float) -> Any:
    """Return a goal of ``action`` for a position of the gripper's joint [unit of the gripper]."""
    goal = command.to_goal(gripper, position)
    if command.output == "gripper_command":
        # Set each field: constructors of messages differ in what they take.
        message = action.Goal()
        message.command.position = float(goal)
        message.command.max_effort = float(command.max_effort or 0.0)
        return message
    effort = [command.max_effort] if command.max_effort else []
    return action.Goal(command=JointState(name=[gripper.joint], position=[goal], effort=effort))


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


class GripperActionOutput:
    """Sends a goal when the gripper's target changes, and cancels it when the motion is stopped.

    With ``replaces_goals: false`` in the contract a goal is sent only after the last one has ended.
    It is cancelled first where the gripper turns round.

    Args:
        key: path of ``arm.command.gripper`` in the contract, for messages.

    Raises:
        ContractError: control_msgs is not installed.
    """

    streams = True

    def __init__(self, node: ManagedNode, arm: Arm, key: str = "command.gripper") -> None:
        gripper, command = arm.gripper, arm.command.gripper
        assert gripper is not None and command is not None  # a contract has both or none
        self._type, self._command, self._key = action_type(command, key), command, key
        self._goals, self._gripper = GripperGoals(gripper), gripper
        self._node, self._action = node, command.topic
        self._client: ActionClient = ActionClient(node, self._type, self._action)
        node.resources.callback(self._client.destroy)
        self._waiting: float | None = None  # joint position of a goal that has yet to be sent
        self._waiting_since = self._warned = -math.inf  # of the monotonic clock [s]
        self._answer: Future | None = None  # the server's response to the last goal
        self._last: float | None = None  # joint position of the last goal
        self._is_busy = False  # the last goal has not ended; only with replaces_goals: false

    def send(self, trajectory: Trajectory) -> None:
        """Do nothing: goals are derived from streamed commands."""

    def stream(self, setpoint: Setpoint | None) -> None:
        """Take one streamed command of the gripper's joint (1,) and send a goal when it needs one.

        None discards a goal that still waits for the action server. A goal that waits for the end
        of the last one is kept for 3 s.
        """
        if setpoint is None:
            # The gripper must not move when its driver starts later.
            if self._waiting is not None and (not self._is_busy or self._is_late()):
                self._waiting = None
                self._goals.forget()
            return
        position = float(setpoint.positions[0])
        goal = self._goals.next(position, float(setpoint.velocities[0]), setpoint.stamp)
        if isinstance(goal, str):  # STOP
            self._stop()
        elif goal is not None:
            if self._is_busy and self._turns_round(position, goal):
                self._cancel()
            if self._waiting is None:
                self._waiting_since = time.monotonic()
            self._waiting = goal
        self._send_goal()

    def listeners(self) -> list[tuple[str, int]]:
        return [(f"the action {self._action}", int(self._client.server_is_ready()))]

    def wait(self) -> None:
        """Do nothing: the action server finishes a goal on its own."""

    def flush(self) -> None:
        """Do nothing; see :meth:`wait`."""

    def _turns_round(self, position: float, goal: float) -> bool:
        """Return whether a new goal lies behind the gripper on its way to the last one."""
        return self._last is not None and (self._last - position) * (goal - position) < 0.0

    def _is_late(self) -> bool:
        """Return whether the waiting goal has waited too long for the end of the last one."""
        return time.monotonic() - self._waiting_since > _EXPIRY_S

    def _send_goal(self) -> None:
        if self._waiting is None:
            return
        if not self._client.server_is_ready():
            self._is_busy = False
            self._warn_absent()
            return
        if self._is_busy:
            if not self._is_late():
                return
            self._warn(f"has not ended its last goal for {_EXPIRY_S:g} s: look at the gripper")
        goal = make_goal(self._type, self._command, self._gripper, self._waiting)
        self._last, self._waiting = self._waiting, None
        self._is_busy = not self._command.replaces_goals
        self._answer = self._client.send_goal_async(goal)
        self._answer.add_done_callback(self._on_answer)

    def _on_answer(self, answer: Future) -> None:
        handle: Any = answer.result()
        if handle.accepted:
            if not self._command.replaces_goals:
                handle.get_result_async().add_done_callback(lambda _: self._on_end(answer))
            return
        self._warn("refused a goal: see the log of the gripper's controller")
        if answer is self._answer:
            self._goals.forget()
        self._on_end(answer)

    def _on_end(self, answer: Future) -> None:
        if answer is not self._answer:
            return
        self._is_busy = False
        if not self._is_late():
            self._send_goal()

    def _stop(self) -> None:
        self._waiting = None
        self._cancel()

    def _cancel(self) -> None:
        if self._answer is not None:
            # Runs immediately if the goal has been accepted already.
            self._answer.add_done_callback(_cancel)

    def _warn_absent(self) -> None:
        if time.monotonic() - self._warned < _WARN_S:  # to ask the graph takes time
            return
        self._warned = time.monotonic()
        name = self._node.resolve_service_name(self._action)
        fault = type_fault(self._command, served_types(self._node, name), self._key)
        problem, cure = fault or (
            "is not available",
            f"start its controller, or correct {self._key}.topic",
        )
        self._warn(f"{problem}, so the gripper does not move; {cure}")

    def _warn(self, problem: str) -> None:
        self._node.get_logger().warning(
            f"action {self._action} {problem}", throttle_duration_sec=_WARN_S
        )


def _cancel(answer: Future) -> None:
    handle: Any = answer.result()
    if handle.accepted:
        handle.cancel_goal_async()
