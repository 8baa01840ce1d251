"""Describe a MuJoCo model for :class:`ArmSim`: joints, servos, hands, cameras and areas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

TOOL_DOWN = np.diag([-1.0, 1.0, -1.0])  # rotation of a tool whose z axis points down


@dataclass(frozen=True)
class Servos:
    """A position servos, in the order of the actuators of the model.

    A servo follows multiplier * command[source] + offset, plus feed_forward * velocity so that its
    damping acts on the error of the velocity.

    Attributes:
        joints: joint of each servo.
        source: (A,) index in the commands.
        multiplier, offset, feed_forward: (A,); feed_forward in [s].
        followers: (joint, leading joint, multiplier, offset) of joints without a servo, which a
            constraint couples.
    """

    joints: tuple[str, ...]
    source: np.ndarray
    multiplier: np.ndarray
    offset: np.ndarray
    feed_forward: np.ndarray
    followers: tuple[tuple[str, str, float, float], ...] = ()


@dataclass(frozen=True)
class Approach:
    """Orientation of a tool for picking.

    Args:
        rotation: (3, 3) of the tool in the base frame.
        centre: (3,) position at which the tool has that rotation [m].
        root: (3,) first joint of the arm [m], for arms with fewer than six joints, whose tool turns
            with the arm about the vertical axis. None for the same rotation everywhere.
        aside: distance [m] of the tool from the vertical plane in which such an arm moves, positive
            to its left.
    """

    rotation: np.ndarray
    centre: np.ndarray | None = None
    root: np.ndarray | None = None
    aside: float = 0.0

    def at(self, position: np.ndarray) -> np.ndarray:
        """Return the rotation (3, 3) of the tool at ``position`` (3,) [m]."""
        if self.root is None:
            return self.rotation
        angle = self._heading(position - self.root) - self._heading(self.centre - self.root)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ self.rotation

    def _heading(self, position: np.ndarray) -> float:
        """Return the angle [rad] of the plane in which the arm moves when the tool is at a position
        (3,) [m] from the root.
        """
        share = np.clip(self.aside / np.hypot(*position[:2]), -1.0, 1.0)
        return float(np.arctan2(position[1], position[0]) - np.arcsin(share))


@dataclass(frozen=True)
class Grip:
    """How a gripper holds a cube.

    Args:
        gripped: opening below which it holds a cube, if one is there.
        wide: opening with which it approaches a cube.
        depth: of the tool below the cube's centre when it closes [m].
        offset: (3,) of the cube's centre in the tool frame, where one of the jaws is fixed [m].
    """

    gripped: float = 0.6
    wide: float = 1.0
    depth: float = 0.004
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Hand:
    """Hand of an arm.

    Args:
        arm: name of the arm in the contract.
        site: name of the site at the tool frame.
        fingers: geoms whose contacts with a cube count as touching it.
        approach: orientation of the tool for picking; None if it cannot point down.
        grip: how the gripper holds a cube.
        home: joints (J,) of the home pose of this arm and its gripper.
        cube_area: lower and upper corner (2,), (2,) of the area for cubes of this arm [m].
    """

    arm: str
    site: str
    fingers: frozenset[int]
    approach: Approach | None
    home: np.ndarray
    cube_area: tuple[np.ndarray, np.ndarray]
    grip: Grip = Grip()


@dataclass(frozen=True)
class SimModel:
    """A MuJoCo model whose world frame is the contract's base frame, with cubes and pedestals.

    Args:
        model: ``mujoco.MjModel``.
        commanded: joints of the model in the order of ``contract.command_joints``.
        hands: one for each arm of the contract, in its order.
        jittered_camera: name of the camera that is moved at each reset; None if there is none.
        table: height of the table in the base frame [m].
        pedestal_height: maximum height of a pedestal above the table [m].
        away: (3,) position of unused, transparent cubes [m].
        start: draws joints (J,) for a reset, in the order of ``contract.command_joints``.
    """

    model: Any
    servos: Servos
    commanded: tuple[str, ...]
    hands: tuple[Hand, ...]
    jittered_camera: str | None
    table: float
    pedestal_height: float
    away: np.ndarray
    start: Callable[[np.random.Generator], np.ndarray]


def set_joints(model: Any, data: Any, servos: Servos, positions: np.ndarray) -> None:
    """Set all joints of the model to commanded ``positions`` (J,) [rad, m]."""
    targets = servos.multiplier * positions[servos.source] + servos.offset
    for name, target in zip(servos.joints, targets, strict=True):
        data.qpos[model.joint(name).qposadr[0]] = target
    for name, leader, multiplier, offset in servos.followers:
        leading = data.qpos[model.joint(leader).qposadr[0]]
        data.qpos[model.joint(name).qposadr[0]] = multiplier * leading + offset
