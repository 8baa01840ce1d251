"""The controllers that a contract names, for the simulated arm."""

from __future__ import annotations

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.controller.parameters import ControllerParameters
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.simulation.controller_base import Controller, Measured
from sf_training.simulation.forward_controller import ForwardCommandController
from sf_training.simulation.servo_controller import ServoController
from sf_training.simulation.trajectory_controller import JointTrajectoryController


class ArmAndGripper:
    """Two controllers as one: ``arm`` for all joints but the last, ``gripper`` for that one. Each
    takes its own commands.
    """

    def __init__(self, arm: Controller, gripper: Controller) -> None:
        self.arm, self.gripper = arm, gripper

    def sample(self, now: float, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Commanded positions and velocities (J,) at ``now`` [s], inside the limits."""
        of_arm, of_gripper = (
            None if measured is None else (measured[0][part], measured[1][part])
            for part in (slice(None, -1), slice(-1, None))
        )
        arm, arm_speed = self.arm.sample(now, of_arm)
        gripper, gripper_speed = self.gripper.sample(now, of_gripper)
        return np.append(arm, gripper), np.append(arm_speed, gripper_speed)

    def hold(self, positions: np.ndarray) -> None:
        """Drop all motion and stand at ``positions`` (J,) at once, as after a reset of the arm."""
        self.arm.hold(positions[:-1])
        self.gripper.hold(positions[-1:])


def make_controller(
    contract: Contract, parameters: ControllerParameters | None = None
) -> Controller | ArmAndGripper:
    """Make what takes the commands of ``contract.command``.

    The gripper has a controller of its own where the contract says so. ``parameters`` are those of
    a trajectory controller; default: the genuine one's defaults.
    """
    limits = JointLimits.of(contract)
    apart = contract.command.gripper is not None
    part = slice(None, -1) if apart else slice(None)
    bounds = limits.lower[part], limits.upper[part], limits.velocity[part]
    arm: Controller
    match contract.command.output:
        case "joint_trajectory":
            arm = JointTrajectoryController(limits.names[part], *bounds, parameters=parameters)
        case "forward_command":
            arm = ForwardCommandController(*bounds)
        case "servo_twist" | "servo_pose":
            arm = ServoController(contract)
    if not apart:
        return arm
    return ArmAndGripper(
        arm, ForwardCommandController(limits.lower[-1:], limits.upper[-1:], limits.velocity[-1:])
    )
