"""Storage formats of cached features: one or two bytes for each value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

CacheFormat = Literal["float16", "bfloat16", "int8"]
"""float16: 11 bits of precision, values up to 65504. bfloat16: 8 bits of precision, any
magnitude, the same space. int8: half the space, values in steps of a 127th of the token's
largest one.
"""
FORMATS = get_args(CacheFormat)


def parts_of(shape: tuple[int, ...], form: CacheFormat) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of the encoded arrays of features with ``shape``."""
    if form == "int8":
        return [(shape, np.dtype(np.int8)), (shape[:-1], np.dtype(np.float16))]
    return [(shape, np.dtype(np.uint16 if form == "bfloat16" else np.float16))]


def encode(values: np.ndarray, form: CacheFormat) -> tuple[np.ndarray, ...]:
    """Encode features (..., C) float32.

    With ``int8`` the second array holds a scale (...) for each token.
    """
    if form == "float16":
        return (values.astype(np.float16),)
    if form == "bfloat16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
        # Round to the nearest, ties to even.
        return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16),)
    scale = (np.abs(values).max(-1) / 127).astype(np.float16)
    steps = np.divide(
        values,
        scale[..., None].astype(np.float32),
        out=np.zeros_like(values),
        where=scale[..., None] > 0,
    )
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), scale


def decode(parts: Sequence[np.ndarray], form: CacheFormat) -> np.ndarray:
    """Return the features (..., C) float32 of encoded arrays."""
    if form == "bfloat16":
        return (parts[0].astype(np.uint32) << 16).view(np.float32)
    values = parts[0].astype(np.float32)
    return values * parts[1][..., None].astype(np.float32) if form == "int8" else values


def cosine_errors(values: np.ndarray, stored: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Return 1 - cosine (...) between original and stored features; 0 for a token of zeros.

    Args:
        values: features (..., C), or their projection on the stored directions.
        stored: the same after encoding and decoding.
        norms: (...) norms of the original features.
    """
    product = np.einsum("...c,...c->...", values, stored, dtype=np.float64)
    length = norms.astype(np.float64) * np.sqrt(
        np.einsum("...c,...c->...", stored, stored, dtype=np.float64)
    )
    return 1.0 - np.divide(product, length, out=np.ones_like(product), where=length > 0)
