"""Store the limits, the progress and the result of one instruction, without ROS."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from sf_policy_node.session.cadence import Cadence, CadenceReport
from sf_policy_node.session.latency import Latencies


class Termination(IntEnum):
    """List why an instruction ended, with the numbers of ``sf_msgs/RunInstruction``."""

    TIMEOUT = 0
    CANCELLED = 1
    REPLACED = 2
    STOPPED = 3
    NO_OBSERVATION = 4
    REFUSED = 5
    ERROR = 6


@dataclass(eq=False)
class InstructionRun:
    """Store one instruction. Times are on the node's clock [s].

    Attributes:
        epoch: changes with every resume, so that chunks predicted before a pause are not executed
            after it.
        look_from: earlier observations are not used, because the scene may have changed.
        waiting_since: since when there is no usable observation; None while there is one.
    """

    instruction: str
    epoch: int
    started: float
    cadence: Cadence
    timeout_s: float | None = None
    chunks: int = 0
    clips: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    last_observation: float | None = None  # stamp, of this epoch
    waiting_since: float | None = None
    paused_at: float | None = None
    paused_s: float = 0.0
    ended: float | None = None
    termination: Termination | None = None
    message: str = ""

    def __post_init__(self) -> None:
        self.look_from = self.waiting_since = self.started

    def keep_time(self, now: float) -> None:
        """Set the start to ``now`` if the simulated clock was still 0 at the start."""
        if self.started <= 0.0 < now:
            self.started = self.look_from = self.waiting_since = now

    @property
    def paused(self) -> bool:
        """Return whether the instruction is paused."""
        return self.paused_at is not None

    def pause(self, now: float) -> None:
        """Pause at ``now``: the time limit and the cadence are suspended."""
        self.paused_at = now
        self.cadence.interrupt()

    def resume(self, now: float, epoch: int) -> None:
        """Continue at ``now`` without counting the pause, and only from observations after it."""
        if self.paused_at is not None:
            self.paused_s += max(0.0, now - self.paused_at)
        self.paused_at, self.epoch = None, epoch
        self.last_observation, self.look_from, self.waiting_since = None, now, now

    def end(self, now: float, termination: Termination, message: str) -> None:
        """Record when and why the instruction ended."""
        self.ended, self.termination, self.message = now, termination, message

    def elapsed_s(self, now: float) -> float:
        """Return the time since the start [s], without pauses, up to ``now`` or the end."""
        now = now if self.ended is None else self.ended
        return max(
            0.0, (now if self.paused_at is None else self.paused_at) - self.started - self.paused_s
        )

    @property
    def duration_s(self) -> float:
        """Return the duration of an instruction that has ended, without pauses [s]."""
        if self.ended is None:
            raise ValueError("the instruction has not ended")
        return self.elapsed_s(self.ended)

    def progress(self, now: float) -> float:
        """Return the elapsed share of the time limit, 0 to 1; 0 without a limit."""
        return min(1.0, self.elapsed_s(now) / self.timeout_s) if self.timeout_s else 0.0

    def cadence_report(self, now: float) -> CadenceReport:
        """Return how regularly chunks were published, up to ``now`` or the end."""
        return self.cadence.report(now if self.ended is None else self.ended)
