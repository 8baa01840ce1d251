"""What :class:`ArmSim` needs to know of a MuJoCo model: joints, servos, fingers, cameras, where
things may lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

TOOL_DOWN = np.diag([-1.0, 1.0, -1.0])  # rotation of a tool whose z points at the table


@dataclass(frozen=True)
class Servos:
    """Arrays of position servos (A,), in the order of the model's actuators.

    A servo follows ``multiplier * command[source] + offset``; ``feed_forward`` [s] of the commanded
    velocity is added, so that the servo damps towards that velocity instead of towards rest.
    ``followers`` (joint, leading joint, multiplier, offset) have no servo: a constraint holds them.
    """

    joints: tuple[str, ...]
    source: np.ndarray
    multiplier: np.ndarray
    offset: np.ndarray
    feed_forward: np.ndarray
    followers: tuple[tuple[str, str, float, float], ...] = ()


@dataclass(frozen=True)
class Approach:
    """How a tool is held when it picks.

    Args:
        rotation: (3, 3) of the tool in the base frame.
        centre: (3,) where it has that rotation [m].
        root: (3,) foot of the arm, for arms whose joints are too few to hold the tool in one
            direction: there it turns with the arm about the vertical. ``None``: it does not turn.
    """

    rotation: np.ndarray
    centre: np.ndarray | None = None
    root: np.ndarray | None = None

    def at(self, place: np.ndarray) -> np.ndarray:
        """Return the rotation (3, 3) of the tool at ``place`` (3,) [m]."""
        if self.root is None:
            return self.rotation
        now, then = place - self.root, self.centre - self.root
        angle = np.arctan2(now[1], now[0]) - np.arctan2(then[1], then[0])
        cos, sin = np.cos(angle), np.sin(angle)
        return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ self.rotation


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
    """What of an arm picks things.

    Args:
        arm: name of the arm in the contract.
        site: name of the model's site in the tool frame.
        fingers: geoms whose touch of a cube counts.
        approach: how the tool points at the table; ``None``: it cannot.
        grip: how its gripper holds a cube.
        home: joints (J,) of this arm and its gripper, from which it starts.
        cube_area: lower and upper corner (2,), (2,) of where cubes for this arm may stand [m].
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
        commanded: the model's joints, in the order of ``contract.command_joints``.
        hands: one for each arm of the contract, in its order.
        jittered_camera: name of the camera that stands elsewhere at each reset; ``None``: none.
        table: height of the table in the base frame [m].
        pedestal_height: of the highest pedestal above the table [m].
        away: where unused cubes lie, transparent (3,) [m].
        start: joints (J,) of a reset, in the order of ``contract.command_joints``, by a generator.
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
    """Put all joints where commanded ``positions`` (J,) [rad or m] lead them."""
    targets = servos.multiplier * positions[servos.source] + servos.offset
    for name, target in zip(servos.joints, targets, strict=True):
        data.qpos[model.joint(name).qposadr[0]] = target
    for name, leader, multiplier, offset in servos.followers:
        led = data.qpos[model.joint(leader).qposadr[0]]
        data.qpos[model.joint(name).qposadr[0]] = multiplier * led + offset
