"""The controllers that a contract names, for the simulated robot: one for each command topic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.contract_columns import ColumnKind
from sf_policy_node.controller.parameters import ControllerParameters
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.simulation.controller_base import Controller, Measured
from sf_training.simulation.forward_controller import ForwardCommandController
from sf_training.simulation.one_arm import one_arm
from sf_training.simulation.servo_controller import ServoController
from sf_training.simulation.trajectory_controller import JointTrajectoryController

Parameters = Callable[[Sequence[str]], ControllerParameters]
"""Parameters of a trajectory controller for the names of its joints."""


@dataclass(frozen=True)
class ControllerPart:
    """One controller: it takes commands of the kind ``output`` on ``topic``.

    ``names`` and ``columns`` (J,): its joints, and their places in ``contract.command_joints``.
    """

    topic: str
    output: str
    names: tuple[str, ...]
    columns: np.ndarray
    controller: Controller


class ControllerGroup:
    """Several controllers as one. Each takes its own commands."""

    def __init__(self, parts: Sequence[ControllerPart]) -> None:
        self.parts = tuple(parts)
        self._count = sum(len(part.columns) for part in parts)

    def sample(self, now: float, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Commanded positions and velocities (J,) at ``now`` [s], inside the limits."""
        positions, velocities = np.zeros(self._count), np.zeros(self._count)
        for part in self.parts:
            own = None if measured is None else tuple(each[part.columns] for each in measured)
            positions[part.columns], velocities[part.columns] = part.controller.sample(now, own)
        return positions, velocities

    def hold(self, positions: np.ndarray) -> None:
        """Drop all motion and stand at ``positions`` (J,) at once, as after a reset of the arm."""
        for part in self.parts:
            part.controller.hold(positions[part.columns])


def controller_parts(
    contract: Contract, parameters: Parameters | None = None
) -> list[ControllerPart]:
    """Make what takes the commands of each ``command`` of the contract.

    Arms whose commands have one topic share a controller. A gripper has one of its own where the
    contract says so. ``parameters`` are those of trajectory controllers; default: the genuine
    one's defaults.
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
        kinds = (ColumnKind.JOINT,) if command.gripper else (ColumnKind.JOINT, ColumnKind.GRIPPER)
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


def make_controller(contract: Contract, parameters: Parameters | None = None) -> Controller:
    """Make one controller of :func:`controller_parts`: the only one, or all as one."""
    return combined(controller_parts(contract, parameters))


def combined(parts: Sequence[ControllerPart]) -> Controller:
    """Return the only controller, or all as one."""
    return parts[0].controller if len(parts) == 1 else ControllerGroup(parts)
