"""Chunks of tool actions that are given in another frame than the contract's base frame: one that
is fixed to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pinocchio

from sf_policy_node.contract import ActionSpace, ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.types import Chunk

_MOST_PARENTS = 100  # of a frame; more are a circle


class FixedFrames:
    """Frames that do not move in the base frame: links of the URDF, and what :meth:`set` was told
    (REP 105; /tf_static).
    """

    def __init__(self, contract: Contract, kinematics: Kinematics) -> None:
        self._contract = contract
        self._links = kinematics.fixed_links()
        self._parents: dict[str, tuple[str, pinocchio.SE3]] = {}
        action = contract.columns.action
        self._places = [action.indices(ColumnKind.TOOL_POSITION, arm=arm) for arm in contract.arms]
        turns = [action.indices(ColumnKind.TOOL_ROTATION, arm=arm) for arm in contract.arms]
        self._turns = [columns for columns in turns if len(columns)]

    def set(self, frame: str, parent: str, position: np.ndarray, quaternion: np.ndarray) -> None:
        """``frame`` stands in ``parent`` at ``position`` (3,) [m], turned by ``quaternion`` (4,) x
        y z w.

        Raises:
            ValueError: not finite, or no rotation.
        """
        length = float(np.linalg.norm(quaternion))
        if not (np.isfinite(position).all() and np.isfinite(length) and abs(length - 1.0) < 0.01):
            raise ValueError(
                f"the transform from {parent} to {frame} is not one: translation {position},"
                f" rotation {quaternion}"
            )
        turn = pinocchio.Quaternion(np.asarray(quaternion, dtype=float) / length).matrix()
        self._parents[frame] = (parent, pinocchio.SE3(turn, np.asarray(position, dtype=float)))

    def pose(self, frame: str) -> pinocchio.SE3 | None:
        """Return the pose of a frame in the base frame; None while it is unknown."""
        if frame in self._links:
            return self._links[frame]
        above_base = dict(self._above(self._contract.base_frame))
        for name, pose in self._above(frame):
            if name in self._links:
                return self._links[name] * pose
            if name in above_base:
                return above_base[name].inverse() * pose
        return None

    def in_base(self, chunk: Chunk) -> Chunk:
        """The same chunk in the base frame; as it is where its frame is not known, or it would be
        refused for its form anyway.
        """
        action = self._contract.action
        data = np.asarray(chunk.data)
        right = (
            chunk.space == action.space
            and action.space.is_tool
            and data.ndim == 2
            and tuple(chunk.names) == tuple(action.names)
        )
        if (
            chunk.frame == self._contract.base_frame
            or not right
            or data.shape[1:] != (len(action.names),)
        ):
            return chunk
        pose = self.pose(chunk.frame)
        if pose is None or not data.size or not np.isfinite(data).all():
            return chunk
        relative, data = action.space is ActionSpace.EE_DELTA, data.astype(float)
        for place in self._places:
            data[:, place] = data[:, place] @ pose.rotation.T + (
                0.0 if relative else pose.translation
            )
        for turn in self._turns:
            data[:, turn] = (
                data[:, turn] @ pose.rotation.T
                if relative
                else [pinocchio.log3(pose.rotation @ pinocchio.exp3(row)) for row in data[:, turn]]
            )
        return dataclasses.replace(chunk, data=data, frame=self._contract.base_frame)

    def _above(self, frame: str) -> Iterator[tuple[str, pinocchio.SE3]]:
        """Yield a frame and its parents, nearest first, with the pose of the frame in each."""
        pose = pinocchio.SE3.Identity()
        for _ in range(_MOST_PARENTS):
            yield frame, pose
            if frame not in self._parents:
                return
            frame, step = self._parents[frame]
            pose = step * pose
