"""Optimisers and learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from sf_training.training.loop.forward import TrainingModule
from sf_training.training.optimisation.muon import Muon
from sf_training.training.settings import Settings

_HIDDEN = ("blocks.", "head.blocks.", "projector.")  # parameters for Muon


class Optimizers:
    """The optimisers of all trained parameters.

    Muon on the matrices of nano's blocks and of the projector, AdamW on all others.

    With AdamW alone nano did not learn to ground language within 2000 steps; with Muon it does.
    """

    def __init__(self, module: TrainingModule, settings: Settings) -> None:
        self._settings = settings
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for each in (module.model, module.alignment, module.readout):
            for name, parameter in each.named_parameters() if each is not None else ():
                if parameter.requires_grad:
                    hidden = settings.uses_muon and parameter.ndim == 2 and name.startswith(_HIDDEN)
                    (matrices if hidden else others).append(parameter)
        self.parameters = matrices + others
        rate, decay = settings.rate, settings.weight_decay
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, betas=settings.betas, weight_decay=decay)
        ]
        if matrices:
            muon = Muon(
                matrices, lr=rate, momentum=0.95, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            )
            self.all.insert(0, muon)

    def rate(self, step: int) -> float:
        """Return the learning rate at ``step``, from 1."""
        return self._settings.rate * schedule(self._settings, step)

    def step(self, step: int) -> float:
        """Clip gradients (projector included), update the weights, clear the gradients.

        Returns:
            Norm of the gradients before clipping.

        Raises:
            FloatingPointError: a gradient is not finite; the weights are unchanged.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, self._settings.clip or math.inf)
        size = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if not math.isfinite(size):
            raise FloatingPointError(
                f"step {step}: a gradient is not finite; lower --learning-rate (now"
                f" {self._settings.rate:g})"
            )
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step)
            optimizer.step()
        self.clear()
        return size

    def clear(self) -> None:
        """Drop all gradients."""
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)


def schedule(settings: Settings, step: int) -> float:
    """Return the learning rate at ``step`` (from 1) as a share of its peak.

    * Warm-up: linear from ``warm_up_from`` to 1 at step ``warm_up``.
    * ``linear`` and ``cosine``: from 1 to ``floor`` over the last ``decay_share`` of the steps up
      to ``decay_end``, then ``floor``.
    * ``multistep``: multiplied by ``milestone_factor`` after each milestone
      (``torch.optim.lr_scheduler.MultiStepLR``).
    """
    rise = settings.warm_up_from + (1.0 - settings.warm_up_from) * min(
        1.0, step / max(settings.warm_up, 1)
    )
    if settings.schedule == "multistep":
        return rise * settings.milestone_factor ** sum(
            milestone < step for milestone in settings.milestones
        )
    end = settings.decay_end or settings.steps
    if not settings.decay_share:
        return rise
    left = min(1.0, max(0.0, (end - step + 1) / (settings.decay_share * end)))
    fall = left if settings.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    return rise * (settings.floor + (1.0 - settings.floor) * fall)
