"""Compute the robot state that a policy receives, the same way for training and on the robot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics


def state_names(contract: Contract) -> list[str]:
    """Return the names of the columns of :func:`robot_state`."""
    return list(contract.columns.state.names)


def robot_state(
    contract: Contract,
    kinematics: Kinematics | Mapping[str, Kinematics],
    joint_positions: np.ndarray,
) -> np.ndarray:
    """Return the state vector: for each arm its joints [rad or m], the gripper opening (0 to 1) if
    it has one, and the tool position (3,) [m] in the common ``base_frame`` of the contract.

    Args:
        kinematics: of each arm by name, or that of the only arm.
        joint_positions: (J,) measured, in the order of ``contract.command_joints``.

    Raises:
        ValueError: the number of joints is wrong, or a value is not finite.
    """
    joints = np.asarray(joint_positions, dtype=float)
    names = contract.command_joints
    if joints.shape != (len(names),):
        raise ValueError(
            f"joint positions: got shape {joints.shape}, needs {len(names)} values"
            f" ({', '.join(names)})"
        )
    if not np.isfinite(joints).all():
        raise ValueError(
            f"joint positions: {names[int(np.argmin(np.isfinite(joints)))]} is not finite"
        )
    parts: list[np.ndarray] = []
    start = 0
    for name, arm in contract.arms.items():
        own = joints[start : start + len(arm.joints)]
        fingers = joints[start + len(own) : start + len(arm.command_joints)]
        start += len(arm.command_joints)
        opening = [arm.gripper.mean_opening(fingers.tolist())] if arm.gripper else []
        of_arm = kinematics if isinstance(kinematics, Kinematics) else kinematics[name]
        parts += [own, np.array(opening), of_arm.forward(own).position]
    return np.concatenate(parts)
