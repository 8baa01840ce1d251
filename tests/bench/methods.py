"""Name the execution methods that are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.peers import LatestChunk, OnePoint

from sf_bringup.arguments import GraphError
from sf_bringup.graph import find_policy
from sf_policy_node.contract import Contract
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.types import Join
from sf_training.simulation.rollout import Motion

OURS = ("blend", "ensemble")
PEERS = ("one_point", "one_point_when_due", "latest_chunk", "latest_chunk_from_row_0")
FLOW = ("flow_blend", "rtc")  # with the flow policy; the others with the shipped regression policy
DESCRIPTIONS = {
    "blend": "our executor, blending",
    "ensemble": "our executor, temporal ensembling",
    "one_point": "each row as one point at t=0, a step ahead",
    "one_point_when_due": "each row as one point at t=0, when it is due",
    "latest_chunk": "the newest chunk's coming rows as they are",
    "latest_chunk_from_row_0": "the newest chunk from row 0, whenever it arrives",
    "flow_blend": "flow policy, our executor, blending",
    "rtc": "flow policy, real-time chunking",
}
_MAKE: dict[str, Callable[[Contract], Motion]] = {
    "blend": lambda contract: ChunkExecutor(contract, join=Join.BLEND),
    "ensemble": lambda contract: ChunkExecutor(contract, join=Join.ENSEMBLE),
    "one_point": OnePoint,
    "one_point_when_due": lambda contract: OnePoint(contract, when_due=True),
    "latest_chunk": LatestChunk,
    "latest_chunk_from_row_0": lambda contract: LatestChunk(contract, skip_passed=False),
    "flow_blend": lambda contract: ChunkExecutor(contract, join=Join.BLEND),
    "rtc": lambda contract: ChunkExecutor(contract, join=Join.RTC),
}


def make_motion(method: str, contract: Contract) -> Motion:
    """Return a new motion that executes chunks by one of the methods."""
    return _MAKE[method](contract)


def flow_policy() -> Path | None:
    """Return the checkpoint of the flow policy, or ``None`` if there is none."""
    try:
        return find_policy("nano_flow")
    except GraphError:
        return None
