"""How the numbers of a bag become radians and metres of the contract's joints."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.bag_files import BagError
from sf_training.recording.topics import absolute

Lines = Mapping[str, tuple[float, float]]  # joint: factor and offset from the bag's number to ours


def lines_of(contract: Contract, topic: str) -> Lines:
    """Return the conversion of the joints on a topic of a bag, by ``bags.units`` and
    ``bags.gripper``.

    Raises:
        BagError: closed and open are the same.
    """
    bags, found = contract.bags, {}
    if absolute(topic) in map(absolute, bags.units):
        found = {
            joint.name: (math.pi / 180.0, 0.0)
            for arm in contract.arms.values()
            for joint in arm.joints
            if joint.unit == "rad"
        }
    ends = next(
        (ends for name, ends in bags.gripper.items() if absolute(name) == absolute(topic)), None
    )
    grippers = [arm.gripper for arm in contract.arms.values() if arm.gripper]
    if ends is not None and grippers:
        closed, opened = ends
        if closed == opened:
            raise BagError(
                f"bags.gripper: {topic}: closed and open are both {closed:g}; give two different"
                " values"
            )
        for finger in (each for gripper in grippers for each in gripper.every_finger):
            factor = (finger.open - finger.closed) / (opened - closed)
            found[finger.joint] = (factor, finger.closed - factor * closed)
    return found


def converted(values: np.ndarray, line: tuple[float, float] | None) -> np.ndarray:
    """Return numbers of one joint in the contract's unit."""
    return values if line is None else values * line[0] + line[1]
