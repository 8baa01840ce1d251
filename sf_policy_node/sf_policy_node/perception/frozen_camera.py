"""Detect a camera that repeats one image with fresh stamps: the driver runs, the sensor or cable
does not.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.perception.observation import NoObservation

# sum over the arm's joints [rad or m]: every camera that sees the arm or rides on it sees this
_MOVED = 0.02


@dataclass
class _Picture:
    checksum: int
    since: float  # stamp of its first appearance
    joints: np.ndarray  # arm joints then
    still: float  # latest stamp at which the arm was where it was then


class FrozenCameras:
    """Remember the last image of every camera and the arm's joints when it first came.

    An image may stay the same while the arm is stationary: a simulated camera has no
    noise.
    """

    def __init__(self, contract: Contract) -> None:
        self._budget_s = contract.budgets.observation_age_s
        self._joints = contract.columns.commands.indices(ColumnKind.JOINT)
        self._pictures: dict[str, _Picture] = {}

    def check(self, stamp: float, images: dict[str, np.ndarray], joints: np.ndarray) -> None:
        """Check images (H, W, 3) by camera, taken at ``stamp`` with the joints (J,).

        Raises:
            NoObservation: an image has stayed the same to the last bit for longer than
                ``budgets.observation_age_s`` while the arm moved.
        """
        frozen = [
            name
            for name, pixels in images.items()
            if self._is_frozen(name, stamp, pixels, joints[self._joints])
        ]
        if frozen:
            name = max(frozen, key=lambda each: stamp - self._pictures[each].since)
            raise NoObservation(
                f"camera {name}: the image has not changed for"
                f" {stamp - self._pictures[name].since:.1f} s although the arm moved; restart the"
                " camera's driver"
            )

    def _is_frozen(self, name: str, stamp: float, pixels: np.ndarray, joints: np.ndarray) -> bool:
        checksum = zlib.crc32(np.ascontiguousarray(pixels).data)
        known = self._pictures.get(name)
        if known is None or known.checksum != checksum or stamp < known.since:
            self._pictures[name] = _Picture(checksum, stamp, joints.copy(), stamp)
            return False
        if np.abs(joints - known.joints).sum() <= _MOVED:
            known.still = stamp
        # Counted from when the arm left: a camera that is a little late after a long rest is not
        # frozen.
        return stamp - known.still > self._budget_s
