"""Fewer channels for wide teacher features: the directions that hold most of them. The cache
measures the cosine that is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLE = 128  # frames that the directions are found in


@dataclass(frozen=True)
class Compression:
    """An orthonormal basis (C, channels) for each teacher layer."""

    bases: tuple[np.ndarray, ...]

    def __call__(self, layers: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Targets (..., C) of each layer as (..., channels), float32."""
        return [
            layer.astype(np.float32) @ basis
            for layer, basis in zip(layers, self.bases, strict=True)
        ]

    @staticmethod
    def fit(
        compute: Callable[[np.ndarray], Sequence[np.ndarray]],
        frames: int,
        channels: int,
        file: Path | None = None,
    ) -> Compression:
        """Find the bases, or read those that an earlier call left in ``file``.

        Directions are those of the uncentred second moments: the loss compares angles at the
        origin.

        Args:
            compute: targets (n, ..., C) of each layer for the indices of n frames.
            frames: in the data.
            channels: to keep.
        """
        if file is not None and file.is_file():
            with np.load(file) as kept:
                return Compression(
                    tuple(kept[f"layer_{number}"] for number in range(len(kept.files)))
                )
        sample = np.unique(np.linspace(0, frames - 1, min(SAMPLE, frames)).astype(int))
        found = Compression(
            tuple(_directions(_tokens(layer), channels) for layer in compute(sample))
        )
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_suffix(".new.npz")
            np.savez(
                fresh, **{f"layer_{number}": basis for number, basis in enumerate(found.bases)}
            )
            os.replace(fresh, file)
        return found


def _tokens(layer: np.ndarray) -> np.ndarray:
    return layer.reshape(-1, layer.shape[-1]).astype(np.float32)


def _directions(tokens: np.ndarray, channels: int) -> np.ndarray:
    """(C, channels), the largest first."""
    values, vectors = np.linalg.eigh(tokens.T @ tokens)
    return np.ascontiguousarray(vectors[:, np.argsort(values)[::-1][:channels]])
