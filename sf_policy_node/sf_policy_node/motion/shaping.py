"""Follows an arbitrary reference with a motion that keeps position, velocity and acceleration
limits.

Between two samples the acceleration is constant. So the cubic that a trajectory controller fits to
positions and velocities is exactly this motion, and the limits also hold between the samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits

# Shares of the limits that are used. The rest covers the rounding of time stamps.
ACCELERATION_USED = 0.98
VELOCITY_USED = 0.995
# Share of that acceleration with which an approach to a target is planned. The rest is available to
# follow the target while it moves.
_APPROACH_SHARE = 0.7
# The largest gain that brings an error to zero without overshoot is 0.34 per period.
_GAIN_PER_PERIOD = 0.3


@dataclass(frozen=True)
class Shaped:
    """A motion inside the limits: samples (N, J), one period apart, from one period after the
    start.

    Clips (J,) count the samples in which a limit changed the motion.
    """

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
    """Follow a reference from a start state without breaking a limit.

    Args:
        reference_positions, reference_velocities: (N + 1, J), one period apart, the first at the
            start.
        position, velocity: (J,) at the start. A joint outside its position limits may brake and
            move back.
        period: between samples [s].
        gain: (J,) how fast an error is corrected [1/s]; lowered to 0.3 per period at most.
    """
    accel = limits.acceleration * ACCELERATION_USED
    gain = np.minimum(gain, _GAIN_PER_PERIOD / period)
    # A start that cannot stop before a position limit moves this limit to where it can stop.
    upper = np.maximum(
        limits.upper, position + stopping_distance(np.maximum(velocity, 0.0), accel, period)
    )
    lower = np.minimum(
        limits.lower, position - stopping_distance(np.maximum(-velocity, 0.0), accel, period)
    )
    positions, velocities, clips = _follow(
        np.ascontiguousarray(reference_positions, dtype=float),
        np.ascontiguousarray(reference_velocities, dtype=float),
        np.asarray(position, dtype=float),
        np.asarray(velocity, dtype=float),
        lower,
        upper,
        limits.velocity * VELOCITY_USED,
        accel,
        gain,
        float(period),
    )
    return Shaped(positions, velocities, *clips)


@numba.njit(
    "Tuple((f8[:, ::1], f8[:, ::1], i8[:, ::1]))"
    "(f8[:, ::1], f8[:, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8)",
    cache=True,
)
def _follow(
    reference,
    reference_speeds,
    start,
    start_velocity,
    lower,
    upper,
    top_speed,
    acceleration,
    gains,
    period,
):  # pragma: no cover - compiled
    """Compute the loop of :func:`follow`.

    Returns positions and velocities (N, J), and the counts (3, J) of position, velocity and
    acceleration clips. Legend for one joint: h period [s], v velocity, a acceleration limit, e
    error to the reference, k gain [1/s], b = 0.7 a. The correction of the speed is k e for
    |e| <= b / k^2. For larger errors it is sqrt(2 b (|e| - b / (2 k^2))): from that speed the joint
    can brake with b. The speed towards a limit is at most
    a (sqrt(h^2 + 2 d / a) - h), from which :func:`brake` stops before the limit: d is the distance
    of the limit from the position, advanced by h v / 2.
    """
    count, joints = reference.shape[0] - 1, reference.shape[1]
    positions, velocities = np.empty((count, joints)), np.empty((count, joints))
    clips = np.zeros((3, joints), np.int64)
    half, square = 0.5 * period, period * period
    for j in range(joints):
        accel, gain, top = acceleration[j], gains[j], top_speed[j]
        step, approach = accel * period, _APPROACH_SHARE * accel
        near = approach / gain**2
        position, velocity = start[j], start_velocity[j]
        for k in range(count):
            error = reference[k, j] - position
            # Linear near the reference; further away no faster than the joint can brake.
            size = abs(error)
            correction = (
                gain * error
                if size <= near
                else math.copysign(math.sqrt(2.0 * approach * (size - 0.5 * near)), error)
            )
            wanted = reference_speeds[k + 1, j] + correction
            fast = min(max(wanted, -top), top)
            # Never faster than `brake` can stop before a limit. At the limit the speed is 0, which
            # a joint can reach because the same held one period earlier.
            drift = position + half * velocity
            up = accel * (math.sqrt(square + 2.0 * max(upper[j] - drift, 0.0) / accel) - period)
            down = accel * (math.sqrt(square + 2.0 * max(drift - lower[j], 0.0) / accel) - period)
            safe = min(max(fast, -down), up)
            after = min(max(safe, velocity - step), velocity + step)
            clips[0, j] += safe != fast
            clips[1, j] += fast != wanted
            clips[2, j] += after != safe
            position = min(max(drift + half * after, lower[j]), upper[j])
            velocity = after
            positions[k, j], velocities[k, j] = position, velocity
    return positions, velocities, clips


def brake(
    position: np.ndarray, velocity: np.ndarray, limits: JointLimits, period: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shortest stop, for every joint separately: positions and velocities (N, J).

    N is at least 1, and the last sample is stationary. Each joint decelerates evenly over a whole
    number of periods.
    """
    accel = limits.acceleration * ACCELERATION_USED
    steps = np.maximum(np.ceil(np.abs(velocity) / (accel * period) - 1e-9), 1.0)
    index = np.arange(1, int(steps.max()) + 1)[:, None]
    done = np.minimum(index / steps, 1.0)
    travelled = velocity * period * steps * (done - 0.5 * done**2)
    return position + travelled, velocity * (1.0 - done)


def stopping_distance(speed: np.ndarray, acceleration: np.ndarray, period: float) -> np.ndarray:
    """Return an upper bound (J,) of the distance in which :func:`brake` stops from ``speed`` >= 0.

    It is v^2 / (2 a) + v h / 2 with the speed v, the acceleration a and the period h: rounding up
    to whole periods adds at most half a period at speed v.
    """
    return speed**2 / (2.0 * acceleration) + 0.5 * speed * period
