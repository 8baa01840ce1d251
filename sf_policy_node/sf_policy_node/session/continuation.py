"""What of the last chunk is still ahead when the next one is predicted: real-time chunking
continues there.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import GRIPPER_COLUMN, ActionSpace, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
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
        self._arm = len(contract.joints)
        self._kinematics = Kinematics(contract) if contract.action.space.is_tool else None
        names = contract.action.names
        self._gripper = names.index(GRIPPER_COLUMN) if GRIPPER_COLUMN in names else None
        self._binary = contract.gripper is not None and contract.gripper.binary
        self._arm_columns = [column for column in range(len(names)) if column != self._gripper]
        self._last: Chunk | None = None
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)

    def note(self, chunk: Chunk, latency_s: float) -> None:
        """A chunk that was sent, and its measured time from observation to sending [s]; not of a
        warm-up.
        """
        self._last = chunk
        self._latencies.append(latency_s)

    def forget(self) -> None:
        """The arm does not follow the last chunk: there is nothing to continue."""
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
        rows[:, self._arm_columns] = self._arm_rows(
            data[:, self._arm_columns], before, after, share, last.reference, joints
        )
        if self._gripper is not None:
            opening = data[:, self._gripper]
            # A two-valued gripper steps: a row's value holds from the row before it on.
            rows[:, self._gripper] = (
                opening[after]
                if self._binary
                else (1 - share) * opening[before] + share * opening[after]
            )
        delay = math.ceil((max(self._latencies) + JOIN_LEAD_S) / self._action.step_s - _SAME)
        return Continuation(rows, max(0, min(delay, ahead)))

    def _arm_rows(
        self,
        rows: np.ndarray,
        before: np.ndarray,
        after: np.ndarray,
        share: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
    ) -> np.ndarray:
        if self._kinematics is None:
            between = (1 - share)[:, None] * rows[before] + share[:, None] * rows[after]
            return (
                between + (old - new)[: self._arm]
                if self._action.space is ActionSpace.JOINT_DELTA
                else between
            )
        relative = self._action.space is ActionSpace.EE_DELTA
        origin = ToolPose(np.zeros(3), np.eye(3))
        start, now = (
            self._kinematics.forward(joints[: self._arm]) if relative else origin
            for joints in (old, new)
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
