"""Interpolates joint targets: with a smooth curve for arm joints, in steps for binary grippers."""

from __future__ import annotations

import numpy as np


class ReferenceCurve:
    """A monotone cubic curve through K joint targets; stationary after the last one.

    Between two targets the curve stays in the range of these two, so that targets inside the
    limits give a curve inside the limits. The velocity at an inner target is the harmonic mean
    2 b a / (b + a) of the slopes before (b) and after (a) it [rad/s or m/s], and 0 where b and a
    differ in sign. Source: Fritsch and Butland, "A Method for Constructing Local Monotone
    Piecewise Cubic Interpolants", 1984.

    Args:
        times: (K,) rising [s].
        positions: (K, J) [rad or m].
        steps: (J,) bool; True for joints that are not interpolated: the value of a target holds
            from the time of the target before it.
    """

    def __init__(self, times: np.ndarray, positions: np.ndarray, steps: np.ndarray) -> None:
        self._times, self._positions, self._steps = times, positions, steps
        slopes = np.diff(positions, axis=0) / np.diff(times)[:, None]
        self._velocities = np.zeros_like(positions)
        if len(slopes):
            self._velocities[0] = slopes[0]
            before, after = slopes[:-1], slopes[1:]
            same = before * after > 0
            total = np.where(same, before + after, 1.0)
            self._velocities[1:-1] = np.where(same, 2.0 * before * after / total, 0.0)

    def sample(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and velocities (N, J) at ``times`` (N,) [s].

        Before the first target the position is that of the first target and the velocity 0.

        Cubic Hermite interpolation: s in 0 to 1 is the time within the segment, p0 and p1 (N, J)
        are the positions at its ends, m0 and m1 (N, J) the velocities there times its duration.
        """
        last = len(self._times) - 1
        row = np.clip(np.searchsorted(self._times, times, side="left"), min(1, last), last)
        before = np.maximum(row - 1, 0)
        duration = np.where(row > before, self._times[row] - self._times[before], 1.0)[:, None]
        s = np.clip((times - self._times[before])[:, None] / duration, 0.0, 1.0)
        p0, p1 = self._positions[before], self._positions[row]
        m0, m1 = self._velocities[before] * duration, self._velocities[row] * duration
        positions = (
            p0 + s * m0 + s**2 * (3 * (p1 - p0) - 2 * m0 - m1) + s**3 * (m0 + m1 - 2 * (p1 - p0))
        )
        velocities = (
            m0 + 2 * s * (3 * (p1 - p0) - 2 * m0 - m1) + 3 * s**2 * (m0 + m1 - 2 * (p1 - p0))
        ) / duration
        outside = (times < self._times[0]) | (times >= self._times[-1])
        velocities[outside] = 0.0
        positions[:, self._steps] = p1[:, self._steps]
        velocities[:, self._steps] = 0.0
        return positions, velocities
