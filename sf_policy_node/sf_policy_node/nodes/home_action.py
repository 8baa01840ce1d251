"""The action ``~/go_home`` of the chunk executor, which moves the arms to their home pose."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle

from sf_msgs.action import GoHome
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.types import Trajectory
from sf_policy_node.nodes.lifecycle import ManagedNode

_PERIOD_S = 0.05  # between two trajectories of the motion
_FEEDBACK_S = 0.5


class HomeAction:
    """Serves the action; one goal at a time.

    Args:
        motion: plans the motion; see :meth:`ChunkExecutor.go_home`.
        refusal: returns why the controller cannot be commanded now; empty when it can.
        send: publishes a trajectory.
    """

    def __init__(
        self,
        node: ManagedNode,
        motion: ChunkExecutor,
        refusal: Callable[[], str],
        send: Callable[[Trajectory | None], None],
    ) -> None:
        self._node, self._motion, self._refusal, self._send = node, motion, refusal, send
        self._goal: ServerGoalHandle | None = None
        # When the goal began, when the last trajectory and the last feedback were sent [s].
        self._begun = self._continued = self._reported = 0.0
        server = ActionServer(
            node,
            GoHome,
            "~/go_home",
            # Never called: a goal is executed when its result is known; see InstructionAction.
            execute_callback=lambda handle: handle.abort() or GoHome.Result(),
            goal_callback=lambda goal: GoalResponse.ACCEPT if node.running else GoalResponse.REJECT,
            handle_accepted_callback=self._on_goal,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )
        node.resources.callback(server.destroy)

    def step(self) -> None:
        """Continue the motion; must be called at every tick of the executor."""
        if self._goal is None:
            return
        now = self._node.now()
        if self._goal.is_cancel_requested:
            self._send(self._motion.end_homing(now, "stopped: the client cancelled homing"))
            self._finish(False, "cancelled")
        elif time.monotonic() - self._continued >= _PERIOD_S:
            self._continued = time.monotonic()
            self._continue(now)

    def _continue(self, now: float) -> None:
        try:
            if refusal := self._refusal():
                raise MotionRefused(refusal)
            trajectory = self._motion.continue_homing(now)
            arrived = self._motion.homing is None
            if not arrived and self._motion.is_too_late(self._node.now()):
                self._motion.withdraw_teleoperation()
                return  # the next trajectory follows soon
        except MotionRefused as error:
            self._send(self._motion.end_homing(now, f"homing stopped: {error}"))
            self._finish(False, str(error))
            return
        self._send(trajectory)
        if arrived:
            self._finish(True, "at home")
        elif time.monotonic() - self._reported >= _FEEDBACK_S and self._motion.path is not None:
            self._reported = time.monotonic()
            distance = self._motion.homing.distance(self._motion.path.state(now)[0])
            self._goal.publish_feedback(GoHome.Feedback(distance=distance))

    def _on_goal(self, handle: ServerGoalHandle) -> None:
        try:
            if self._goal is not None:
                raise MotionRefused("the arm already moves to its home pose")
            if refusal := self._refusal():
                raise MotionRefused(refusal)
            self._motion.go_home(self._node.now(), handle.request.arms)
        except MotionRefused as error:
            result = GoHome.Result(success=False, message=str(error))
            self._node.get_logger().warning(f"refused to go home: {error}")
            handle.execute(lambda goal: goal.abort() or result)
            return
        self._goal, self._begun, self._reported = handle, time.monotonic(), 0.0

    def _finish(self, success: bool, message: str) -> None:
        handle, self._goal = self._goal, None
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
