"""What an executor reports about itself; the plain-Python form of ``sf_msgs/ExecutorStatus``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np


class ExecutorState(IntEnum):
    """Same numbers as the constants of ``sf_msgs/ExecutorStatus``."""

    INACTIVE = 0
    HOLDING = 1
    EXECUTING = 2
    STOPPED = 3
    SHADOW = 4


@dataclass
class ExecutorStatus:
    """Counts since construction; see ``sf_msgs/ExecutorStatus`` for each field. Latencies are added by the node."""

    joint_names: tuple[str, ...]
    state: ExecutorState = ExecutorState.INACTIVE
    reason: str = ""
    instruction: str = ""
    epoch: int = 0
    chunks_accepted: int = 0
    chunks_refused: int = 0
    steps_skipped: int = 0
    queue_depth: int = 0
    chunk_age_s: float = -1.0
    joint_state_age_s: float = -1.0
    border_jump_max: float = 0.0
    position_clips: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    velocity_clips: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    acceleration_clips: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    workspace_clips: int = 0
    ik_failures: int = 0

    def __post_init__(self) -> None:
        joints = len(self.joint_names)
        for name in ("position_clips", "velocity_clips", "acceleration_clips"):
            if not len(getattr(self, name)):
                setattr(self, name, np.zeros(joints, dtype=np.int64))
