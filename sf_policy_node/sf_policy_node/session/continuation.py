"""Return the part of the last chunk that is still ahead at the next prediction: real-time chunking
continues there.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import ActionSpace, ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose, kinematics_of
from sf_policy_node.motion.safety.guard import JOIN_LEAD_S
from sf_policy_node.motion.types import Chunk

_LATENCIES = 10  # the delay to plan for is the worst of these (arXiv 2506.07339)
_SAME = 1e-6  # of a step: times closer than this are one


@dataclass(frozen=True)
class Continuation:
    """The last chunk as the next one would have to say it.

    ``rows`` (n, C) are for the next chunk's first n rows, in its action space and relative to ITS
    reference joints. The first ``delay_rows`` of them will have been executed when the arm can
    change over to the next chunk.
    """

    rows: np.ndarray
    delay_rows: int


class ChunkHistory:
    """Remembers the last chunk and the latest latencies of one instruction; another instruction
    needs a fresh one.
    """

    def __init__(self, contract: Contract) -> None:
        self._action = contract.action
        kinematics = kinematics_of(contract) if contract.action.space.is_tool else {}
        self._arms = [_Arm(contract, name, kinematics.get(name)) for name in contract.arms]
        self._grippers = [
            (column.index, gripper.binary)
            for column in contract.columns.action
            if column.kind is ColumnKind.GRIPPER and (gripper := contract.arms[column.arm].gripper)
        ]
        self._last: Chunk | None = None
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)

    def note(self, chunk: Chunk, latency_s: float) -> None:
        """Remember a chunk that was sent, and its measured time from observation to sending [s]. A
        warm-up does not count.
        """
        self._last = chunk
        self._latencies.append(latency_s)

    def forget(self) -> None:
        """Forget the last chunk: the arm does not follow it."""
        self._last = None

    def continuation(self, stamp: float, joints: np.ndarray) -> Continuation | None:
        """For an observation at ``stamp`` [s] with measured ``joints`` (J,); None when nothing of
        the last chunk is ahead.

        The worst latency and the executor's lead decide how many rows count as executed, at most
        those that exist. The paper's rule d <= s <= H - d holds: one prediction at a time means d
        <= s, and n = H - s rows exist.
        """
        last = self._last
        if last is None or stamp < last.stamp:  # the clock went back
            return None
        shift = (stamp - last.stamp) / self._action.step_s
        ahead = min(len(last.data), math.floor(len(last.data) - shift + _SAME))
        if ahead < 1:
            return None
        # Row i of the next chunk lies between rows `before` and `before + 1` of the last one.
        place = np.arange(ahead) + shift
        before = np.floor(place + _SAME).astype(int)
        share = np.where(np.abs(place - before) < _SAME, 0.0, place - before)
        after = np.minimum(before + (share > 0), len(last.data) - 1)
        data = np.asarray(last.data, dtype=float)
        rows = np.empty((ahead, data.shape[1]))
        for arm in self._arms:
            rows[:, arm.columns] = arm.rows(
                data[:, arm.columns], before, after, share, last.reference, joints
            )
        for column, binary in self._grippers:
            opening = data[:, column]
            # A two-valued gripper steps: a row's value holds from the row before it on.
            rows[:, column] = (
                opening[after] if binary else (1 - share) * opening[before] + share * opening[after]
            )
        delay = math.ceil((max(self._latencies) + JOIN_LEAD_S) / self._action.step_s - _SAME)
        return Continuation(rows, max(0, min(delay, ahead)))


class _Arm:
    """The columns of one arm, without its gripper's.

    Args:
        kinematics: None: columns are joints.
    """

    def __init__(self, contract: Contract, name: str, kinematics: Kinematics | None) -> None:
        columns = contract.columns
        self.columns = columns.action.indices(arm=name, without=[ColumnKind.GRIPPER])
        self._joints = columns.commands.indices(ColumnKind.JOINT, arm=name)
        self._space, self._kinematics = contract.action.space, kinematics

    def rows(
        self,
        rows: np.ndarray,
        before: np.ndarray,
        after: np.ndarray,
        share: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
    ) -> np.ndarray:
        """Rows (n, C) between ``before`` and ``after``, relative to joints ``new`` (J,)."""
        old, new = old[self._joints], new[self._joints]
        if self._kinematics is None:
            between = (1 - share)[:, None] * rows[before] + share[:, None] * rows[after]
            return between + old - new if self._space is ActionSpace.JOINT_DELTA else between
        relative = self._space is ActionSpace.EE_DELTA
        origin = ToolPose(np.zeros(3), np.eye(3))
        start, now = (
            self._kinematics.forward(joints) if relative else origin for joints in (old, new)
        )
        result = np.empty((len(before), rows.shape[1]))
        result[:, :3] = (
            (1 - share)[:, None] * rows[before, :3]
            + share[:, None] * rows[after, :3]
            + start.position
            - now.position
        )
        if rows.shape[1] == 6:
            for i, (one, other, part) in enumerate(
                zip(rows[before, 3:], rows[after, 3:], share, strict=True)
            ):
                first = pinocchio.exp3(one)
                # On the sphere, at constant speed.
                between = first @ pinocchio.exp3(
                    part * pinocchio.log3(first.T @ pinocchio.exp3(other))
                )
                result[i, 3:] = pinocchio.log3(between @ start.rotation @ now.rotation.T)
        return result
