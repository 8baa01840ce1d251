"""Verifies a motion before it is sent, independently of how it was planned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.meeting import fits

_ROUNDING = 1e-3  # share of a limit
_SAME_STATE = 1e-6  # rad, m or per s: rounding


@dataclass(frozen=True)
class Motion:
    """Samples (N, J), one ``period`` [s] apart.

    The first is the commanded state from which the motion starts, the last one must be stationary.
    """

    period: float
    positions: np.ndarray
    velocities: np.ndarray


def find_violation(motion: Motion, limits: JointLimits, workspace: Workspace | None) -> str:
    """Return which limit a motion breaks, in one sentence; empty when it breaks none.

    A motion that starts outside a limit may only come back. Between two samples a controller
    follows a cubic through their positions and velocities, whose acceleration is largest at an end
    and is checked there: with the period h [s], the distance d and the velocities v0 and v1 (J,),
    it is (6 d / h - 4 v0 - 2 v1) / h at the start and (-6 d / h + 2 v0 + 4 v1) / h at the end.

    Args:
        workspace: None: box, collisions and tool speed are not checked, as for some stops.
    """
    positions, velocities = motion.positions, motion.velocities
    if (
        positions.ndim != 2
        or positions.shape != velocities.shape
        or len(positions) < 2
        or positions.shape[1] != len(limits.names)
    ):
        return (
            f"it has {positions.shape} positions and {velocities.shape} velocities for"
            f" {len(limits.names)} joints"
        )
    if not (np.isfinite(positions).all() and np.isfinite(velocities).all()):
        return "it has a value that is not finite"
    if np.abs(velocities[-1]).max() > 0.0:
        return f"it does not end at rest: {_worst(np.abs(velocities[-1]), limits)} still moves"
    outside = np.maximum(np.maximum(limits.lower - positions, positions - limits.upper), 0.0)
    allowed = _ROUNDING * (limits.upper - limits.lower)
    # A joint that starts outside and moves further out needs its braking distance.
    allowed = allowed + np.where(
        outside[0] > 0.0, outside[0] + velocities[0] ** 2 / limits.acceleration, 0.0
    )
    if (outside > allowed).any():
        return f"{_worst((outside - allowed).max(axis=0), limits)} would leave its position limits"
    over = np.abs(velocities) / np.maximum(limits.velocity, np.abs(velocities[0]))
    if over.max() > 1.0 + _ROUNDING:
        return f"{_worst(over.max(axis=0), limits)} would be faster than its velocity limit"
    h, distance = motion.period, np.diff(positions, axis=0)
    before, after = velocities[:-1], velocities[1:]
    first = (6.0 * distance / h - 4.0 * before - 2.0 * after) / h
    last = (-6.0 * distance / h + 2.0 * before + 4.0 * after) / h
    over = np.maximum(np.abs(first), np.abs(last)) / limits.acceleration
    if over.max() > 1.0 + 10.0 * _ROUNDING:
        return f"{_worst(over.max(axis=0), limits)} would accelerate more than its limit"
    if workspace is None:
        return ""
    survey = workspace.survey(positions, velocities)
    if survey.first_violation is not None:
        return survey.reason
    return survey.speed_violation


def _worst(values: np.ndarray, limits: JointLimits) -> str:
    return limits.names[int(values.argmax())]


def find_leap(
    last_command: tuple[np.ndarray, np.ndarray],
    path: CommandedPath,
    now: float,
    limits: JointLimits,
) -> str:
    """Return why a path does not start at the last command; empty when it does.

    Args:
        last_command: position and velocity (J,) that the controller was commanded at ``now`` [s].
    """
    (position, velocity), (first, speed) = last_command, path.at(0)
    if path.begins > now:
        target = path.at(path.first_known)[0]
        reached = fits(position, velocity, target, path.begins - now, limits)
    else:
        reached = (
            np.abs(first - position).max() <= _SAME_STATE
            and np.abs(speed - velocity).max() <= _SAME_STATE
        )
    return "" if reached else "it does not start at the last command"
