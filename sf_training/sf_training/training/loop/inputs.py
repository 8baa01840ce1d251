"""Tensors of labels on the device of a run: what the forward pass of training takes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sf_policy_node.vla.normalisation import Normalisation
from sf_training.spatial_forcing.alignment import AlignmentConfig, prepare_target
from sf_training.spatial_forcing.vision_targets import LiveLayer, Targets
from sf_training.training.batches.augmentation import Augmentation
from sf_training.training.batches.batches import MicroBatch
from sf_training.training.training_set import TrainingSet


@dataclass(frozen=True)
class Inputs:
    """B labels of F frames, for :class:`~sf_training.training.loop.forward.TrainingModule`.

    Attributes:
        images: (F, V, 3, H, W) uint8, or float32 in [0, 255] after augmentation.
        rows: (B,) for each label, the index of its frame in ``images``.
        states: (B, N) normalised.
        text: (B, ...) embeddings or token ids.
        chunks: (B, H, A) normalised; None to predict them.
        targets: (B, tokens, C) for each teacher layer; empty without a teacher.
        drawn: result of :func:`sf_policy_node.vla.objective.draw` for these labels.
        present: (B, V) bool, False where a camera is missing; None: no camera is missing.
    """

    images: Tensor
    rows: Tensor
    states: Tensor
    text: Tensor
    chunks: Tensor | None = None
    targets: tuple[Tensor, ...] = ()
    drawn: Any = None
    present: Tensor | None = None


class TargetReader:
    """Reads alignment targets of frames, resized to the student's grid.

    Args:
        targets: of all frames of the training set.
        grid: rows and columns of the student's visual tokens of one camera.
        config: complete settings of the alignment.
        reading: lock held while a live teacher reads images from the bags.
    """

    def __init__(
        self,
        targets: Targets,
        grid: tuple[int, int],
        config: AlignmentConfig,
        reading: threading.Lock,
    ) -> None:
        self.targets, self._grid, self._config, self._reading = targets, grid, config, reading

    def read(self, frames: np.ndarray, augmented: Tensor | None = None) -> list[Tensor]:
        """Return the targets (F, tokens, C) of each teacher layer.

        Args:
            frames: (F,) indices in the training set.
            augmented: (F, V, 3, H, W) images that a live teacher sees instead of the recorded
                ones; None: the recorded ones.
        """
        return [self._read(layer, frames, augmented) for layer in self.targets.layers]

    def _read(self, layer: Any, frames: np.ndarray, augmented: Tensor | None) -> Tensor:
        if augmented is not None and isinstance(layer, LiveLayer):
            found = layer.of(frames, augmented)
        else:
            with self._reading:  # a live teacher reads images from the bags
                found = layer[frames]
        features = torch.from_numpy(np.ascontiguousarray(found)).float()
        if self.targets.prepared:
            return features.flatten(1, 3)
        return prepare_target(
            features,
            self._grid,
            self._config.position_scale,
            position=self._config.position,
            resize=self._config.resize,
        )


class InputBuilder:
    """Gathers images, states, text, actions and targets of labels on a device.

    Args:
        text: what the student takes as text, one row for each of ``data.texts``.
        reading: lock held while images are read.
        targets: None without a teacher.
        augmentation: None leaves the images as recorded.
    """

    def __init__(
        self,
        data: TrainingSet,
        normalisation: Normalisation,
        text: Tensor,
        device: torch.device,
        reading: threading.Lock,
        targets: TargetReader | None,
        augmentation: Augmentation | None,
    ) -> None:
        self._data, self._text, self._device = data, text, device
        self._reading, self._targets, self._augmentation = reading, targets, augmentation
        self._states = torch.from_numpy(normalisation.state.normalise(data.states))
        self._chunks = torch.from_numpy(normalisation.action.normalise(data.label_chunk))

    @property
    def horizon(self) -> int:
        """Number of steps of a chunk."""
        return self._chunks.shape[1]

    def for_training(self, batch: MicroBatch, drawn: Any, draws: Tensor | None = None) -> Inputs:
        """Return the inputs of one micro-batch.

        Args:
            drawn: result of :func:`sf_policy_node.vla.objective.draw` for its labels.
            draws: random numbers of the augmentation for the batch of all processes; None: the
                images stay as recorded.
        """
        images, augmented = batch.images.to(self._device, non_blocking=True), None
        if draws is not None:
            assert self._augmentation is not None
            images, augmented = self._augmentation.apply(images, draws[batch.frame_indices])
        targets: tuple[Tensor, ...] = ()
        if self._targets is not None:
            targets = tuple(
                layer[batch.rows].to(self._device)
                for layer in self._targets.read(batch.frames, augmented)
            )
        return self._inputs(
            images,
            batch.rows,
            batch.labels,
            chunks=self._chunks[batch.labels].to(self._device),
            targets=targets,
            drawn=drawn,
        )

    def for_prediction(self, labels: np.ndarray) -> Inputs:
        """Return the inputs for the predicted chunks of labels (B,)."""
        frames, rows = np.unique(self._data.label_frame[labels], return_inverse=True)
        with self._reading:
            images = torch.from_numpy(np.ascontiguousarray(self._data.images[frames]))
        return self._inputs(images.to(self._device), torch.from_numpy(rows), labels)

    def _inputs(self, images: Tensor, rows: Tensor, labels: np.ndarray, **more: Any) -> Inputs:
        frames, present = self._data.label_frame[labels], self._data.present
        return Inputs(
            images=images,
            rows=rows.to(self._device),
            present=None if present is None else torch.from_numpy(present[frames]).to(self._device),
            states=self._states[frames].to(self._device),
            text=self._text[self._data.label_text[labels]].to(self._device),
            **more,
        )
