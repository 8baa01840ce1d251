"""How features are kept: two bytes for each value, or one and a scale for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

CacheFormat = Literal["float16", "bfloat16", "int8"]
"""float16: 11 bits of precision, values up to 65504. bfloat16: 8 bits, any size, the same room.
int8: half of the room, values in steps
of a 127th of the token's largest one."""
FORMATS = get_args(CacheFormat)


@dataclass(frozen=True)
class CompactArray:
    """Features (F, ..., C) that are decoded where they are read: ``array[frames]`` gives float32.

    Attributes:
        parts: what is kept, frames first; see :func:`encode`.
        format: of the parts.
    """

    parts: tuple[np.ndarray, ...]
    format: CacheFormat

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the features."""
        return self.parts[0].shape

    @property
    def nbytes(self) -> int:
        """That are kept."""
        return sum(part.nbytes for part in self.parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, frames: Any) -> np.ndarray:
        return decode(tuple(np.asarray(part[frames]) for part in self.parts), self.format)


def empty_parts(
    shape: tuple[int, ...], kind: CacheFormat
) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of the arrays that features of ``shape`` are kept in."""
    if kind == "int8":
        return [(shape, np.dtype(np.int8)), (shape[:-1], np.dtype(np.float16))]
    return [(shape, np.dtype(np.uint16 if kind == "bfloat16" else np.float16))]


def encode(values: np.ndarray, kind: CacheFormat) -> tuple[np.ndarray, ...]:
    """Features (..., C) float32 as the arrays that are kept; with ``int8`` a scale (...) for each
    token follows.
    """
    if kind == "float16":
        return (values.astype(np.float16),)
    if kind == "bfloat16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
        return (
            ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16),
        )  # to the nearest, ties to even
    scale = (np.abs(values).max(-1) / 127).astype(np.float16)
    steps = np.divide(
        values,
        scale[..., None].astype(np.float32),
        out=np.zeros_like(values),
        where=scale[..., None] > 0,
    )
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), scale


def decode(parts: Sequence[np.ndarray], kind: CacheFormat) -> np.ndarray:
    """Reverse of :func:`encode`, float32."""
    if kind == "bfloat16":
        return (parts[0].astype(np.uint32) << 16).view(np.float32)
    values = parts[0].astype(np.float32)
    return values * parts[1][..., None].astype(np.float32) if kind == "int8" else values


@dataclass
class CosineError:
    """1 - cosine between whole features and what is left of them, over tokens.

    Attributes:
        total: sum.
        most: largest.
        tokens: number.
    """

    total: float = 0.0
    most: float = 0.0
    tokens: int = 0

    @property
    def mean(self) -> float:
        """0 before the first token."""
        return self.total / max(self.tokens, 1)

    def add(self, values: np.ndarray, kept: np.ndarray, norms: np.ndarray) -> None:
        """Some more tokens.

        Args:
            values: features (..., C), or what of them lies along the directions that are kept.
            kept: decoded again, the same shape.
            norms: (...) of the whole features.
        """
        product = np.einsum("...c,...c->...", values, kept, dtype=np.float64)
        length = norms.astype(np.float64) * np.sqrt(
            np.einsum("...c,...c->...", kept, kept, dtype=np.float64)
        )
        error = 1.0 - np.divide(
            product, length, out=np.ones_like(product), where=length > 0
        )  # nothing can be lost of a token of zeros
        self.total += float(error.sum())
        self.most = max(self.most, float(error.max(initial=0.0)))
        self.tokens += error.size
