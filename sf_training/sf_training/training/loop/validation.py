"""Validation on held-out labels: action error, and how often language selects the action."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator

from sf_policy_node.vla.normalisation import Normalisation
from sf_training.training.loop.forward import TrainingModule
from sf_training.training.loop.inputs import InputBuilder

_LABELS_PER_FORWARD = {"nano": 128}
_DEFAULT_LABELS_PER_FORWARD = 16


class Predictor:
    """Predicts the chunks of labels with the weights that the module has now."""

    def __init__(
        self,
        module: TrainingModule,
        inputs: InputBuilder,
        normalisation: Normalisation,
        accelerator: Accelerator,
    ) -> None:
        self._module, self._inputs = module, inputs
        self._normalisation, self._accelerator = normalisation, accelerator

    def predict(self, labels: np.ndarray) -> np.ndarray:
        """Return chunks (L, H, A) in the contract's units.

        A flow starts from the same noise on every call.
        """
        size = _LABELS_PER_FORWARD.get(self._module.model.kind, _DEFAULT_LABELS_PER_FORWARD)
        return np.concatenate(
            [self._predict(labels[start : start + size]) for start in range(0, len(labels), size)]
        )

    @torch.no_grad()
    def _predict(self, labels: np.ndarray) -> np.ndarray:
        inputs, model, noise = self._inputs.for_prediction(labels), self._module.model, None
        if model.config.head == "flow":
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(
                len(labels), self._inputs.horizon, model.head.columns, generator=generator
            ).to(inputs.images.device)
        with self._accelerator.autocast():
            actions = self._module(inputs, noise=noise)
        return self._normalisation.action.restore(actions.float().cpu().numpy())


def validation_scores(
    predicted: np.ndarray, truth: np.ndarray, frames: np.ndarray
) -> tuple[float, float]:
    """Return the mean absolute error and the instruction accuracy.

    The accuracy counts labels of frames with several labels: a prediction is correct when, of all
    recorded chunks of its frame, that of its own instruction is the closest (mean absolute
    difference).

    Args:
        predicted: (L, H, A) chunks.
        truth: (L, H, A) recorded chunks.
        frames: (L,) frame of each label.

    Returns:
        Error in the unit of the chunks, and the accuracy from 0 to 1; NaN where no frame has
        several labels.
    """
    error = float(np.abs(predicted - truth).mean())
    is_correct: list[bool] = []
    for frame in np.unique(frames):
        rows = np.flatnonzero(frames == frame)
        if len(rows) < 2:
            continue
        distance = np.abs(predicted[rows][:, None] - truth[rows][None]).mean((2, 3))
        is_correct.extend(distance.argmin(1) == np.arange(len(rows)))
    return error, float(np.mean(is_correct)) if is_correct else float("nan")
