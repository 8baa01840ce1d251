"""Statistics of columns and of pictures, as LeRobot keeps them for each episode and for the whole dataset."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_FRAMES_LOOKED_AT = 100  # of one episode
_PIXEL_STEP = 4


def of_columns(values: np.ndarray) -> dict[str, list]:
    """min, max, mean, std, quantiles and count of (N,) or (N, C) values; each a list of C, count a list of one."""
    columns = np.asarray(values, np.float64).reshape(len(values), -1)
    found = {"min": columns.min(axis=0), "max": columns.max(axis=0), "mean": columns.mean(axis=0), "std": columns.std(axis=0)}
    found |= dict(zip(QUANTILES, np.quantile(columns, list(QUANTILES.values()), axis=0), strict=True))
    return {name: value.tolist() for name, value in found.items()} | {"count": [len(columns)]}


class PixelSummary:
    """Counts how often each value occurs in each colour, so that quantiles of many episodes are exact."""

    def __init__(self) -> None:
        self.counts = np.zeros((3, 256), np.int64)
        self.frames = 0

    def add(self, rgb: np.ndarray) -> None:
        """One picture (H, W, 3) uint8; every fourth pixel of every fourth row counts."""
        for channel in range(3):
            self.counts[channel] += np.bincount(rgb[::_PIXEL_STEP, ::_PIXEL_STEP, channel].ravel(), minlength=256)
        self.frames += 1

    def statistics(self) -> dict[str, list]:
        """In [0, 1], each of shape (3, 1, 1) as nested lists; count is the number of pictures."""
        levels = np.arange(256) / 255.0
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
        return {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()} | {"count": [self.frames]}


def together(parts: Iterable[PixelSummary]) -> PixelSummary:
    """The sum of several summaries."""
    whole = PixelSummary()
    for part in parts:
        whole.counts += part.counts
        whole.frames += part.frames
    return whole


def looked_at(frames: int) -> set[int]:
    """Which frames of an episode count: all of a short one, 100 evenly spread ones of a long one."""
    return set(np.unique(np.linspace(0, frames - 1, min(frames, _FRAMES_LOOKED_AT)).round().astype(int)).tolist())
