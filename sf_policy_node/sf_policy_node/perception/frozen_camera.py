"""Detect a camera that repeats one image with new stamps, as a driver does when the sensor or the
cable has failed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.perception.observation import NoObservation

# Sum of absolute joint differences [rad or m] above which the arm has moved visibly for every
# camera that sees the arm or is mounted on it.
_MOVED = 0.02
_IMPOSSIBLE = 1.2  # times a joint's top speed: a faster change is a wrong joint state


@dataclass
class _LastImage:
    checksum: int
    since: float  # stamp of the first identical image
    joints: np.ndarray  # arm joints at that stamp
    still: float  # latest stamp at which the arm was still at these joints


class FrozenCameras:
    """Store a checksum of the last image of each camera, and the arm joints at its first stamp.

    An image may stay the same while the arm is stationary, because a simulated camera has no noise.
    """

    def __init__(self, contract: Contract) -> None:
        self._budget_s = contract.budgets.observation_age_s
        self._joints = contract.columns.commands.indices(ColumnKind.JOINT)
        joints = [joint for arm in contract.arms.values() for joint in arm.joints]
        self._fastest = _IMPOSSIBLE * np.array([joint.velocity for joint in joints])
        self._last: dict[str, _LastImage] = {}

    def check(self, stamp: float, images: dict[str, np.ndarray], joints: np.ndarray) -> None:
        """Check images (H, W, 3) by camera, taken at ``stamp`` with the joints (J,).

        Raises:
            NoObservation: an image has been identical for longer than
                ``budgets.observation_age_s`` since the arm started to move.
        """
        frozen = [
            name
            for name, pixels in images.items()
            if self._is_frozen(name, stamp, pixels, joints[self._joints])
        ]
        if frozen:
            name = max(frozen, key=lambda each: stamp - self._last[each].since)
            raise NoObservation(
                f"camera {name}: the image has not changed for"
                f" {stamp - self._last[name].since:.1f} s although the arm moved; restart the"
                " camera's driver"
            )

    def _is_frozen(self, name: str, stamp: float, pixels: np.ndarray, joints: np.ndarray) -> bool:
        checksum = zlib.crc32(np.ascontiguousarray(pixels).data)
        last = self._last.get(name)
        # One wrong joint state at the first image must not make every later one look like motion.
        if (
            last is None
            or last.checksum != checksum
            or stamp < last.since
            or (np.abs(joints - last.joints) > self._fastest * (stamp - last.still)).any()
        ):
            self._last[name] = _LastImage(checksum, stamp, joints.copy(), stamp)
            return False
        if np.abs(joints - last.joints).sum() <= _MOVED:
            last.still = stamp
        # Measured from the start of the motion, so that a camera with some delay is not reported
        # when the arm moves after a long rest.
        return stamp - last.still > self._budget_s
