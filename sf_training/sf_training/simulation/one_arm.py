"""Derive contracts for the simulation: of one arm, and with all boxes in the common base frame."""

from __future__ import annotations

import itertools

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.contract.sections import Arm
from sf_policy_node.motion.arm.kinematics import Kinematics


def one_arm(contract: Contract, name: str) -> Contract:
    """Return the contract of one arm: its joints, gripper, workspace and its columns of a chunk.

    The other arms remain in the URDF as uncommanded joints. The contract of a robot with one arm is
    returned unchanged.
    """
    if len(contract.arms) == 1:
        return contract
    columns = [column for column in contract.columns.action if column.arm == name]
    names = [
        # Joint names may begin with the name of the arm as well: left/joint1.
        column.name if column.kind is ColumnKind.JOINT else column.name.removeprefix(f"{name}/")
        for column in columns
    ]
    action = contract.action.model_copy(update={"names": names})
    return contract.model_copy(update={"arms": {name: contract.arms[name]}, "action": action})


def in_base_frame(contract: Contract) -> Contract:
    """Return the contract with the workspace of every arm in the common ``base_frame``.

    The box of an arm with a turned ``base_frame`` becomes the smallest box around it.
    """
    arms = {name: _moved(contract, name) for name in contract.arms}
    return contract.model_copy(update={"arms": arms})


def _moved(contract: Contract, name: str) -> Arm:
    arm = contract.arms[name]
    if arm.base_frame == contract.base_frame:
        return arm
    links = Kinematics(contract, name).fixed_links()
    link = contract.description().link_of(arm.base_frame)
    assert link is not None  # checked with the contract
    placement = links[link]
    box = arm.workspace
    ends = zip(box.lower, box.upper, strict=True)
    corners = np.array([placement.act(np.array(each)) for each in itertools.product(*ends)])
    around = {"lower": corners.min(axis=0).tolist(), "upper": corners.max(axis=0).tolist()}
    return arm.model_copy(
        update={"base_frame": contract.base_frame, "workspace": box.model_copy(update=around)}
    )
