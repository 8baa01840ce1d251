"""Convert the joint values of a bag to the units of the contract."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.bag_files import BagError
from sf_training.recording.topics import absolute

# Joint to (factor, offset): contract value = factor * bag value + offset.
Conversions = Mapping[str, tuple[float, float]]


def unit_conversions(contract: Contract, topic: str) -> Conversions:
    """Return the conversions of the joints on a topic, from ``bags.units`` and ``bags.gripper``.

    Joints that need none are not listed.

    Raises:
        BagError: the closed and open values of a gripper are equal.
    """
    bags = contract.bags
    assert bags is not None  # of a contract for bags of other recorders
    found: dict[str, tuple[float, float]] = {}
    if absolute(topic) in map(absolute, bags.units):
        found = {
            joint.name: (math.pi / 180.0, 0.0)
            for arm in contract.arms.values()
            for joint in arm.joints
            if joint.unit == "rad"
        }
    closed_and_open = next(
        (values for name, values in bags.gripper.items() if absolute(name) == absolute(topic)),
        None,
    )
    grippers = [arm.gripper for arm in contract.arms.values() if arm.gripper]
    if closed_and_open is not None and grippers:
        closed, opened = closed_and_open
        if closed == opened:
            raise BagError(
                f"bags.gripper: {topic}: closed and open are both {closed:g}; give two different"
                " values"
            )
        for finger in (each for gripper in grippers for each in gripper.every_finger):
            factor = (finger.open - finger.closed) / (opened - closed)
            found[finger.joint] = (factor, finger.closed - factor * closed)
    return found


def converted(values: np.ndarray, conversion: tuple[float, float] | None) -> np.ndarray:
    """Return the values of one joint in the unit of the contract."""
    return values if conversion is None else values * conversion[0] + conversion[1]
