"""The status of an executor; the plain-Python form of ``sf_msgs/ExecutorStatus``."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from sf_policy_node.motion.chunks.planning import Plan
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.state_machine import Situation, State
from sf_policy_node.motion.types import Chunk, ControlSource, Join

PER_JOINT_CLIPS = ("position_clips", "velocity_clips", "acceleration_clips", "step_clips")
REPLAY_SILENT = "the replay has ended"
"""How the reason starts when a replay sends no more commands. The replay recognises its own end by
this text, and a stop by any other.
"""
_RECENT = 100  # accepted chunks over which the clip rate is computed


class RepeatedReasons:
    """Tells reasons that differ only in their numbers from new ones.

    The distance to a wall at which a leader is held changes with each of its commands.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._reported: dict[str, float] = {}  # when reasons without their numbers were new [s]

    def is_repeated(self, reason: str, now: float) -> bool:
        """Return whether a reason was new less than ``seconds`` before ``now`` [s]; if not, it is
        new now.
        """
        words = re.sub(r"(?<![\w.])\d+(\.\d+)?", "#", reason)
        if now - self._reported.get(words, -math.inf) < self._seconds:
            return True
        since = now - self._seconds
        self._reported = {each: at for each, at in self._reported.items() if at > since}
        self._reported[words] = now
        return False


class ExecutorState(IntEnum):
    """The reported state; same numbers as the constants of ``sf_msgs/ExecutorStatus``."""

    INACTIVE = 0
    HOLDING = 1
    EXECUTING = 2
    STOPPED = 3
    SHADOW = 4
    TELEOPERATION = 5
    PAUSED = 6
    HOMING = 7


_REPORTED = {
    State.INACTIVE: ExecutorState.INACTIVE,
    State.HOLDING: ExecutorState.HOLDING,
    State.BLOCKED: ExecutorState.HOLDING,
    State.SETTLING: ExecutorState.HOLDING,
    State.ENDING: ExecutorState.HOLDING,
    State.FOLLOWING: ExecutorState.EXECUTING,
    State.TELEOPERATION: ExecutorState.TELEOPERATION,
    State.REPLAY: ExecutorState.TELEOPERATION,
    State.HOMING: ExecutorState.HOMING,
    State.PAUSED: ExecutorState.PAUSED,
    State.STOPPED: ExecutorState.STOPPED,
}


@dataclass
class ExecutorStatus:
    """State and counts since construction; ``sf_msgs/ExecutorStatus`` describes each field.

    The node adds latencies.
    """

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
    border_jump: float = 0.0
    border_jump_max: float = 0.0
    clip_rate: float = 0.0
    join: str = ""
    source: ControlSource = ControlSource.NOBODY
    position_clips: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    velocity_clips: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    acceleration_clips: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    step_clips: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    workspace_clips: int = 0
    tool_speed_clips: int = 0
    ik_failures: int = 0
    singular_rows: int = 0
    guard_refusals: int = 0
    shadow_error_rms: np.ndarray = field(default_factory=lambda: np.zeros(0))
    shadow_error_max: np.ndarray = field(default_factory=lambda: np.zeros(0))
    shadow_rows: int = 0

    def __post_init__(self) -> None:
        joints = len(self.joint_names)
        for name in PER_JOINT_CLIPS:
            if not len(getattr(self, name)):
                setattr(self, name, np.zeros(joints, dtype=np.int64))


class StatusLog:
    """Updates a status. Arrays are replaced, never modified, so a shallow copy is a snapshot."""

    def __init__(self, joint_names: tuple[str, ...]) -> None:
        self.status = ExecutorStatus(joint_names)
        self._clipped: deque[bool] = deque(maxlen=_RECENT)

    def report(self, reason: str) -> None:
        """Set the reason for the current state."""
        self.status.reason = reason

    def planned(self, plan: Plan, moving: bool) -> None:
        """Count the clips of a plan, whether it is executed or not.

        Args:
            moving: the plan joins a motion in progress.
        """
        status = self.status
        self.clipped(**plan.clips)
        status.workspace_clips += plan.workspace_clips
        status.tool_speed_clips += plan.tool_speed_clips
        status.ik_failures += plan.targets.ik_failures
        status.singular_rows += plan.targets.singular_rows
        status.steps_skipped += plan.skipped
        if moving and not plan.refused:
            status.border_jump = plan.border_jump
            status.border_jump_max = max(status.border_jump_max, plan.border_jump)

    def clipped(self, **counts: np.ndarray) -> None:
        """Add clips per joint (J,), given by cause."""
        for cause, clips in counts.items():
            setattr(self.status, f"{cause}_clips", getattr(self.status, f"{cause}_clips") + clips)

    def followed(self, chunk: Chunk, plan: Plan, join: Join) -> None:
        """Record that a chunk is executed."""
        status = self.status
        self._clipped.append(plan.clipped)
        status.clip_rate = sum(self._clipped) / len(self._clipped)
        status.reason, status.join = plan.note, join.name.lower()
        status.instruction, status.epoch = chunk.instruction, chunk.epoch
        status.chunks_accepted += 1

    def refused(self, chunk: Chunk, refusal: MotionRefused, say: bool) -> None:
        """Record that a chunk was refused.

        Args:
            say: set the reason; False keeps a more important one.
        """
        self.status.chunks_refused += 1
        if say:
            self.status.reason = f"refused chunk {chunk.sequence}: {refusal}"

    def withdrawn(self, before: ExecutorStatus, reason: str) -> None:
        """Restore the status ``before`` the last chunk, because its trajectory was not sent."""
        self.status = dataclasses.replace(
            before, reason=reason, chunks_refused=before.chunks_refused + 1
        )

    def snapshot(self, situation: Situation, *, shadow: bool, **changes) -> ExecutorStatus:
        """Return a copy with the state of a situation.

        Args:
            shadow: the executor is in shadow mode.
            changes: further fields to set.
        """
        state = _REPORTED[situation.state]
        if shadow and state is ExecutorState.EXECUTING:
            state, source = ExecutorState.SHADOW, ControlSource.NOBODY
        else:
            source = situation.source
        return dataclasses.replace(self.status, state=state, source=source, **changes)
