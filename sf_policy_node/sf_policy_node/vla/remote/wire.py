"""Encoding of observations and actions: openpi's msgpack with NumPy, and json_numpy's JSON.

Nothing is ever unpickled.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

_NUMERIC = "biuf"  # kinds of dtype: bool, signed and unsigned integers, floats
_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_JSON_ARRAY = "__numpy__"


class WireError(ValueError):
    """A message cannot be read or written; the message says why."""


def pack(value: Any) -> bytes:
    """Encode dictionaries, lists, numbers, text and arrays as openpi does (``msgpack_numpy``).

    Raises:
        WireError: an array does not hold numbers.
    """
    return msgpack.packb(value, default=_plain)


def unpack(data: bytes) -> Any:
    """Decode :func:`pack`. Arrays are read-only.

    Raises:
        WireError: it is not msgpack, or an array's size, shape or dtype is wrong.
    """
    try:
        return msgpack.unpackb(data, object_hook=_array)
    except WireError:
        raise
    except (msgpack.UnpackException, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise WireError(f"not a msgpack message ({' '.join(str(error).split())[:120]})") from None


def to_json(value: Any) -> bytes:
    """Encode as JSON with arrays in json_numpy's layout.

    Raises:
        WireError: an array does not hold numbers.
    """

    def encode(item: Any) -> Any:
        if not isinstance(item, (np.ndarray, np.generic)):
            raise WireError(f"cannot send a {type(item).__name__}")
        array = np.asarray(item)
        _check_numeric(array.dtype)
        return {
            _JSON_ARRAY: base64.b64encode(array.tobytes()).decode(),
            "dtype": array.dtype.str,
            "shape": list(array.shape),
        }

    return json.dumps(value, default=encode).encode()


def from_json(data: bytes) -> Any:
    """Decode :func:`to_json`.

    Raises:
        WireError: it is not JSON, or an array's size, shape or dtype is wrong.
    """

    def decode(item: dict) -> Any:
        if _JSON_ARRAY not in item:
            return item
        try:
            raw = base64.b64decode(item[_JSON_ARRAY], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise WireError("an array is not base64") from None
        return _build(raw, item.get("dtype"), item.get("shape"))

    try:
        return json.loads(data, object_hook=decode)
    except WireError:
        raise
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON ({' '.join(str(error).split())[:120]})") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        _check_numeric(value.dtype)
        return {
            _ARRAY: True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        _check_numeric(value.dtype)
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise WireError(f"cannot send a {type(value).__name__}")


def _array(item: Mapping) -> Any:
    if _ARRAY in item:
        return _build(item.get(b"data"), item.get(b"dtype"), item.get(b"shape"))
    if _SCALAR in item:
        value = item.get(b"data")
        if not isinstance(value, (bool, int, float)):
            raise WireError("a number is missing its value")
        try:
            return _dtype(item.get(b"dtype")).type(value)
        except (OverflowError, ValueError, TypeError):
            raise WireError("a number does not fit its dtype") from None
    return item


def _build(data: Any, dtype: Any, shape: Any) -> np.ndarray:
    element = _dtype(dtype)
    if not isinstance(shape, (list, tuple)) or not all(
        type(side) is int and side >= 0 for side in shape
    ):
        raise WireError(f"an array has the shape {shape!r}")
    wanted = math.prod(shape) * element.itemsize
    if not isinstance(data, bytes) or len(data) != wanted:
        found = len(data) if isinstance(data, bytes) else type(data).__name__
        raise WireError(f"an array of shape {tuple(shape)} needs {wanted} bytes, got {found}")
    return np.frombuffer(data, element).reshape(shape)


def _dtype(name: Any) -> np.dtype:
    try:
        found = np.dtype(name if isinstance(name, str) else str(name, "ascii"))
    except (TypeError, ValueError, SyntaxError):
        raise WireError(f"an array has the dtype {name!r}") from None
    _check_numeric(found)
    return found


def _check_numeric(dtype: np.dtype) -> None:
    if dtype.kind not in _NUMERIC:
        raise WireError(f"an array has the dtype {dtype.str!r}; only numbers and booleans are sent")
