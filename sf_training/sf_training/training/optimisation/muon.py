"""Muon with the Newton-Schulz iteration in float32 on CPUs, in bfloat16 elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """Muon as in torch, in float32 where all parameters are on a CPU.

    torch computes the Newton-Schulz iteration in bfloat16. CPUs without AVX512-BF16 emulate
    bfloat16: an update then takes several times as long as in float32, which is also more exact. On
    other devices torch's own update runs. Options and state are those of ``torch.optim.Muon``.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return the result of ``closure``."""
        parameters = [each for group in self.param_groups for each in group["params"]]
        if any(each.device.type != "cpu" for each in parameters):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update one matrix, as ``_single_tensor_muon`` in ``torch/optim/_muon.py``."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum, decay, rate = group["momentum"], group["weight_decay"], float(group["lr"])
        average = state["momentum_buffer"]
        average.lerp_(gradient, 1 - momentum)
        direction = gradient.lerp(average, momentum) if group["nesterov"] else average
        update = orthogonalize(direction, group["ns_coefficients"], group["ns_steps"], group["eps"])
        parameter.mul_(1 - rate * decay)
        scale = _rate_scale(group["adjust_lr_fn"], *parameter.shape)
        parameter.add_(update.to(parameter.dtype), alpha=-rate * scale)


def orthogonalize(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Return ``matrix`` (m, n) with its singular values near 1, in float32.

    Quintic Newton-Schulz iteration of Keller Jordan, "Muon: An optimizer for hidden layers in
    neural networks" (2024): ``X <- a X + (b G + c G^2) X`` with ``G = X X^T``, from ``X = matrix /
    max(||matrix||_F, eps)``.

    Args:
        coefficients: (a, b, c).
        steps: number of iterations.
    """
    a, b, c = coefficients
    is_tall = matrix.size(0) > matrix.size(1)
    x = (matrix.T if is_tall else matrix).float()
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def _rate_scale(name: str | None, rows: int, columns: int) -> float:
    """Return the factor of the learning rate for a matrix (rows, columns)."""
    if name == "match_rms_adamw":  # arXiv 2502.16982, consistent update RMS
        return 0.2 * max(rows, columns) ** 0.5
    return max(1.0, rows / columns) ** 0.5
