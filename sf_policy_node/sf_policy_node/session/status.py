"""Define the status of a session, as ``sf_msgs/PolicyStatus`` without ROS."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from sf_policy_node.session.cadence import CadenceReport


class PolicyState(IntEnum):
    """List the states, with the numbers of the constants of ``sf_msgs/PolicyStatus``."""

    UNCONFIGURED = 0
    LOADING = 1
    IDLE = 2
    RUNNING = 3
    WAITING = 4
    ERROR = 5
    PAUSED = 6


@dataclass(frozen=True)
class SessionStatus:
    """Hold the status at one time; ages and skew are in s, latencies (p50, p95, p99) in s.

    ``cadence`` is that of the current instruction, or else of the last one.
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
