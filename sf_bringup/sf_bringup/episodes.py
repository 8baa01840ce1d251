"""Run single episodes of the simulated arm over ROS and summarise them, for demo and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sf_bringup.arm_client import REASONS, ArmClient
from sf_msgs.msg import ExecutorStatus
from sf_training.simulation.rollout import EPISODE_SECONDS

STOP_S = 10.0  # wall time until the executor must have stopped; it needs a few milliseconds
BRAKING_SECONDS = 0.4  # simulated time in which any arm stops from its maximum speed
LATENCY_NOTE = (
    "p50, p95: camera stamp to published chunk, on the simulated clock, which ticks every 10 ms"
)


@dataclass(frozen=True)
class Order:
    """Describe one episode to run.

    Attributes:
        seed: of the scene.
        target: colour of the cube to lift; for two cubes both colours, joined by ``+``.
        cubes: 1 to 3; 0 means 2 or 3, by the seed.
    """

    seed: int
    instruction: str
    target: str
    cubes: int = 0


@dataclass(frozen=True)
class Outcome:
    """Hold the result of one episode.

    Attributes:
        colours: of all cubes of the scene.
        success: every target was lifted.
        wrong_object: a cube that is not a target was touched.
        seconds: simulated duration.
        chunk_latency_ms: p50 and p95 from the stamp of the observation to the published chunk.
        reason: why the instruction ended; "success" if it succeeded.
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
    """Reset to the scene of ``order``, send its instruction, and wait until its targets are lifted
    or the time is over.

    Args:
        on_frame: called with the simulated seconds since the instruction, about ten times per
            simulated second.

    Raises:
        ArmClientError: the graph does not answer, or has ended.
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

    # The timeout is wall time: a busy machine may simulate slower than real time.
    client.wait_until(over, 10 * EPISODE_SECONDS, "the episode did not end")
    success, seconds = _lifted(client, targets), client.simulated_time - begin
    wrong = any(each.touched for each in client.objects if each.name not in targets)
    result = client.finish(handle)
    # The arm must stop by itself before the next reset sets its position.
    client.wait_until(
        lambda: client.executor is not None and client.executor.state != ExecutorStatus.EXECUTING,
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
    """Return the content of ``summary.json``: its p50 is the median of the p50 of the episodes, its
    p95 the largest of their p95.
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
    """Return the seed of each scene, in order."""
    return [outcome.seed for outcome in outcomes]


def _lifted(client: ArmClient, colours: Sequence[str]) -> bool:
    return all(each.lifted for each in client.objects if each.name in colours)
