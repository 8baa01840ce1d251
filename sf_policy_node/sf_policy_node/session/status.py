"""Hold what a session reports about itself; the plain-Python form of ``sf_msgs/PolicyStatus``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from sf_policy_node.session.cadence import CadenceReport


class PolicyState(IntEnum):
    """Same numbers as the constants of ``sf_msgs/PolicyStatus``."""

    UNCONFIGURED = 0
    LOADING = 1
    IDLE = 2
    RUNNING = 3
    WAITING = 4
    ERROR = 5
    PAUSED = 6


@dataclass(frozen=True)
class SessionStatus:
    """A snapshot; latencies are (p50, p95, p99) [s]; ``cadence`` is that of the instruction in
    force, or of the last one.
    """

    state: PolicyState
    reason: str
    instruction: str
    epoch: int
    chunks: int
    observations_refused: int
    camera_ages: list[float]
    skew: float
    joint_state_age: float
    inference: tuple[float, float, float]
    chunk_latency: tuple[float, float, float]
    cadence: CadenceReport
