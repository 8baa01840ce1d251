"""Follows a policy: which chunks are acceptable, and how each becomes one with the motion under
way.
"""

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


@dataclass(frozen=True)
class Block:
    """Chunks of instructions up to ``epoch`` are not followed; ``only``: of that one alone."""

    epoch: int
    reason: str
    only: bool = False

    def covers(self, epoch: int) -> bool:
        """Whether a chunk of this epoch is refused."""
        return epoch == self.epoch if self.only else epoch <= self.epoch


class ChunkFollower:
    """Chunks of one contract into motions that the guard admits.

    Args:
        join: how chunks are joined; None: as each policy says.
        score: shadow mode: compares chunks with what the operator does, and the arm is somebody
            else's.
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
        self.accept_from = -math.inf  # chunks observed earlier are not followed [s]
        self.joins_at = -math.inf  # when the motion of the last chunk leaves the one before it [s]
        self.starts_from_rest = (
            True  # the motion of the last chunk left a place, and no other motion
        )
        self._block: Block | None = None
        self._known_epoch: int | None = None  # the latest of which a chunk or the policy has told
        self._row_times = np.zeros(0)

    def check(self, chunk: Chunk, now: float) -> None:
        """Raises :class:`ChunkRefused` when a chunk must not be followed."""
        if self._block is not None and self._block.covers(chunk.epoch):
            self._learn(chunk.epoch)
            raise ChunkRefused(self._block.reason)
        check_form(chunk, self._contract, self._contract_hash)
        check_age(chunk, self._contract, now)
        check_order(chunk, self.last)
        self._learn(chunk.epoch)
        if chunk.stamp < self.accept_from:
            raise ChunkRefused(
                "it was observed before the executor was activated, resumed, reset or handed back"
                " by a person"
            )
        if self._score is None:
            self._guard.monitor.check_reference(chunk)

    def follow(self, chunk: Chunk, now: float) -> Trajectory:
        """The motion that joins a checked chunk to the one under way.

        Raises:
            MotionRefused: none of it can be followed now.
        """
        self._before = (self._row_times, self._consumed.copy())
        start = self._guard.start(now)
        if not start.moving or (self.last is not None and self.last.epoch != chunk.epoch):
            self._ensemble.clear()
        join = Join(chunk.join if self._join is None else self._join)
        others = self._ensemble if join is Join.ENSEMBLE else None
        # Rows that passed while the arm stood still were not consumed: they are moved, not skipped.
        base = start.time - self._consumed.between(chunk.stamp, start.time)
        plan = self._planner.plan(
            chunk, base, now, start.time, start.position, start.velocity, others
        )
        self._log.planned(plan, start.moving)
        if plan.refused:
            raise ChunkRefused(plan.refused)
        trajectory = self._guard.admit(start, plan.positions, plan.velocities, now)
        self._ensemble.add(plan.rows)
        self._row_times, self.joins_at = plan.row_times, start.time
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
        self._row_times, self._consumed = self._before

    def rows_ahead(self, now: float) -> int:
        """Count the rows of the last chunk whose time has not come."""
        return int((self._row_times > now).sum())

    def block(self, reason: str, epoch: int | None = None) -> None:
        """Follow no more chunks of the instruction in force, or of ``epoch`` where that is
        later.
        """
        if epoch is not None:
            self._learn(epoch)
        if self._known_epoch is not None:
            self._block = Block(self._known_epoch, reason)

    def _learn(self, epoch: int) -> None:
        self._known_epoch = epoch if self._known_epoch is None else max(self._known_epoch, epoch)

    def stopped(self, end: float) -> None:
        """Record that the motion was stopped and ends at a time [s]."""
        self._consumed.end(end)

    def forget_motion(self) -> None:
        """Forget the motion: the arm is not where chunks have moved it, or is stationary for
        another reason.
        """
        self._row_times, self.joins_at = np.zeros(0), -math.inf
        self._consumed.clear()
        self._ensemble.clear()

    def forget_order(self) -> None:
        """Accept any epoch and sequence again, but none that is blocked.

        Epochs may start again lower, as after a clock that was set: only the very one stays
        blocked.
        """
        self.last = None
        if self._block is not None:
            self._block = dataclasses.replace(self._block, only=True)
