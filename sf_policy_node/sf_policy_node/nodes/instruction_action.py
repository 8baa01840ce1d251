"""The action ``run_instruction``: goals in, feedback and results out. The session decides when an
instruction ends.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle

from sf_msgs.action import RunInstruction
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.session.instruction_run import InstructionRun, Termination

_NAME = "run_instruction"
_FEEDBACK = f"{_NAME}/_action/feedback"


class InstructionAction:
    """Goals of one node that are open, each with the instruction that it follows.

    Args:
        begin: (instruction, time limit [s]; 0: the node's) -> the run; ValueError with one sentence
            when it is refused.
        cancel: (run, one sentence), called for a goal that its client cancelled or whose clients
            are gone.
    """

    def __init__(
        self,
        node: ManagedNode,
        begin: Callable[[str, float], InstructionRun],
        cancel: Callable[[InstructionRun, str], None],
    ) -> None:
        self._node, self._begin, self._cancel = node, begin, cancel
        self._goals: dict[InstructionRun, ServerGoalHandle] = {}
        self._has_client = (
            False  # somebody has subscribed to the feedback since the goal was accepted
        )
        server = ActionServer(
            node,
            RunInstruction,
            _NAME,
            execute_callback=lambda handle: (
                handle.abort() or RunInstruction.Result()
            ),  # never used: see _on_goal
            goal_callback=lambda goal: GoalResponse.ACCEPT if node.running else GoalResponse.REJECT,
            handle_accepted_callback=self._on_goal,
            cancel_callback=self._on_cancel,
        )
        node.resources.callback(server.destroy)

    def report(self, run: InstructionRun, now: float, state: str) -> None:
        """Feedback for the goal that follows ``run``, if there is one."""
        if (handle := self._goals.get(run)) is None:
            return
        if self._is_abandoned():
            self._cancel(run, "the client of the action is gone")
            return
        p50, p95, _ = run.latencies.percentiles()
        feedback = RunInstruction.Feedback(
            elapsed_s=run.elapsed_s(now),
            progress=run.progress(now),
            chunks=run.chunks,
            chunk_latency_p50_s=p50,
            chunk_latency_p95_s=p95,
            clips=run.clips,
            state=state,
        )
        handle.publish_feedback(feedback)

    def finish(self, run: InstructionRun) -> None:
        """Answer the goal that followed ``run``, which has ended."""
        if (handle := self._goals.pop(run, None)) is None:
            return
        p50, p95, _ = run.latencies.percentiles()
        cadence = run.cadence_report(run.ended)
        result = RunInstruction.Result(
            termination_reason=int(run.termination),
            message=run.message,
            chunks=run.chunks,
            duration_s=run.duration_s,
            chunk_latency_p50_s=p50,
            chunk_latency_p95_s=p95,
            rate_hz=cadence.rate_hz,
            rate_wanted_hz=cadence.rate_wanted_hz,
            cycles_over_budget=cadence.over_budget,
            worst_cycle_s=cadence.worst_s,
            clips=run.clips,
        )

        def execute(goal: ServerGoalHandle) -> RunInstruction.Result:
            if goal.is_cancel_requested:
                goal.canceled()
            elif run.termination is Termination.TIMEOUT:
                goal.succeed()
            else:
                goal.abort()
            return result

        handle.execute(execute)

    def _on_goal(self, handle: ServerGoalHandle) -> None:
        """Start, and leave the goal open until the session ends it.

        A coroutine that waits keeps rclpy's executor spinning at full speed, and a blocking one
        would need a multi-threaded executor, which loses images. So the goal is executed when its
        result is known.
        """
        try:
            run = self._begin(handle.request.instruction, handle.request.timeout_s)
        except ValueError as error:
            result = RunInstruction.Result(
                termination_reason=RunInstruction.Result.REFUSED, message=str(error)
            )
            handle.execute(lambda goal: goal.abort() or result)
            return
        self._goals[run], self._has_client = handle, False

    def _is_abandoned(self) -> bool:
        """Whether every action client has left. Each subscribes to the feedback; a killed one is
        missed after its DDS lease.
        """
        is_watched = self._node.count_subscribers(_FEEDBACK) > 0
        is_abandoned = self._has_client and not is_watched
        self._has_client = is_watched
        return is_abandoned

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        for run, each in self._goals.items():
            if each is handle:
                self._cancel(run, "cancelled by the client")
                break
        return CancelResponse.ACCEPT
