"""Stops: as short as the acceleration limits allow, and inside the workspace box."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.shaping import brake, follow

_LONGER = (1.5, 2.5, 4.0)  # times the shortest stop, tried in turn when that one leaves the box
_FOLLOW_GAIN = 15.0  # 1/s
_GIVE_WAY_S = 0.5  # time to move back from what is in the way
_GIVE_WAY_GAIN = 8.0  # 1/s
_SLOWER = (1.0, 0.5, 0.25, 0.12)  # shares of the joints' speed, until the tool keeps its own limit

Samples = tuple[np.ndarray, np.ndarray]  # positions and velocities (N, J), the last at rest


def stop(path: CommandedPath, join: int, limits: JointLimits, workspace: Workspace) -> Samples:
    """Stop from grid point ``join`` on, as soon as the slowest joint can.

    All joints come to rest together, so that the tool goes on in its direction. Where there is no room for that,
    every joint brakes as hard as it may; where this takes the tool out of the box or makes it faster, the arm
    slows down along the motion that was planned, which stays inside.
    """
    position, velocity = path.at(join)
    shortest = brake(position, velocity, limits, path.period)
    ways = [_together(position, velocity, len(shortest[0]), path.period), shortest]
    for way in ways:
        if _keeps(workspace, position, velocity, way, limits):
            return way
    for factor in _LONGER:
        slower = _slow_down(path, join, factor * len(shortest[0]) * path.period, limits)
        if _keeps(workspace, position, velocity, slower, limits):
            return slower
    return shortest


def _together(position: np.ndarray, velocity: np.ndarray, steps: int, period: float) -> Samples:
    done = np.arange(1, steps + 1)[:, None] / steps
    return position + velocity * period * steps * (done - 0.5 * done**2), velocity * (1.0 - done)


def _keeps(workspace: Workspace, position: np.ndarray, velocity: np.ndarray, way: Samples, limits: JointLimits) -> bool:
    """A stop that stays inside position limits and box, and does not make the tool faster."""
    positions, velocities = np.vstack([position, way[0]]), np.vstack([velocity, way[1]])
    lower, upper = np.minimum(limits.lower, position), np.maximum(limits.upper, position)
    if (positions < lower).any() or (positions > upper).any():
        return False
    survey = workspace.survey(positions, velocities)
    return survey.leaves is None and not survey.too_fast


def _slow_down(path: CommandedPath, join: int, duration: float, limits: JointLimits) -> Samples:
    """Follow the planned motion while its time runs slower and slower and stands still after ``duration`` [s]."""
    count = math.ceil(duration / path.period)
    elapsed = np.minimum(path.period * np.arange(count + 1), duration)
    rate = 1.0 - elapsed / duration
    states = [path.state(path.time(join) + passed) for passed in elapsed - 0.5 * elapsed**2 / duration]
    positions, velocities = (np.array(part) for part in zip(*states, strict=True))
    velocities *= rate[:, None]
    shaped = follow(positions, velocities, *path.at(join), limits, path.period, np.full(positions.shape[1], _FOLLOW_GAIN))
    return _then_brake(shaped.positions, shaped.velocities, limits, path.period)


def give_way(path: CommandedPath, join: int, place: np.ndarray, limits: JointLimits, workspace: Workspace) -> Samples:
    """Stop and move back to ``place`` (J,), by one tracking error at most; only stop where that would leave the workspace box.

    A joint without a tracking error (the gripper) only stops.
    """
    position, velocity = path.at(join)
    halt = brake(position, velocity, limits, path.period)[0][-1]
    allowed = np.where(np.isfinite(limits.tracking_error), limits.tracking_error, 0.0)
    target = np.clip(halt + np.clip(place - halt, -allowed, allowed), limits.lower, limits.upper)
    reference = np.tile(target, (math.ceil(_GIVE_WAY_S / path.period) + 1, 1))
    gain = np.full(len(target), _GIVE_WAY_GAIN)
    for share in _SLOWER:
        slowed = dataclasses.replace(limits, velocity=limits.velocity * share)
        back = follow(reference, np.zeros_like(reference), position, velocity, slowed, path.period, gain)
        samples = _then_brake(back.positions, back.velocities, limits, path.period)
        if _keeps(workspace, position, velocity, samples, limits):
            return samples
    return stop(path, join, limits, workspace)


def _then_brake(positions: np.ndarray, velocities: np.ndarray, limits: JointLimits, period: float) -> Samples:
    rest, zero = brake(positions[-1], velocities[-1], limits, period)
    return np.vstack([positions, rest]), np.vstack([velocities, zero])
