"""Transforms chunks of tool actions from a frame that is fixed to the base frame into the base
frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pinocchio

from sf_policy_node.contract import ActionSpace, ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.types import Chunk

_MOST_PARENTS = 100  # more parents than this above one frame are a loop


class FixedFrames:
    """Poses of frames that do not move in the base frame.

    They are links of the URDF and static transforms given to :meth:`set` (/tf_static, REP 105).
    """

    def __init__(self, contract: Contract, kinematics: Kinematics) -> None:
        self._contract = contract
        self._links = kinematics.fixed_links()
        self._parents: dict[str, tuple[str, pinocchio.SE3]] = {}
        action = contract.columns.action
        self._positions = [
            action.indices(ColumnKind.TOOL_POSITION, arm=arm) for arm in contract.arms
        ]
        rotations = [action.indices(ColumnKind.TOOL_ROTATION, arm=arm) for arm in contract.arms]
        self._rotations = [columns for columns in rotations if len(columns)]

    def set(self, frame: str, parent: str, position: np.ndarray, quaternion: np.ndarray) -> None:
        """Store the static transform of ``frame`` in ``parent``.

        Args:
            position: (3,) [m].
            quaternion: (4,) in the order x, y, z, w.

        Raises:
            ValueError: a value is not finite, or the quaternion does not have length 1.
        """
        length = float(np.linalg.norm(quaternion))
        if not (np.isfinite(position).all() and np.isfinite(length) and abs(length - 1.0) < 0.01):
            raise ValueError(
                f"the transform from {parent} to {frame} is invalid: translation {position},"
                f" rotation {quaternion}"
            )
        turn = pinocchio.Quaternion(np.asarray(quaternion, dtype=float) / length).matrix()
        self._parents[frame] = (parent, pinocchio.SE3(turn, np.asarray(position, dtype=float)))

    def pose(self, frame: str) -> pinocchio.SE3 | None:
        """Return the pose of a frame in the base frame; None while no transform connects them."""
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
        """Return the same chunk in the base frame.

        The chunk is returned unchanged when its pose in the base frame is unknown or its form is
        wrong: :func:`check_form` then refuses it with a reason.
        """
        action = self._contract.action
        data = np.asarray(chunk.data)
        is_tool_chunk = (
            chunk.space == action.space
            and action.space.is_tool
            and data.ndim == 2
            and tuple(chunk.names) == tuple(action.names)
        )
        if (
            chunk.frame == self._contract.base_frame
            or not is_tool_chunk
            or data.shape[1:] != (len(action.names),)
        ):
            return chunk
        pose = self.pose(chunk.frame)
        if pose is None or not data.size or not np.isfinite(data).all():
            return chunk
        relative, data = action.space is ActionSpace.EE_DELTA, data.astype(float)
        for columns in self._positions:
            data[:, columns] = data[:, columns] @ pose.rotation.T + (
                0.0 if relative else pose.translation
            )
        for columns in self._rotations:
            vectors = data[:, columns]
            data[:, columns] = (
                vectors @ pose.rotation.T
                if relative
                else [pinocchio.log3(pose.rotation @ pinocchio.exp3(row)) for row in vectors]
            )
        return dataclasses.replace(chunk, data=data, frame=self._contract.base_frame)

    def _above(self, frame: str) -> Iterator[tuple[str, pinocchio.SE3]]:
        """Yield ``frame`` and its parents, nearest first, with the pose of ``frame`` in each."""
        pose = pinocchio.SE3.Identity()
        for _ in range(_MOST_PARENTS):
            yield frame, pose
            if frame not in self._parents:
                return
            frame, step = self._parents[frame]
            pose = step * pose
