"""Plans stops that are as short as the acceleration limits allow, inside the workspace box."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.shaping import brake, follow

_LONGER = (1.5, 2.5, 4.0)  # times the shortest stop, tried in turn when that one leaves the box
_FOLLOW_GAIN = 15.0  # 1/s
_RETREAT_S = 0.5  # time to move back from an obstacle
_RETREAT_GAIN = 8.0  # 1/s
_SLOWER = (1.0, 0.5, 0.25, 0.12)  # shares of the joints' speed, tried until the tool is slow enough

Samples = tuple[np.ndarray, np.ndarray]  # positions and velocities (N, J), the last one stationary


def stop_candidates(path: CommandedPath, join: int, limits: JointLimits) -> Iterator[Samples]:
    """Yield stops that start at grid point ``join`` of ``path``, the preferred one first.

    1. All joints stop at the same time, so that the tool keeps its direction.
    2. Every joint brakes as hard as its limit allows, which needs less room.
    3. The arm slows down along the planned path, which is inside the box, in 1.5, 2.5 and 4 times
       the shortest time.
    """
    position, velocity = path.at(join)
    shortest = brake(position, velocity, limits, path.period)
    yield _together(position, velocity, len(shortest[0]), path.period)
    yield shortest
    for factor in _LONGER:
        yield _slow_down(path, join, factor * len(shortest[0]) * path.period, limits)


def _together(position: np.ndarray, velocity: np.ndarray, steps: int, period: float) -> Samples:
    """Stop all joints at the same time, after ``steps`` periods."""
    done = np.arange(1, steps + 1)[:, None] / steps
    return position + velocity * period * steps * (done - 0.5 * done**2), velocity * (1.0 - done)


def _slow_down(path: CommandedPath, join: int, duration: float, limits: JointLimits) -> Samples:
    """Follow the planned path with a time scale that falls linearly from 1 to 0.

    With T = ``duration`` [s] and the elapsed time t [s] the rate is 1 - t / T, and the time on the
    path advances by t - t^2 / (2 T) [s].
    """
    count = math.ceil(duration / path.period)
    elapsed = np.minimum(path.period * np.arange(count + 1), duration)
    rate = 1.0 - elapsed / duration
    states = [
        path.state(path.time(join) + passed) for passed in elapsed - 0.5 * elapsed**2 / duration
    ]
    positions, velocities = (np.array(values) for values in zip(*states, strict=True))
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


def retreat_candidates(
    path: CommandedPath, join: int, back_to: np.ndarray, limits: JointLimits
) -> Iterator[Samples]:
    """Yield stops that move back towards ``back_to`` (J,), then those of :func:`stop_candidates`.

    A joint moves back from where it would stop by at most its tracking error. A joint without one
    (the gripper) only stops.
    """
    position, velocity = path.at(join)
    halt = brake(position, velocity, limits, path.period)[0][-1]
    allowed = limits.finite_tracking_error
    target = np.clip(halt + np.clip(back_to - halt, -allowed, allowed), limits.lower, limits.upper)
    reference = np.tile(target, (math.ceil(_RETREAT_S / path.period) + 1, 1))
    gain = np.full(len(target), _RETREAT_GAIN)
    for share in _SLOWER:
        slowed = dataclasses.replace(limits, velocity=limits.velocity * share)
        back = follow(
            reference, np.zeros_like(reference), position, velocity, slowed, path.period, gain
        )
        yield _then_brake(back.positions, back.velocities, limits, path.period)
    yield from stop_candidates(path, join, limits)


def _then_brake(
    positions: np.ndarray, velocities: np.ndarray, limits: JointLimits, period: float
) -> Samples:
    """Append the shortest stop to a motion."""
    stop, speeds = brake(positions[-1], velocities[-1], limits, period)
    return np.vstack([positions, stop]), np.vstack([velocities, speeds])
