"""Heads that predict depth from frozen visual tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sf_training.spatial_forcing.depth_cells import DepthTask

PENALTIES = tuple(10.0**power for power in range(-6, 2))  # lambda of the ridge regression
_FRAMES_AT_ONCE = 256
_CHANNELS = 32  # of the DPT head
_BATCH = 32  # images
_RATE = 2e-3


class Head(Protocol):
    """A fitted head."""

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """Return residuals (F, V, R, C) from tokens (F, V, rows, columns, D)."""


class LinearHead:
    """One ridge regression for each camera, shared by all positions.

    It maps a token to the cells in its patch.

    Cells without depth count as equal to the mean image; tokens without any cell with depth are
    left out.
    """

    def __init__(
        self, task: DepthTask, tokens: np.ndarray, residuals: np.ndarray, selection: np.ndarray
    ) -> None:
        """Fit the regressions.

        Args:
            tokens: (F, V, rows, columns, D).
            residuals: (F, V, R, C), see :meth:`DepthTask.residuals`.
            selection: (F,) True for the frames that select the penalty. The other frames are fitted
                first, then all frames with the selected penalty.
        """
        self._task = task
        self._cameras = []
        for view in range(tokens.shape[1]):
            flat = tokens[:, view].reshape(len(tokens), -1, tokens.shape[-1])
            self._cameras.append(_ridge(flat, task.by_token(residuals[:, view]), selection))

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """Return residuals; see :class:`Head`."""
        views = []
        for view, apply in enumerate(self._cameras):
            values = apply(tokens[:, view].reshape(len(tokens), -1, tokens.shape[-1]))
            views.append(self._task.by_image(values))
        return np.stack(views, 1)


class StateHead:
    """Predicts depth from the robot's state: for each camera a ridge regression to every cell."""

    def __init__(self, states: np.ndarray, residuals: np.ndarray, selection: np.ndarray) -> None:
        """Fit; states (F, N), the other arguments as for :class:`LinearHead`."""
        self._shape = residuals.shape[1:]
        self._apply = _ridge(states[:, None], residuals.reshape(len(residuals), 1, -1), selection)

    def predict(self, states: np.ndarray) -> np.ndarray:
        """Return residuals (F, V, R, C)."""
        return self._apply(states[:, None]).reshape(len(states), *self._shape)


