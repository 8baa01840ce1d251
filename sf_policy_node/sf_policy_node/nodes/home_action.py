"""The action ``~/go_home`` of the chunk executor, which moves the arms to their home pose."""

from __future__ import annotations

import time

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle

from sf_msgs.action import GoHome
from sf_policy_node.motion.homing import Pose
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.nodes.action_clients import GONE, ActionClients
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.nodes.pose_motion import PoseMotion

_NAME = "~/go_home"
_FEEDBACK_S = 0.5


class HomeAction:
    """Serves the action; one goal at a time."""

    def __init__(self, node: ManagedNode, motion: PoseMotion) -> None:
        self._node, self._motion = node, motion
        self._goal: ServerGoalHandle | None = None
        self._begun = self._reported = 0.0  # when the goal began and the last feedback was due [s]
        self._clients = ActionClients(node, _NAME)
        server = ActionServer(
            node,
            GoHome,
            _NAME,
            # Never called: a goal is executed when its result is known; see InstructionAction.
            execute_callback=_abort,
            goal_callback=lambda goal: GoalResponse.ACCEPT if node.running else GoalResponse.REJECT,
            handle_accepted_callback=self._on_goal,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )
        node.resources.callback(server.destroy)

    def step(self) -> None:
        """Continue the motion; must be called at every tick of the executor."""
        if self._goal is None:
            return
        if self._goal.is_cancel_requested:
            self._motion.end("stopped: the client cancelled homing")
            self._finish(False, "cancelled")
            return
        try:
            arrived = self._motion.step()
        except MotionRefused as error:
            self._finish(False, str(error))
            return
        if arrived:
            self._finish(True, "at home")
        elif time.monotonic() - self._reported >= _FEEDBACK_S:
            self._report(self._goal)

    def abort(self, reason: str) -> None:
        """Stop the arm and end the goal, if there is one."""
        if self._goal is not None:
            self._motion.end(f"homing stopped: {reason}")
            self._finish(False, reason)

    def _report(self, goal: ServerGoalHandle) -> None:
        """Publish the distance from home; stop the arm if no client is left."""
        self._reported = time.monotonic()
        if self._clients.are_gone():
            self._node.get_logger().warning(f"homing stopped: {GONE}")
            self.abort(GONE)
        elif (distance := self._motion.distance) is not None:
            goal.publish_feedback(GoHome.Feedback(distance=distance))

    def _on_goal(self, handle: ServerGoalHandle) -> None:
        try:
            if self._goal is not None:
                raise MotionRefused("the arm already moves to its home pose")
            self._motion.begin(Pose.HOME, handle.request.arms)
        except MotionRefused as error:
            result = GoHome.Result(success=False, message=str(error))
            self._node.get_logger().warning(f"refused to go home: {error}")
            handle.execute(lambda goal: _abort(goal, result))
            return
        self._goal, self._begun, self._reported = handle, time.monotonic(), 0.0
        self._clients.begin()

    def _finish(self, success: bool, message: str) -> None:
        handle, self._goal = self._goal, None
        assert handle is not None  # the callers have a goal
        seconds = time.monotonic() - self._begun
        result = GoHome.Result(success=success, message=message, duration_s=seconds)

        def execute(goal: ServerGoalHandle) -> GoHome.Result:
            if goal.is_cancel_requested:
                goal.canceled()
            elif success:
                goal.succeed()
            else:
                goal.abort()
            return result

        handle.execute(execute)


def _abort(goal: ServerGoalHandle, result: GoHome.Result | None = None) -> GoHome.Result:
    goal.abort()
    return result or GoHome.Result()
