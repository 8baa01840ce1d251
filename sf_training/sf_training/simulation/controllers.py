"""Make the controllers of the simulated robot: one for each command topic of the contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.contract.columns import ColumnKind
from sf_policy_node.controller.parameters import ControllerParameters
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.simulation.controller_base import Controller, Measured
from sf_training.simulation.forward_controller import ForwardCommandController
from sf_training.simulation.one_arm import one_arm
from sf_training.simulation.servo_controller import ServoController
from sf_training.simulation.trajectory_controller import JointTrajectoryController

Parameters = Callable[[Sequence[str]], ControllerParameters]
"""Joint names to the parameters of their trajectory controller."""


@dataclass(frozen=True)
class ControllerPart:
    """A controller with its command topic and its joints.

    Attributes:
        output: type of its commands, as in the contract.
        names, columns: (J,) its joints, and their indices in ``contract.command_joints``.
    """

    topic: str
    output: str
    names: tuple[str, ...]
    columns: np.ndarray
    controller: Controller


class ControllerGroup:
    """Several controllers that are sampled as one. Each takes its own commands."""

    def __init__(self, parts: Sequence[ControllerPart]) -> None:
        self.parts = tuple(parts)
        self._count = sum(len(part.columns) for part in parts)

    def sample(self, now: float, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return commanded positions and velocities (J,) at ``now`` [s], within the limits."""
        positions, velocities = np.zeros(self._count), np.zeros(self._count)
        for part in self.parts:
            own = None if measured is None else tuple(each[part.columns] for each in measured)
            positions[part.columns], velocities[part.columns] = part.controller.sample(now, own)
        return positions, velocities

    def hold(self, positions: np.ndarray) -> None:
        """Drop all motion and hold ``positions`` (J,) at once, as after a reset of the arm."""
        for part in self.parts:
            part.controller.hold(positions[part.columns])


def controller_parts(
    contract: Contract, parameters: Parameters | None = None
) -> list[ControllerPart]:
    """Make a controller for each command topic of the contract.

    Arms with the same command topic share a controller. A gripper has its own if the contract has
    ``command.gripper``.

    Args:
        parameters: of trajectory controllers; None means the defaults of
            joint_trajectory_controller.
    """
    limits, commands = JointLimits.of(contract), contract.columns.commands
    shared: dict[str, list[str]] = {}
    for name, arm in contract.arms.items():
        shared.setdefault(arm.command.topic, []).append(name)

    def part(
        topic: str, output: str, columns: np.ndarray, make: Callable[..., Controller]
    ) -> ControllerPart:
        names = tuple(limits.names[column] for column in columns)
        bounds = limits.lower[columns], limits.upper[columns], limits.velocity[columns]
        return ControllerPart(topic, output, names, columns, make(names, *bounds))

    def trajectory(names: tuple[str, ...], *bounds: np.ndarray) -> Controller:
        chosen = parameters(names) if parameters else None
        return JointTrajectoryController(names, *bounds, parameters=chosen)

    def forward(names: tuple[str, ...], *bounds: np.ndarray) -> Controller:
        return ForwardCommandController(*bounds)

    parts = []
    for topic, arms in shared.items():
        command = contract.arms[arms[0]].command
        kinds = [ColumnKind.JOINT] if command.gripper else [ColumnKind.JOINT, ColumnKind.GRIPPER]
        columns = np.concatenate([commands.indices(*kinds, arm=arm) for arm in arms])
        match command.output:
            case "joint_trajectory":
                parts.append(part(topic, command.output, columns, trajectory))
            case "forward_command":
                parts.append(part(topic, command.output, columns, forward))
            case "servo_twist" | "servo_pose":
                servo = ServoController(one_arm(contract, arms[0]))
                parts.append(part(topic, command.output, columns, lambda *_, servo=servo: servo))
    for name, arm in contract.arms.items():
        if arm.command.gripper:
            own = commands.indices(ColumnKind.GRIPPER, arm=name)
            parts.append(part(arm.command.gripper.topic, arm.command.gripper.output, own, forward))
    return parts


def make_controller(
    contract: Contract, parameters: Parameters | None = None
) -> Controller | ControllerGroup:
    """Make the controllers of a contract, combined to one."""
    return combined(controller_parts(contract, parameters))


def combined(parts: Sequence[ControllerPart]) -> Controller | ControllerGroup:
    """Return a single controller as it is, several as a :class:`ControllerGroup`."""
    return parts[0].controller if len(parts) == 1 else ControllerGroup(parts)
