"""The gradients of one optimiser step, over micro-batches and processes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from sf_training.training.batches.augmentation import Augmentation
from sf_training.training.batches.batches import Batch
from sf_training.training.loop.forward import TrainingModule
from sf_training.training.loop.inputs import InputBuilder
from sf_training.training.settings import Settings


class GradientStep:
    """Computes losses and gradients of batches.

    Args:
        module: the forward pass.
        wrapped: ``module`` as the accelerator wraps it (DDP); with FSDP ``module`` itself.
        augmentation: None trains on the recorded images.
    """

    def __init__(
        self,
        settings: Settings,
        module: TrainingModule,
        wrapped: Any,
        inputs: InputBuilder,
        augmentation: Augmentation | None,
        accelerator: Accelerator,
    ) -> None:
        self._settings, self._module, self._wrapped = settings, module, wrapped
        self._inputs, self._augmentation, self._accelerator = inputs, augmentation, accelerator

    def backward(self, batch: Batch, drawn: Any, step: int) -> tuple[float, float | None]:
        """Add the gradients of this process's share of a batch to those of the parameters.

        Args:
            drawn: result of :func:`sf_policy_node.vla.objective.draw` for the batch of all
                processes.
            step: number of the optimiser step, from 1; seeds the augmentation.

        Returns:
            Action loss and alignment loss, means over the micro-batches of this process; the
            latter is None without an alignment.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        self._wrapped.train()
        count = len(batch.micro_batches)
        draws = self._augmentation.draw(step, batch.frames) if self._augmentation else None
        losses = []
        for number, micro_batch in enumerate(batch.micro_batches):
            own = (
                None
                if drawn is None
                else drawn.select(
                    micro_batch.batch_indices, self._accelerator.num_processes * count
                )
            )
            with (
                self._no_reduction(number < count - 1),
                self._accelerator.autocast(),
            ):
                found = self._wrapped(self._inputs.for_training(micro_batch, own, draws))
                self._accelerator.backward(self._total(found, step) / count)
            losses.append(
                [
                    float(found[name].detach()) if name in found else None
                    for name in ("action", "alignment")
                ]
            )
        action, alignment = zip(*losses, strict=True)
        return float(np.mean(action)), None if alignment[0] is None else float(np.mean(alignment))

    def losses(self, batch: Batch, drawn: Any) -> tuple[Tensor, Tensor]:
        """Return action and alignment loss of the first micro-batch, with their graphs."""
        first, count = batch.micro_batches[0], len(batch.micro_batches)
        own = None if drawn is None else drawn.select(first.batch_indices, count)
        found = self._module(self._inputs.for_training(first, own))
        return found["action"], found["alignment"]

    def _total(self, losses: dict[str, Tensor], step: int) -> Tensor:
        """Return L_SF = L_action + alpha L_align (arXiv 2510.12276)."""
        total = losses["action"]
        if "alignment" in losses:
            total = total + self._settings.alignment.coefficient * losses["alignment"]
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"step {step}: the loss is not finite; lower --learning-rate (now"
                f" {self._settings.rate:g})"
            )
        return total

    def _no_reduction(self, wanted: bool) -> AbstractContextManager:
        """Skip the reduction of gradients over processes, for all but the last micro-batch."""
        if self._settings.fsdp:
            cast(FSDPModule, self._module).set_requires_gradient_sync(not wanted)
            return nullcontext()
        return self._accelerator.no_sync(self._wrapped) if wanted else nullcontext()
