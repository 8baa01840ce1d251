"""Executes a policy's chunks: decides which are acceptable and blends each into the motion."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.chunks.checks import check_age, check_form, check_order
from sf_policy_node.motion.chunks.consumed import ConsumedTime
from sf_policy_node.motion.chunks.ensemble import Ensembles
from sf_policy_node.motion.chunks.planning import ChunkPlanner
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.safety.guard import Guard
from sf_policy_node.motion.shadow import ShadowScore
from sf_policy_node.motion.status import StatusLog
from sf_policy_node.motion.types import Chunk, Join, Trajectory

# An instruction whose first chunk that arrives has a higher number began before this executor was
# there. The first ones may be lost while two nodes discover each other: 1 s in a busy graph. A
# process takes longer than these to be started again.
_FIRST_CHUNKS = 6


@dataclass(frozen=True)
class Block:
    """Refuses chunks of all epochs up to ``epoch``, or of this one only where ``only`` is set."""

    epoch: int
    reason: str
    only: bool = False

    def covers(self, epoch: int) -> bool:
        """Return whether a chunk of this epoch is refused."""
        return epoch == self.epoch if self.only else epoch <= self.epoch


class ChunkFollower:
    """Turns the chunks of one contract into motions that the guard admits.

    Args:
        join: the blending mode; None uses the mode that each chunk names.
        score: shadow mode, in which the operator moves the arm: compares the chunks with what the
            operator does. None: the chunks are executed.
    """

    def __init__(
        self,
        contract: Contract,
        kinematics: Kinematics | Mapping[str, Kinematics],
        workspace: Workspace,
        guard: Guard,
        log: StatusLog,
        *,
        join: Join | None,
        score: ShadowScore | None,
    ) -> None:
        self._contract, self._contract_hash = contract, contract.hash
        self._guard, self._log, self._join, self._score = guard, log, join, score
        self._planner = ChunkPlanner(contract, kinematics, workspace)
        self._ensemble, self._consumed = Ensembles(len(contract.arms)), ConsumedTime()
        self.last: Chunk | None = None
        self.accept_from = -math.inf
        """Chunks with an earlier observation are refused [s]."""
        self.joins_at = -math.inf
        """When the motion of the last chunk replaces the motion before it [s]."""
        self.starts_from_rest = True
        """Whether the arm was stationary when the motion of the last chunk began."""
        self._block: Block | None = None
        self._known_epoch: int | None = None  # the highest that a chunk or the policy has reported
        self._unknown_is_blocked = ""  # why, while no epoch is known; empty: it is not
        self._step_times = np.zeros(0)

    def check(self, chunk: Chunk, now: float) -> None:
        """Check that a chunk may be executed at ``now`` [s].

        Raises:
            ChunkRefused: with the first reason against it.
        """
        if self._unknown_is_blocked and chunk.sequence > _FIRST_CHUNKS:
            self.block(self._unknown_is_blocked, chunk.epoch)  # this executor was restarted
        if self._block is not None and self._block.covers(chunk.epoch):
            self.note_epoch(chunk.epoch)
            raise ChunkRefused(self._block.reason)
        check_form(chunk, self._contract, self._contract_hash)
        check_age(chunk, self._contract, now, self._guard.clock.future_s)
        check_order(chunk, self.last)
        self.note_epoch(chunk.epoch)
        if chunk.stamp < self.accept_from:
            raise ChunkRefused(
                "its observation is from before the executor was activated, resumed or reset, or"
                " before teleoperation ended"
            )
        if self._score is None:
            self._guard.monitor.check_reference(chunk)

    def follow(self, chunk: Chunk, now: float) -> Trajectory:
        """Blend a checked chunk into the current motion and return the trajectory to send.

        Raises:
            ChunkRefused: no step of the chunk can be executed.
            MotionRefused: the arm must not start now, or the guard refuses the motion.
        """
        self._before = (self._step_times, self._consumed.copy())
        start = self._guard.start(now)
        if self._score is None:
            self._guard.monitor.check_commanded(chunk, start, self._guard.path)
        if not start.moving or (self.last is not None and self.last.epoch != chunk.epoch):
            self._ensemble.clear()
        join = Join(chunk.join if self._join is None else self._join)
        others = self._ensemble if join is Join.ENSEMBLE else None
        # Steps whose time passed while the arm was stationary were not consumed: they are shifted
        # to later times, not skipped.
        base = start.time - self._consumed.between(chunk.stamp, start.time)
        plan = self._planner.plan(
            chunk, base, now, start.time, start.position, start.velocity, others
        )
        self._log.planned(plan, start.moving)
        if plan.refused:
            raise ChunkRefused(plan.refused)
        trajectory = self._guard.admit(start, plan.positions, plan.velocities, now)
        self._ensemble.add(plan.predicted)
        self._step_times, self.joins_at = plan.step_times, start.time
        self._consumed.follow(start.time, self._guard.path.end)
        self.starts_from_rest = not start.moving
        self.last, self._block = chunk, None
        if self._score is not None:
            due = chunk.stamp + chunk.step_s * np.arange(1, len(plan.targets.positions) + 1)
            self._score.expect(due, plan.targets.positions)
        self._log.followed(chunk, plan, join)
        return trajectory

    def withdraw(self) -> None:
        """Undo the last :meth:`follow`: its motion was not sent."""
        self._guard.withdraw()
        self._step_times, self._consumed = self._before

    def steps_ahead(self, now: float) -> int:
        """Return how many steps of the last chunk are due after ``now`` [s]."""
        return int((self._step_times > now).sum())

    def block(self, reason: str, epoch: int | None = None) -> None:
        """Refuse chunks of all epochs up to the highest known one from now on.

        Args:
            reason: what a refused chunk's :class:`ChunkRefused` says.
            epoch: an epoch that the policy has reported, which counts as known.

        The next chunk that is executed lifts the block. Without any known epoch that of the first
        chunk is blocked, unless it is one of the first of its instruction.
        """
        if epoch is not None:
            self.note_epoch(epoch)
        if self._known_epoch is not None:
            self._block = Block(self._known_epoch, reason)
        else:
            self._unknown_is_blocked = reason

    def note_epoch(self, epoch: int) -> None:
        """Take that the policy has begun the instruction of ``epoch``."""
        self._unknown_is_blocked = ""
        self._known_epoch = epoch if self._known_epoch is None else max(self._known_epoch, epoch)

    def end_motion(self, end: float) -> None:
        """Record that the motion was stopped and ends at ``end`` [s]."""
        self._consumed.end(end)

    def forget_motion(self) -> None:
        """Forget the motion of the last chunks, because something else has moved or stopped the
        arm.
        """
        self._step_times, self.joins_at = np.zeros(0), -math.inf
        self._consumed.clear()
        self._ensemble.clear()

    def accept_any_order(self) -> None:
        """Accept any epoch and sequence number again, except a blocked epoch.

        Epochs may restart at a lower number, for example after a clock jump. A block therefore
        covers only its own epoch from now on.
        """
        self.last = None
        if self._block is not None:
            self._block = dataclasses.replace(self._block, only=True)
