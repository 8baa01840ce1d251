"""Fewer channels for wide teacher features, by principal directions.

The feature cache measures the cosine that is lost.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE = 128  # frames from which the directions are computed


@dataclass(frozen=True)
class Compression:
    """An orthonormal basis (C, channels) for each teacher layer.

    Attributes:
        frames: number of frames of the data from which a sample was taken.
    """

    bases: tuple[np.ndarray, ...]
    frames: int = 0

    @property
    def digest(self) -> str:
        """Hash of the bases."""
        content = b"".join(np.ascontiguousarray(basis).tobytes() for basis in self.bases)
        return hashlib.sha256(content).hexdigest()

    def __call__(self, layers: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Project targets (..., C) of each layer to (..., channels), float32."""
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
        """Compute the bases, or read those that an earlier call saved in ``file``.

        Saved bases also serve other data: all episodes in one cache have the same directions.
        Damaged ones are computed again.

        Directions are eigenvectors of the uncentred second moment X^T X over tokens X (N, C),
        because the loss compares angles at the origin.

        Args:
            compute: targets (n, ..., C) of each layer for the indices of n frames.
            frames: number of frames of the data.
            channels: number of directions.
        """
        if file is not None and (known := _saved(file)):
            return known
        sample = np.unique(np.linspace(0, frames - 1, min(SAMPLE, frames)).astype(int))
        found = Compression(
            tuple(_directions(_tokens(layer), channels) for layer in compute(sample)), frames
        )
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(".new.npz")
            named: dict[str, Any] = {
                f"layer_{number}": basis for number, basis in enumerate(found.bases)
            }
            np.savez(temporary, frames=frames, **named)
            os.replace(temporary, file)
        return found


def _saved(file: Path) -> Compression | None:
    """Read saved bases; None if there are none, or they are damaged."""
    try:
        with np.load(file) as saved:
            names = [f"layer_{number}" for number in range(len(saved.files) - 1)]
            return Compression(tuple(saved[name] for name in names), int(saved["frames"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _tokens(layer: np.ndarray) -> np.ndarray:
    return layer.reshape(-1, layer.shape[-1]).astype(np.float32)


def _directions(tokens: np.ndarray, channels: int) -> np.ndarray:
    """Return the principal directions (C, channels), largest first."""
    values, vectors = np.linalg.eigh(tokens.T @ tokens)
    return np.ascontiguousarray(vectors[:, np.argsort(values)[::-1][:channels]])
