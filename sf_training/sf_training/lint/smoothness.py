"""How jerkily an arm moved, as one number that can be compared between episodes of one robot."""

from __future__ import annotations

import numpy as np

_STEP_S = (
    0.04  # fast enough for a shaking arm, slow enough that the noise of encoders does not drown it
)
_GAP_S = 0.2  # across a longer one nothing is interpolated


def relative_jerk(moments: np.ndarray, positions: np.ndarray, velocity: np.ndarray) -> float:
    """Computes the root mean square of the third derivative of all joints, each over its velocity
    limit [1/s^2].

    Args:
        moments: (N,) rising times [ns].
        positions: (N, J) [rad, m]; rows that are not finite are left out.
        velocity: (J,) limits [rad/s, m/s].

    Returns:
        NaN where no stretch is long enough for a third difference.
    """
    known = np.isfinite(positions).all(axis=1)
    seconds, values = (moments[known] - moments[:1]) * 1e-9, positions[known] / velocity
    squares = []
    for part in np.split(np.arange(len(seconds)), np.flatnonzero(np.diff(seconds) > _GAP_S) + 1):
        if len(part) < 2:
            continue
        times = np.arange(seconds[part[0]], seconds[part[-1]], _STEP_S)
        if len(times) > 3:
            path = np.stack(
                [np.interp(times, seconds[part], column) for column in values[part].T], axis=1
            )
            squares.append((np.diff(path, n=3, axis=0) / _STEP_S**3) ** 2)
    return float(np.sqrt(np.concatenate(squares).mean())) if squares else float("nan")
