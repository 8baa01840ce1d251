"""What a policy is told about the robot itself, computed the same way for training and on the
robot.
"""

from __future__ import annotations

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics


def state_names(contract: Contract) -> list[str]:
    """Names of the columns of :func:`robot_state`."""
    gripper = ["opening"] if contract.gripper else []
    return [*contract.arm_joints, *gripper, "tool_x", "tool_y", "tool_z"]


def robot_state(
    contract: Contract, kinematics: Kinematics, joint_positions: np.ndarray
) -> np.ndarray:
    """Arm joints [rad or m], gripper opening (0 to 1) and tool position in the base frame [m], as
    one vector.

    Args:
        joint_positions: measured, in the order of ``contract.command_joints``.

    Raises:
        ValueError: when the number of joints is wrong or a value is not finite.
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
    arm = joints[: len(contract.joints)]
    opening = [contract.gripper.to_opening(joints[-1])] if contract.gripper else []
    return np.concatenate([arm, opening, kinematics.forward(arm).position])
