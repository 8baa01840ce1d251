"""Send one instruction to a running graph and show its progress:
``python3 -m sf_bringup.say "pick the red cube"``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from sf_bringup.arguments import SIM_ROBOT, GraphError
from sf_bringup.arm_client import REASONS, ArmClient, ArmClientError, client_of
from sf_bringup.running_graph import ros_words
from sf_msgs.action import RunInstruction
from sf_policy_node.contract import ContractError

_FIND_S = 10.0


@dataclass(frozen=True)
class Arguments:
    """Send one instruction to a running graph. Ctrl-C cancels it."""

    instruction: Annotated[str, tyro.conf.Positional]
    """What the arm should do, 1 to 500 characters."""
    seconds: float = 12.0
    """How long the arm may try."""
    robot: str = SIM_ROBOT
    """The robot of the running graph: its name or the path of its contract."""
    namespace: str = ""
    """Namespace of the arm's nodes; empty: the variable ROS_NAMESPACE."""
    seed: int | None = None
    """First put the simulated arm into the scene of this seed."""


def main() -> int:
    """Parse the command line and run; return 0 if a simulated cube was lifted, or if a real arm
    followed the instruction until the time was over.
    """
    arguments, console = (
        tyro.cli(
            Arguments,
            args=ros_words(sys.argv[1:]),
            prog="python3 -m sf_bringup.say",
            description=Arguments.__doc__,
        ),
        Console(highlight=False),
    )
    try:
        client = client_of(arguments.robot, arguments.namespace)
    except (GraphError, ContractError) as error:
        print(f"say: {error}", file=sys.stderr)
        return 1
    try:
        return run(client, arguments, console)
    except ArmClientError as error:
        print(f"say: {error}; start the graph: python3 -m sf_bringup.up", file=sys.stderr)
        return 1
    finally:
        client.close()


def run(client: ArmClient, arguments: Arguments, console: Console) -> int:
    """Send the instruction, show its progress and print the result; return the exit code.

    Raises:
        ArmClientError: the graph does not answer, or refuses the instruction.
    """
    client.wait_for_policy(_FIND_S)
    if arguments.seed is not None:
        client.wait_for_arm(_FIND_S)
        console.print(f"cubes: {', '.join(client.reset(arguments.seed).colours)}")
    before = _lifted(client)
    handle = client.start(arguments.instruction, arguments.seconds)
    result = handle.get_result_async()
    try:
        with console.status("sent") as status:

            def over() -> bool:
                if client.feedback is not None:
                    status.update(_progress(client.feedback))
                return result.done() or _lifted(client) != before

            client.wait_until(over, 20 * arguments.seconds, "the instruction did not end")
    except KeyboardInterrupt:
        console.print("cancelling")
    lifted = [name for name in _lifted(client) if name not in before]
    ended = client.finish(handle)
    what = (
        f"lifted: {', '.join(lifted)}"
        if lifted
        else ended.message or REASONS[ended.termination_reason]
    )
    console.print(f"{what} ({ended.duration_s:.1f} s, {ended.chunks} chunks, {ended.clips} clips)")
    console.print(
        f"{ended.rate_hz:.2f} of {ended.rate_wanted_hz:.2f} chunks per second,"
        f" {ended.cycles_over_budget} late, worst cycle {ended.worst_cycle_s:.3f} s; camera to"
        f" chunk p50 {1e3 * ended.chunk_latency_p50_s:.0f} ms, p95"
        f" {1e3 * ended.chunk_latency_p95_s:.0f} ms"
    )
    simulated = client.task is not None
    return 0 if lifted or (not simulated and ended.termination_reason == ended.TIMEOUT) else 1


def _progress(feedback: RunInstruction.Feedback) -> str:
    latency = f"camera to chunk p95 {1e3 * feedback.chunk_latency_p95_s:.0f} ms"
    counts = f"{feedback.chunks} chunks, {feedback.clips} clips"
    return f"{100 * feedback.progress:.0f} % of the time, {counts}, {latency}, {feedback.state}"


def _lifted(client: ArmClient) -> list[str]:
    return [each.name for each in client.task.objects if each.lifted] if client.task else []


if __name__ == "__main__":
    sys.exit(main())
