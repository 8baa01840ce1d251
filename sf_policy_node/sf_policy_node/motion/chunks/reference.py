"""A curve through joint targets: between rows a smooth one, for the gripper steps."""

from __future__ import annotations

import numpy as np


class ReferenceCurve:
    """Positions and velocities at any time from K rows of joint targets; at rest after the last
    row.

    Between two rows it never leaves the range of these two, so that rows inside the limits stay
    inside (monotone cubic after Fritsch and Butland, "A Method for Constructing Local Monotone
    Piecewise Cubic Interpolants", 1984). Columns in ``steps`` are not interpolated: a row's value
    holds from the row before it on.

    Args:
        times: (K,) rising [s].
        positions: (K, J).
        steps: (J,) bool.
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
        """Return positions and velocities (N, J) at ``times`` (N,); before the first row, those of
        the first row.
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
