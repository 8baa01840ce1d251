"""Exponential moving average of the trained weights; validated and saved instead of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_QUICK_STEPS = 20  # the average follows faster at the start


class Average:
    """Keeps a moving average of the trained parameters of ``model``; none where ``decay`` is 0.

    m <- m + (1 - d) (w - m) after each step n, with weights w and d = min(decay, n / (n + 20)).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        named = (
            [
                (name, parameter)
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            ]
            if decay
            else []
        )
        self._names = [name for name, _ in named]
        self._live = [parameter for _, parameter in named]
        self._mean = [parameter.detach().clone() for parameter in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after optimiser step ``step``, from 1."""
        if self._mean:
            weight = 1.0 - min(self._decay, step / (step + _QUICK_STEPS))
            torch._foreach_lerp_(
                self._mean, [parameter.detach() for parameter in self._live], weight
            )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averaged weights inside the context, and its own weights after it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, mean in zip(self._live, self._mean, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(own)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by parameter name."""
        return dict(zip(self._names, self._mean, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`state_dict`, on any device."""
        for name, mean in zip(self._names, self._mean, strict=True):
            mean.copy_(state[name])
