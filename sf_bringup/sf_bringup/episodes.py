"""Instructions to the simulated arm over ROS, one after the other, with what came of them. Demo and
evaluation share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sf_bringup.arm_client import ArmClient
from sf_msgs.msg import ExecutorStatus
from sf_training.simulation.rollout import EPISODE_SECONDS

STOP_S = 10.0  # wall time; the executor itself needs a few milliseconds
BRAKING_SECONDS = 0.4  # of any arm from its top speed, with the join ahead of it
LATENCY_NOTE = (
    "p50, p95: camera stamp to published chunk, on the simulated clock, which ticks every 10 ms"
)
REASONS = ("timeout", "cancelled", "replaced", "stopped", "no observation", "refused", "error")


@dataclass(frozen=True)
class Order:
    """One instruction to give: ``target`` is the colour that counts as success in the scene of
    ``seed``; for two cubes at once both colours, joined by ``+``.
    """

    seed: int
    instruction: str
    target: str
    cubes: int = 0


@dataclass(frozen=True)
class Outcome:
    """How one order ended. Times are simulated seconds; latencies run from the observation's stamp
    to the published chunk.
    """

    seed: int
    instruction: str
    target: str
    colours: tuple[str, ...]
    success: bool
    wrong_object: bool
    seconds: float
    chunks: int
    chunk_latency_ms: dict[str, float]
    reason: str


def carry_out(
    client: ArmClient, order: Order, on_frame: Callable[[float], None] = lambda seconds: None
) -> Outcome:
    """Reset to the order's scene, give its instruction, and watch until its cube is lifted or the
    time is over.

    Args:
        on_frame: called about ten times per simulated second with the seconds since the
            instruction.

    Raises:
        ArmClientError: the graph does not answer, or stops.
    """
    scene, targets = client.reset(order.seed, order.cubes), order.target.split("+")
    handle = client.start(order.instruction, EPISODE_SECONDS)
    begin = client.simulated_time
    shown = -1.0

    def over() -> bool:
        nonlocal shown
        seconds = client.simulated_time - begin
        if seconds > shown:
            shown = seconds
            on_frame(seconds)
        return _lifted(client, targets) or client.finished(handle) or seconds > EPISODE_SECONDS

    # Wall time: a busy machine may simulate slower than real time.
    client.wait_until(over, 10 * EPISODE_SECONDS, "the episode did not end")
    success, seconds = _lifted(client, targets), client.simulated_time - begin
    wrong = any(each.touched for each in client.task.objects if each.name not in targets)
    result = client.finish(handle)
    # Before the next reset moves it by force, the arm has to stop by itself.
    client.wait_until(
        lambda: client.executor.state != ExecutorStatus.EXECUTING,
        STOP_S,
        "the arm did not stop after the instruction ended",
    )
    client.let_pass(BRAKING_SECONDS)
    return Outcome(
        seed=order.seed,
        instruction=order.instruction,
        target=order.target,
        colours=tuple(scene.colours),
        success=success,
        wrong_object=wrong,
        seconds=round(seconds, 2),
        chunks=result.chunks,
        chunk_latency_ms={
            "p50": round(1e3 * result.chunk_latency_p50_s, 1),
            "p95": round(1e3 * result.chunk_latency_p95_s, 1),
        },
        reason="success" if success else result.message or REASONS[result.termination_reason],
    )


def summarise(outcomes: Sequence[Outcome]) -> dict:
    """Compute the figures of ``summary.json``; p50 is the median of the episodes' p50, p95 the
    largest of their p95.
    """
    latencies = [outcome.chunk_latency_ms for outcome in outcomes if outcome.chunks]
    return {
        "n": len(outcomes),
        "successes": sum(outcome.success for outcome in outcomes),
        "wrong_object": sum(outcome.wrong_object for outcome in outcomes),
        "chunk_latency_ms": {
            "p50": float(np.median([each["p50"] for each in latencies])) if latencies else None,
            "p95": max((each["p95"] for each in latencies), default=None),
        },
        "note": LATENCY_NOTE,
        "episodes": [asdict(outcome) for outcome in outcomes],
    }


def seeds_of(outcomes: Iterable[Outcome]) -> list[int]:
    """Return the scenes' seeds, in order."""
    return [outcome.seed for outcome in outcomes]


def _lifted(client: ArmClient, colours: Sequence[str]) -> bool:
    return all(each.lifted for each in client.task.objects if each.name in colours)
