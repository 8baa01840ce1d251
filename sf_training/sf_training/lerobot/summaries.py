"""Compute statistics of columns and images, which LeRobot stores per episode and per dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_FRAMES_SAMPLED = 100  # of one episode
_PIXEL_STEP = 4  # every fourth pixel of every fourth row


def of_columns(values: np.ndarray) -> dict[str, list]:
    """Return min, max, mean, std and quantiles of (N,) or (N, C) values as lists of C, and count as
    a list of one.
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


BYTES = np.arange(256) / 255.0  # LeRobot scales colours to [0, 1]


class PixelSummary:
    """Histogram of the levels of each channel, so that quantiles over many episodes are exact.

    Args:
        levels: value of every level.
        channels: number of channels of the images.
    """

    def __init__(self, levels: np.ndarray = BYTES, channels: int = 3) -> None:
        self.levels = levels
        self.counts = np.zeros((channels, len(levels)), np.int64)
        self.frames = 0

    def add(self, pixels: np.ndarray) -> None:
        """Add one image (H, W, C) of levels; every fourth pixel of every fourth row counts."""
        sampled = pixels[::_PIXEL_STEP, ::_PIXEL_STEP]
        for channel in range(len(self.counts)):
            self.counts[channel] += np.bincount(
                sampled[..., channel].ravel(), minlength=len(self.levels)
            )
        self.frames += 1

    def statistics(self) -> dict[str, list]:
        """Return the statistics, each of shape (C, 1, 1) as nested lists; count is the number of
        images.
        """
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


def merged(summaries: Sequence[PixelSummary]) -> PixelSummary:
    """Return the sum of several summaries of one camera."""
    total = PixelSummary(summaries[0].levels, len(summaries[0].counts))
    for summary in summaries:
        total.counts += summary.counts
        total.frames += summary.frames
    return total


def sampled_frames(frames: int) -> set[int]:
    """Return the indices of at most 100 evenly spaced frames of an episode."""
    return set(
        np.unique(
            np.linspace(0, frames - 1, min(frames, _FRAMES_SAMPLED)).round().astype(int)
        ).tolist()
    )
