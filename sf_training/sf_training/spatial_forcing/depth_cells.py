"""Depth on the grid of a model's visual tokens: the target of a frozen-feature probe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def depth_cells(
    depth: np.ndarray, shape: tuple[int, int], nearest: float, farthest: float
) -> np.ndarray:
    """Return the mean depth in each cell of an image.

    Args:
        depth: (..., H, W) along the optical axis [m]; NaN or 0 where unknown.
        shape: rows and columns of cells, at most as many as pixels.
        nearest, farthest: range of depth that counts [m].

    Returns:
        (..., rows, columns) float32; NaN where fewer than half of the pixels count.
    """
    depth = np.asarray(depth, np.float32)
    counts = np.isfinite(depth) & (depth >= nearest) & (depth <= farthest)
    starts = [
        np.ceil(np.arange(cells) * side / cells).astype(int)
        for cells, side in zip(shape, depth.shape[-2:], strict=True)
    ]

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, starts[0], axis=-2), starts[1], axis=-1)

    known = total(counts.astype(np.float32))
    pixels = total(np.ones(depth.shape[-2:], np.float32))
    found = total(np.where(counts, depth, 0.0)) / np.maximum(known, 1)
    return np.where(known >= pixels / 2, found, np.nan).astype(np.float32)


@dataclass(frozen=True)
class DepthTask:
    """Statistics of the training frames; a probe predicts the residual from their mean.

    Attributes:
        mean: (V, R, C) mean depth image of the training frames [m]; NaN where no frame has depth.
        spread: (V,) root mean square deviation of the training frames from it [m].
        grid: rows and columns of tokens; each token predicts the R / rows x C / columns cells in
            its patch.
    """

    mean: np.ndarray
    spread: np.ndarray
    grid: tuple[int, int]

    @staticmethod
    def of(cells: np.ndarray, grid: tuple[int, int]) -> DepthTask:
        """Compute the statistics of training frames (F, V, R, C) [m]."""
        known = np.isfinite(cells)
        count = known.sum(0)
        mean = np.where(known, cells, 0).sum(0, dtype=np.float64) / np.maximum(count, 1)
        mean = np.where(count > 0, mean, np.nan).astype(np.float32)
        distance = np.where(known, cells - mean, 0.0)
        spread = np.sqrt(
            np.square(distance, dtype=np.float64).sum((0, 2, 3))
            / np.maximum(known.sum((0, 2, 3)), 1)
        )
        return DepthTask(mean, np.maximum(spread, 1e-6).astype(np.float32), grid)

    def residuals(self, cells: np.ndarray) -> np.ndarray:
        """Return the residuals of depth (F, V, R, C) [m].

        Deviation from the mean over the spread; NaN where unknown.
        """
        return (cells - self.mean) / self.spread[:, None, None]

    def depth(self, residuals: np.ndarray) -> np.ndarray:
        """Return the depth [m] of residuals."""
        return residuals * self.spread[:, None, None] + self.mean

    def by_token(self, maps: np.ndarray) -> np.ndarray:
        """Rearrange (F, R, C) of one camera to (F, rows * columns, cells of a token)."""
        (rows, columns), (height, width) = self.grid, self._cell
        split = maps.reshape(-1, rows, height, columns, width)
        return split.transpose(0, 1, 3, 2, 4).reshape(-1, rows * columns, height * width)

    def by_image(self, values: np.ndarray) -> np.ndarray:
        """Undo :meth:`by_token`."""
        (rows, columns), (height, width) = self.grid, self._cell
        split = values.reshape(-1, rows, columns, height, width)
        return split.transpose(0, 1, 3, 2, 4).reshape(-1, rows * height, columns * width)

    @property
    def _cell(self) -> tuple[int, int]:
        return self.mean.shape[1] // self.grid[0], self.mean.shape[2] // self.grid[1]


@dataclass(frozen=True)
class DepthError:
    """Errors by episode and camera, from which means over either can be computed.

    Attributes:
        squared, relative: (E, V) sums over cells of the squared error [m^2] and of |error| / depth.
        cells: (E, V) number of cells.
    """

    squared: np.ndarray
    relative: np.ndarray
    cells: np.ndarray

    @staticmethod
    def of(predicted: np.ndarray, truth: np.ndarray, episodes: np.ndarray) -> DepthError:
        """Compute the errors of depth (F, V, R, C) [m]; cells without truth do not count.

        Args:
            episodes: (F,) episode of each frame.
        """
        known = np.isfinite(truth) & np.isfinite(predicted)
        error = np.where(known, predicted - truth, 0.0).astype(np.float64)
        relative = np.abs(error) / np.where(known, truth, 1.0)
        each = [values.sum((2, 3)) for values in (np.square(error), relative, known)]
        numbers, index = np.unique(episodes, return_inverse=True)
        sums = [np.zeros((len(numbers), truth.shape[1])) for _ in each]
        for total, values in zip(sums, each, strict=True):
            np.add.at(total, index, values)
        return DepthError(*sums)

    def rmse(self, episodes: np.ndarray | None = None) -> np.ndarray:
        """Return the root mean square error of each camera (..., V) [m], over all cells.

        Args:
            episodes: (..., n) indices of episodes, which may repeat; None takes each once.
        """
        return np.sqrt(self._mean(self.squared, episodes))

    def abs_rel(self) -> np.ndarray:
        """Return the mean of |error| / depth of each camera (V,)."""
        return self._mean(self.relative, None)

    def explained(self, floor: DepthError, episodes: np.ndarray | None = None) -> np.ndarray:
        """Return 1 - MSE / MSE of ``floor`` for each camera (..., V); MSE: mean squared error.

        1 is perfect, 0 equals ``floor``, below 0 is worse; ``episodes`` as for :meth:`rmse`.
        """
        return 1.0 - self._mean(self.squared, episodes) / self._mean(floor.squared, episodes)

    def _mean(self, sums: np.ndarray, episodes: np.ndarray | None) -> np.ndarray:
        chosen = slice(None) if episodes is None else episodes
        return sums[chosen].sum(-2) / np.maximum(self.cells[chosen].sum(-2), 1)
