"""The action ``run_instruction``. The session decides when an instruction ends."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle

from sf_msgs.action import RunInstruction
from sf_policy_node.nodes.action_clients import GONE, ActionClients
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.session.instruction_run import InstructionRun, Termination

_NAME = "run_instruction"


class InstructionAction:
    """Serves the action and keeps its open goals, each with its instruction.

    Args:
        begin: called with the instruction and its time limit [s] (0: the node's); returns the run.
            Raises ValueError with one sentence when the instruction is refused.
        cancel: called with the run and one sentence for a goal that its client cancelled or whose
            clients are gone.
    """

    def __init__(
        self,
        node: ManagedNode,
        begin: Callable[[str, float], InstructionRun],
        cancel: Callable[[InstructionRun, str], None],
    ) -> None:
        self._begin, self._cancel = begin, cancel
        self._goals: dict[InstructionRun, ServerGoalHandle] = {}
        self._clients = ActionClients(node, _NAME)
        server = ActionServer(
            node,
            RunInstruction,
            _NAME,
            execute_callback=_abort,  # never called: see _on_goal
            goal_callback=lambda goal: GoalResponse.ACCEPT if node.running else GoalResponse.REJECT,
            handle_accepted_callback=self._on_goal,
            cancel_callback=self._on_cancel,
        )
        node.resources.callback(server.destroy)

    def report(self, run: InstructionRun, now: float, state: str) -> None:
        """Publish feedback for the goal of ``run``, if there is one.

        A goal whose clients are gone is cancelled instead.

        Args:
            now: [s].
            state: what the policy or the executor does, in one sentence.
        """
        if (handle := self._goals.get(run)) is None:
            return
        if self._clients.are_gone():
            self._cancel(run, GONE)
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
        """Send the result of ``run``, which has ended, to its goal, if there is one."""
        if (handle := self._goals.pop(run, None)) is None:
            return
        assert run.ended is not None and run.termination is not None
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
            elif run.termination is Termination.TIMEOUT:  # nothing stopped the run before its end
                goal.succeed()
            else:
                goal.abort()
            return result

        handle.execute(execute)

    def _on_goal(self, handle: ServerGoalHandle) -> None:
        """Start the instruction and leave the goal open until the session ends it.

        A coroutine that waits keeps rclpy's executor spinning at full speed. A blocking callback
        would need a multi-threaded executor, which loses images. So the goal is executed only when
        its result is known.
        """
        try:
            run = self._begin(handle.request.instruction, handle.request.timeout_s)
        except ValueError as error:
            result = RunInstruction.Result(
                termination_reason=RunInstruction.Result.REFUSED, message=str(error)
            )
            handle.execute(lambda goal: _abort(goal, result))
            return
        self._goals[run] = handle
        self._clients.begin()

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        for run, each in self._goals.items():
            if each is handle:
                self._cancel(run, "cancelled by the client")
                break
        return CancelResponse.ACCEPT


def _abort(
    goal: ServerGoalHandle, result: RunInstruction.Result | None = None
) -> RunInstruction.Result:
    goal.abort()
    return result or RunInstruction.Result()
