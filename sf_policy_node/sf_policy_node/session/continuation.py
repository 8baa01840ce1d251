"""Compute the rest of the last chunk at the next prediction, which real-time chunking continues
(arXiv 2506.07339).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import ActionSpace, ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose, kinematics_of
from sf_policy_node.motion.safety.leads import JOIN_S
from sf_policy_node.motion.types import Chunk

_LATENCIES = 10  # last latencies, of which the largest is the planned delay
_SAME = 1e-6  # share of a step below which two times are equal


@dataclass(frozen=True)
class Continuation:
    """Hold the rest of the last chunk in the terms of the next one.

    ``rows`` (n, C) are for the next chunk's first n rows, in its action space and relative to ITS
    reference joints. The first ``delay_rows`` of them will have been executed when the arm can
    change over to the next chunk.
    """

    rows: np.ndarray
    delay_rows: int


class ChunkHistory:
    """Store the last chunk and the last latencies of one instruction; each instruction needs a new
    object.
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
        """Store a published chunk and its latency from observation to publication [s]."""
        self._last = chunk
        self._latencies.append(latency_s)

    def forget(self) -> None:
        """Drop the last chunk, because the arm does not follow it."""
        self._last = None

    def continuation(self, stamp: float, joints: np.ndarray) -> Continuation | None:
        """Return the rest of the last chunk for an observation at ``stamp`` [s] with measured
        ``joints`` (J,); None if nothing is left.

        The largest latency and the executor's lead determine the delay d, the number of rows that
        will have been executed, at most n. With chunks of H rows and s rows between two
        predictions, d <= s <= H - d holds as in the paper: predictions do not overlap, so d <= s,
        and n = H - s rows are left.
        """
        last = self._last
        if last is None or stamp < last.stamp:  # the clock went back
            return None
        shift = (stamp - last.stamp) / self._action.step_s
        ahead = min(len(last.data), math.floor(len(last.data) - shift + _SAME))
        if ahead < 1:
            return None
        # Row i of the next chunk lies between rows `before` and `before + 1` of the last one.
        index = np.arange(ahead) + shift
        before = np.floor(index + _SAME).astype(int)
        share = np.where(np.abs(index - before) < _SAME, 0.0, index - before)
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
        delay = math.ceil((max(self._latencies) + JOIN_S) / self._action.step_s - _SAME)
        return Continuation(rows, max(0, min(delay, ahead)))


class _Arm:
    """Interpolate the columns of one arm, without those of its gripper.

    Args:
        kinematics: None if the columns are joints.
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
        """Return rows (n, C) at ``share`` (n,) between rows ``before`` and ``after``, converted
        from reference joints ``old`` (J,) to ``new`` (J,).
        """
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
            for row, (one, other, fraction) in enumerate(
                zip(rows[before, 3:], rows[after, 3:], share, strict=True)
            ):
                first = pinocchio.exp3(one)
                # Spherical linear interpolation (slerp).
                between = first @ pinocchio.exp3(
                    fraction * pinocchio.log3(first.T @ pinocchio.exp3(other))
                )
                result[row, 3:] = pinocchio.log3(between @ start.rotation @ now.rotation.T)
        return result
