"""Similarity of two sets of features of different width: linear CKA; and cosine of gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Return the linear centred kernel alignment of two sets of features of the same tokens.

    ``||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` with X (N, P) and Y (N, Q) centred over the N
    tokens (linear CKA, Kornblith et al., arXiv 1905.00414). 1: equal up to rotation and scale; 0:
    unrelated. Biased upwards where N is small compared with P and Q.

    Args:
        first: (N, P).
        second: (N, Q).

    Raises:
        ValueError: the numbers of tokens differ, or are below 2.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"CKA needs features of the same tokens, got {len(first)} and {len(second)}"
        )
    x, y = (each.double() - each.double().mean(0) for each in (first, second))
    across = (y.T @ x).square().sum()
    scale = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    return float(across / scale) if scale > 0 else 0.0


def cosine_of(first: list[Tensor | None], second: list[Tensor | None]) -> tuple[float, float]:
    """Return the cosine between two gradients of the same parameters, and the ratio of their norms.

    Args:
        first: a gradient for each parameter; None counts as zero.
        second: of another loss.

    Returns:
        Cosine, and norm of ``second`` over norm of ``first``; NaN where one of them is zero.
    """
    dot, norms = 0.0, [0.0, 0.0]
    for one, other in zip(first, second, strict=True):
        if one is not None and other is not None:
            dot += float((one.double() * other.double()).sum())
        for index, each in enumerate((one, other)):
            norms[index] += 0.0 if each is None else float(each.double().square().sum())
    if not all(norms):
        return float("nan"), float("nan")
    return dot / (norms[0] * norms[1]) ** 0.5, (norms[1] / norms[0]) ** 0.5
