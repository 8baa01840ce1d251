"""Stops: as short as the acceleration limits allow, and inside the workspace box."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

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


def ways_to_stop(
    path: CommandedPath, join: int, limits: JointLimits, workspace: Workspace
) -> Iterator[Samples]:
    """Yield stops from grid point ``join`` on, the best one first.

    All joints come to rest together, so that the tool goes on in its direction. Where there is no
    room for that, every joint brakes as hard as it may; where this takes the tool out of the box or
    makes it faster, the arm slows down along the motion that was planned, which stays inside.
    """
    position, velocity = path.at(join)
    shortest = brake(position, velocity, limits, path.period)
    yield _together(position, velocity, len(shortest[0]), path.period)
    yield shortest
    for factor in _LONGER:
        yield _slow_down(path, join, factor * len(shortest[0]) * path.period, limits)


def _together(position: np.ndarray, velocity: np.ndarray, steps: int, period: float) -> Samples:
    done = np.arange(1, steps + 1)[:, None] / steps
    return position + velocity * period * steps * (done - 0.5 * done**2), velocity * (1.0 - done)


def _slow_down(path: CommandedPath, join: int, duration: float, limits: JointLimits) -> Samples:
    """Follow the planned motion while its time runs slower and slower and stands still after
    ``duration`` [s].
    """
    count = math.ceil(duration / path.period)
    elapsed = np.minimum(path.period * np.arange(count + 1), duration)
    rate = 1.0 - elapsed / duration
    states = [
        path.state(path.time(join) + passed) for passed in elapsed - 0.5 * elapsed**2 / duration
    ]
    positions, velocities = (np.array(part) for part in zip(*states, strict=True))
    velocities *= rate[:, None]
    shaped = follow(
        positions,
        velocities,
        *path.at(join),
        limits,
        path.period,
        np.full(positions.shape[1], _FOLLOW_GAIN),
    )
    return _then_brake(shaped.positions, shaped.velocities, limits, path.period)


def ways_to_give_way(
    path: CommandedPath, join: int, place: np.ndarray, limits: JointLimits, workspace: Workspace
) -> Iterator[Samples]:
    """Yield stops that move back to ``place`` (J,), by one tracking error at most, then plain
    stops.

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
        back = follow(
            reference, np.zeros_like(reference), position, velocity, slowed, path.period, gain
        )
        yield _then_brake(back.positions, back.velocities, limits, path.period)
    yield from ways_to_stop(path, join, limits, workspace)


def _then_brake(
    positions: np.ndarray, velocities: np.ndarray, limits: JointLimits, period: float
) -> Samples:
    rest, zero = brake(positions[-1], velocities[-1], limits, period)
    return np.vstack([positions, rest]), np.vstack([velocities, zero])
