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
class SimModel:
    """A MuJoCo model whose world frame is the contract's base frame, with cubes and pedestals.

    Args:
        model: ``mujoco.MjModel``.
        commanded: the model's joints, in the order of ``contract.command_joints``.
        fingers: geoms whose touch of a cube counts.
        tool_site: name of the site in the tool frame.
        jittered_camera: name of the camera that stands elsewhere at each reset; ``None``: none.
        table: height of the table in the base frame [m].
        cube_area: lower and upper corner (2,), (2,) of where cubes may stand [m].
        pedestal_height: of the highest pedestal above the table [m].
        away: where unused cubes lie, transparent (3,) [m].
        start: joints (J,) of a reset, in the order of ``contract.command_joints``, by a generator.
    """

    model: Any
    servos: Servos
    commanded: tuple[str, ...]
    fingers: frozenset[int]
    tool_site: str
    jittered_camera: str | None
    table: float
    cube_area: tuple[np.ndarray, np.ndarray]
    pedestal_height: float
    away: np.ndarray
    start: Callable[[np.random.Generator], np.ndarray]
