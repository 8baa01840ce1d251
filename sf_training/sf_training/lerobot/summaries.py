"""Statistics of columns and of pictures, as LeRobot keeps them for each episode and for the whole
dataset.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_FRAMES_LOOKED_AT = 100  # of one episode
_PIXEL_STEP = 4


def of_columns(values: np.ndarray) -> dict[str, list]:
    """min, max, mean, std, quantiles and count of (N,) or (N, C) values; each a list of C, count a
    list of one.
    """
    columns = np.asarray(values, np.float64).reshape(len(values), -1)
    found = {
        "min": columns.min(axis=0),
        "max": columns.max(axis=0),
        "mean": columns.mean(axis=0),
        "std": columns.std(axis=0),
    }
    found |= dict(
        zip(QUANTILES, np.quantile(columns, list(QUANTILES.values()), axis=0), strict=True)
    )
    return {name: value.tolist() for name, value in found.items()} | {"count": [len(columns)]}


BYTES = np.arange(256) / 255.0  # what LeRobot makes of a colour's value


class PixelSummary:
    """Counts how often each level occurs in each channel, so that quantiles of many episodes are
    exact.

    Args:
        levels: what every level stands for.
        channels: of the pictures.
    """

    def __init__(self, levels: np.ndarray = BYTES, channels: int = 3) -> None:
        self.levels = levels
        self.counts = np.zeros((channels, len(levels)), np.int64)
        self.frames = 0

    def add(self, pixels: np.ndarray) -> None:
        """One picture (H, W, C) of levels; every fourth pixel of every fourth row counts."""
        seen = pixels[::_PIXEL_STEP, ::_PIXEL_STEP]
        for channel in range(len(self.counts)):
            self.counts[channel] += np.bincount(
                seen[..., channel].ravel(), minlength=len(self.levels)
            )
        self.frames += 1

    def statistics(self) -> dict[str, list]:
        """Each of shape (C, 1, 1) as nested lists; count is the number of pictures."""
        levels = self.levels
        share = self.counts / self.counts.sum(axis=1, keepdims=True)
        mean = share @ levels
        found = {
            "min": np.array([levels[np.flatnonzero(row)[0]] for row in self.counts]),
            "max": np.array([levels[np.flatnonzero(row)[-1]] for row in self.counts]),
            "mean": mean,
            "std": np.sqrt(np.maximum(share @ levels**2 - mean**2, 0.0)),
        }
        below = share.cumsum(axis=1)
        for name, quantile in QUANTILES.items():
            found[name] = levels[np.argmax(below >= quantile - 1e-12, axis=1)]
        return {name: value.reshape(-1, 1, 1).tolist() for name, value in found.items()} | {
            "count": [self.frames]
        }


def together(parts: Sequence[PixelSummary]) -> PixelSummary:
    """The sum of several summaries of one camera."""
    whole = PixelSummary(parts[0].levels, len(parts[0].counts))
    for part in parts:
        whole.counts += part.counts
        whole.frames += part.frames
    return whole


def looked_at(frames: int) -> set[int]:
    """Which frames of an episode count: all of a short one, 100 evenly spread ones of a long
    one.
    """
    return set(
        np.unique(
            np.linspace(0, frames - 1, min(frames, _FRAMES_LOOKED_AT)).round().astype(int)
        ).tolist()
    )
