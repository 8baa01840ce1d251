"""Measure how smoothly an arm moved, as one number to compare episodes of one robot."""

from __future__ import annotations

import numpy as np

# Resampling period: short enough to show a shaking arm, long enough to suppress encoder noise.
_STEP_S = 0.04
_GAP_S = 0.2  # s: longer gaps are not interpolated


def relative_jerk(moments: np.ndarray, positions: np.ndarray, velocity: np.ndarray) -> float:
    """Return the RMS jerk of all joints, each relative to its velocity limit [1/s^2].

    With q (N, J) resampled every h = 0.04 s and the limit v_j: the root mean square over time and
    joints of D^3 (q_j / v_j) / h^3, where D^3 is the third difference.

    Args:
        moments: (N,) increasing times [ns].
        positions: (N, J) [rad, m]; rows that are not finite are left out.
        velocity: (J,) velocity limits [rad/s, m/s].

    Returns:
        NaN if no section between gaps is long enough for a third difference.
    """
    known = np.isfinite(positions).all(axis=1)
    seconds, values = (moments[known] - moments[:1]) * 1e-9, positions[known] / velocity
    squares = []
    for rows in np.split(np.arange(len(seconds)), np.flatnonzero(np.diff(seconds) > _GAP_S) + 1):
        if len(rows) < 2:
            continue
        times = np.arange(seconds[rows[0]], seconds[rows[-1]], _STEP_S)
        if len(times) > 3:
            path = np.stack(
                [np.interp(times, seconds[rows], column) for column in values[rows].T], axis=1
            )
            with np.errstate(over="ignore", invalid="ignore"):  # damaged positions
                squares.append((np.diff(path, n=3, axis=0) / _STEP_S**3) ** 2)
    return float(np.sqrt(np.concatenate(squares).mean())) if squares else float("nan")
