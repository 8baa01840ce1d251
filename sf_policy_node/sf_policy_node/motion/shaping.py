"""Motion inside the limits: a reference that may ask for anything becomes samples that a joint can follow.

Between two samples the acceleration is constant, so the cubic that a trajectory controller draws through
positions and velocities is exactly this motion, and what holds for the samples holds in between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.limits import JointLimits

# Shares of the limits that are used: the rest covers the rounding of time stamps.
ACCELERATION_USED = 0.98
VELOCITY_USED = 0.995
# Share of that which the approach to a target plans with; the rest is left to follow the target while it moves.
_APPROACH_SHARE = 0.7
# The largest gain that brings an error to zero without overshoot is 0.34 per period.
_GAIN_PER_PERIOD = 0.3


@dataclass(frozen=True)
class Shaped:
    """Samples (N, J), one period apart, the first one period after the start, and what had to be cut, per joint (J,)."""

    positions: np.ndarray
    velocities: np.ndarray
    position_clips: np.ndarray
    velocity_clips: np.ndarray
    acceleration_clips: np.ndarray


def follow(
    reference_positions: np.ndarray,
    reference_velocities: np.ndarray,
    position: np.ndarray,
    velocity: np.ndarray,
    limits: JointLimits,
    period: float,
    gain: np.ndarray,
) -> Shaped:
    """Follow a reference from a start state without ever breaking a limit.

    Args:
        reference_positions, reference_velocities: (N + 1, J), one period apart, the first at the start.
        position, velocity: (J,) at the start. Outside the position limits only motion back to them is allowed.
        period: between samples [s].
        gain: (J,) how fast an error is corrected [1/s]; lowered where the period asks for it.
    """
    accel = limits.acceleration * ACCELERATION_USED
    gain = np.minimum(gain, _GAIN_PER_PERIOD / period)
    # Room must always be left to brake; a start beyond the limits moves them to where it can stop.
    upper = np.maximum(limits.upper, position + stopping_distance(np.maximum(velocity, 0.0), accel, period))
    lower = np.minimum(limits.lower, position - stopping_distance(np.maximum(-velocity, 0.0), accel, period))
    joints = [
        _follow_joint(*arguments, period)
        for arguments in zip(
            reference_positions.T.tolist(),
            reference_velocities.T.tolist(),
            *(each.tolist() for each in (position, velocity, lower, upper, limits.velocity * VELOCITY_USED, accel, gain)),
            strict=True,
        )
    ]
    positions, velocities, clips = (np.array(part) for part in zip(*joints, strict=True))
    return Shaped(positions.T, velocities.T, *clips.T)


def _follow_joint(
    places: list[float],
    speeds: list[float],
    position: float,
    velocity: float,
    lower: float,
    upper: float,
    top_speed: float,
    accel: float,
    gain: float,
    period: float,
) -> tuple[list[float], list[float], list[int]]:
    """One joint of :func:`follow`, in plain floats: for a handful of joints that is several times faster than arrays."""
    half, square, step = 0.5 * period, period * period, accel * period
    approach = _APPROACH_SHARE * accel
    near = approach / gain**2
    positions, velocities = [], []
    position_clips = velocity_clips = acceleration_clips = 0
    for place, speed in zip(places[:-1], speeds[1:], strict=True):
        error = place - position
        # Linear near the reference; farther away no faster than it can brake.
        size = abs(error)
        correction = gain * error if size <= near else math.copysign(math.sqrt(2.0 * approach * (size - 0.5 * near)), error)
        wanted = speed + correction
        fast = min(max(wanted, -top_speed), top_speed)
        # Never faster than `brake` can stop before a limit; 0 at worst, which a joint that came here can always reach.
        drift = position + half * velocity
        up = accel * (math.sqrt(square + 2.0 * max(upper - drift, 0.0) / accel) - period)
        down = accel * (math.sqrt(square + 2.0 * max(drift - lower, 0.0) / accel) - period)
        safe = min(max(fast, -down), up)
        after = min(max(safe, velocity - step), velocity + step)
        velocity_clips += fast != wanted
        position_clips += safe != fast
        acceleration_clips += after != safe
        position = min(max(drift + half * after, lower), upper)
        velocity = after
        positions.append(position)
        velocities.append(velocity)
    return positions, velocities, [position_clips, velocity_clips, acceleration_clips]


def brake(position: np.ndarray, velocity: np.ndarray, limits: JointLimits, period: float) -> tuple[np.ndarray, np.ndarray]:
    """The shortest stop, every joint on its own: positions and velocities (N, J), the last at rest; N >= 1."""
    accel = limits.acceleration * ACCELERATION_USED
    steps = np.maximum(np.ceil(np.abs(velocity) / (accel * period) - 1e-9), 1.0)
    index = np.arange(1, int(steps.max()) + 1)[:, None]
    done = np.minimum(index / steps, 1.0)
    travelled = velocity * period * steps * (done - 0.5 * done**2)
    return position + travelled, velocity * (1.0 - done)


def stopping_distance(speed: np.ndarray, acceleration: np.ndarray, period: float) -> np.ndarray:
    """An upper bound of how far :func:`brake` goes on from ``speed`` >= 0 (J,)."""
    return speed**2 / (2.0 * acceleration) + 0.5 * speed * period
