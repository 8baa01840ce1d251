"""The last look at a motion before it is sent, which knows nothing of how it was made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace

_ROUNDING = 1e-3  # share of a limit


@dataclass(frozen=True)
class Motion:
    """Samples (N, J), one period apart; the first is the commanded state that the motion leaves,
    the last at rest.
    """

    period: float
    positions: np.ndarray
    velocities: np.ndarray


def find_violation(motion: Motion, limits: JointLimits, workspace: Workspace | None) -> str:
    """What is wrong with a motion, in one sentence; empty when nothing is.

    Between two samples a controller draws a cubic through positions and velocities: its
    acceleration, which is largest at an end, counts as well. A motion that starts outside a limit
    may only come back.
    ``workspace`` None: the tool is not looked at, as for a stop.
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
    # Braking from outside still goes a little further.
    allowed = allowed + np.where(
        outside[0] > 0.0, outside[0] + velocities[0] ** 2 / limits.acceleration, 0.0
    )
    if (outside > allowed).any():
        return f"{_worst((outside - allowed).max(axis=0), limits)} would leave its position limits"
    over = np.abs(velocities) / np.maximum(limits.velocity, np.abs(velocities[0]))
    if over.max() > 1.0 + _ROUNDING:
        return f"{_worst(over.max(axis=0), limits)} would be faster than its velocity limit"
    h, way = motion.period, np.diff(positions, axis=0)
    before, after = velocities[:-1], velocities[1:]
    first = (6.0 * way / h - 4.0 * before - 2.0 * after) / h
    last = (-6.0 * way / h + 2.0 * before + 4.0 * after) / h
    over = np.maximum(np.abs(first), np.abs(last)) / limits.acceleration
    if over.max() > 1.0 + 10.0 * _ROUNDING:
        return f"{_worst(over.max(axis=0), limits)} would accelerate more than its limit"
    if workspace is None:
        return ""
    survey = workspace.survey(positions, velocities)
    if survey.leaves is not None:
        return survey.why
    return survey.fast


def _worst(values: np.ndarray, limits: JointLimits) -> str:
    return limits.names[int(values.argmax())]