class DptHead:
    """A small DPT (arXiv 2103.13413) for all cameras, trained on the squared error with AdamW."""

    def __init__(
        self,
        task: DepthTask,
        tokens: np.ndarray,
        residuals: np.ndarray,
        *,
        steps: int,
        seed: int,
        progress: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train.

        Args:
            tokens: (F, V, rows, columns, D).
            residuals: (F, V, R, C).
            steps: training steps with 32 images each.
            seed: of the weights and of the order.
            progress: called with the number of steps done.
        """
        width = tokens.shape[-1]
        flat = tokens.reshape(-1, width)
        self._centre, self._scale = (
            flat.mean(0, dtype=np.float64),
            flat.std(0, dtype=np.float64) + 1e-6,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = DptNetwork(width, tokens.shape[1], residuals.shape[2:])
        order = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(self._network.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, _RATE, total_steps=steps, pct_start=0.1
        )
        count = tokens.shape[0] * tokens.shape[1]
        for step in range(steps):
            frames, views = np.divmod(order.integers(0, count, _BATCH), tokens.shape[1])
            truth = torch.from_numpy(residuals[frames, views])
            known = truth.isfinite()
            found = self._network(self._prepare(tokens[frames, views]), torch.from_numpy(views))
            loss = torch.where(
                known, found - truth.nan_to_num(), 0.0
            ).square().sum() / known.sum().clamp(min=1)
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            progress(step + 1)
        self._network.eval()

    @torch.inference_mode()
    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """Return residuals; see :class:`Head`."""
        views = torch.arange(tokens.shape[1])
        parts = []
        for start in range(0, len(tokens), _BATCH):
            part = tokens[start : start + _BATCH]
            flat = self._prepare(part.reshape(-1, *part.shape[2:]))
            parts.append(
                self._network(flat, views.repeat(len(part))).unflatten(0, part.shape[:2]).numpy()
            )
        return np.concatenate(parts)

    def _prepare(self, tokens: np.ndarray) -> Tensor:
        """Standardise tokens (N, rows, columns, D) and move the channels: (N, D, rows, columns)."""
        return torch.from_numpy(((tokens - self._centre) / self._scale).astype(np.float32)).permute(
            0, 3, 1, 2
        )


class DptNetwork(nn.Module):
    """Fuses tokens of one layer at 1/2, 1, 2 and 4 times their resolution, from coarse to fine.

    DPT takes its four scales from four layers; a probe reads one layer.
    """

    def __init__(self, width: int, cameras: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self._shape = shape
        self.camera = nn.Parameter(torch.zeros(cameras, _CHANNELS))
        self.reassemble = nn.ModuleList(nn.Conv2d(width, _CHANNELS, 1) for _ in range(4))
        self.refine = nn.ModuleList(_Residual() for _ in range(4))
        self.out = nn.Sequential(
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.ReLU(), nn.Conv2d(_CHANNELS, 1, 1)
        )

    def forward(self, tokens: Tensor, camera: Tensor) -> Tensor:
        """Map tokens (N, width, rows, columns) and the camera of each (N,) to (N, *shape)."""
        sizes = [
            tuple(max(1, round(side * scale)) for side in tokens.shape[2:])
            for scale in (0.5, 1, 2, 4)
        ]
        path = self.camera[camera][..., None, None]
        for reassemble, refine, size in zip(self.reassemble, self.refine, sizes, strict=True):
            scaled = functional.interpolate(
                reassemble(tokens), size, mode="bilinear", align_corners=False
            )
            grown = functional.interpolate(path, size, mode="bilinear", align_corners=False)
            path = refine(scaled + grown)
        return self.out(
            functional.interpolate(path, self._shape, mode="bilinear", align_corners=False)
        )[:, 0]


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.second = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(functional.relu(x))))


def _ridge(
    features: np.ndarray, values: np.ndarray, selection: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a ridge regression and return its prediction function.

    Legend: x (D + 1,) is a standardised feature with a constant 1 appended, y (K,) a target, W (D +
    1, K). With G = sum x x^T, C = sum x y^T and n samples, W = (G + n lambda I')^-1 C, where I' is
    the identity without the constant's entry. lambda minimises the error on the frames of
    ``selection``.

    Args:
        features: (F, N, D).
        values: (F, N, K), NaN where unknown.
        selection: (F,) bool.
    """
    flat = features.reshape(-1, features.shape[-1])
    centre, scale = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64) + 1e-6

    def prepared(part: np.ndarray) -> Tensor:
        standard = torch.from_numpy(((part - centre) / scale).astype(np.float32)).flatten(0, 1)
        return torch.cat([standard, standard.new_ones(len(standard), 1)], 1)

    sums = {
        chosen: _moments(features, values, selection == chosen, prepared)
        for chosen in (False, True)
    }
    (gram, cross, _), (other_gram, other_cross, other_square) = sums[False], sums[True]

    def solved(gram: Tensor, cross: Tensor, penalty: float) -> Tensor:
        ridge = torch.full((len(gram),), penalty, dtype=torch.float64) * gram[-1, -1]
        ridge[-1] = 0  # no penalty on the constant
        return torch.linalg.solve(gram + torch.diag(ridge + 1e-9), cross)

    def error(coefficients: Tensor) -> float:
        return float(
            other_square
            - 2 * (coefficients * other_cross).sum()
            + (coefficients * (other_gram @ coefficients)).sum()
        )

    penalty = min(PENALTIES, key=lambda each: error(solved(gram, cross, each)))
    coefficients = solved(gram + other_gram, cross + other_cross, penalty).float()

    def apply(part: np.ndarray) -> np.ndarray:
        found = [
            prepared(part[start : start + _FRAMES_AT_ONCE]) @ coefficients
            for start in range(0, len(part), _FRAMES_AT_ONCE)
        ]
        return torch.cat(found).numpy().reshape(*part.shape[:2], -1)

    return apply


def _moments(
    features: np.ndarray, values: np.ndarray, frames: np.ndarray, prepared: Callable
) -> tuple[Tensor, Tensor, Tensor]:
    """Return G, C and the sum of y^2 over some frames, float64; see :func:`_ridge`."""
    size, outputs = features.shape[-1] + 1, values.shape[-1]
    gram, cross = (
        torch.zeros(size, size, dtype=torch.float64),
        torch.zeros(size, outputs, dtype=torch.float64),
    )
    square = torch.zeros((), dtype=torch.float64)
    chosen = np.flatnonzero(frames)
    for start in range(0, len(chosen), _FRAMES_AT_ONCE):
        part = chosen[start : start + _FRAMES_AT_ONCE]
        truth = torch.from_numpy(values[part]).flatten(0, 1)
        known = truth.isfinite().any(1)
        x, y = prepared(features[part])[known], truth[known].nan_to_num()
        gram += (x.T @ x).double()
        cross += (x.T @ y).double()
        square += y.double().square().sum()
    return gram, cross, square
