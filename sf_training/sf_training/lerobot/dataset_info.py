"""Read ``meta/info.json`` of a LeRobot dataset: version, rate, columns and cameras."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from sf_training.lerobot import layout
from sf_training.lerobot.layout import ACTION, IMAGES, STATE, LeRobotError

FETCH = "fetch the dataset again"
_PICTURES = ("image", "video")
_CHANNELS = (1, 3, 4)
# Errors that a damaged or foreign table, number or path raises while it is read.
_DAMAGE = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    OverflowError,
    AttributeError,
    pa.ArrowException,
)


class DatasetInfo(BaseModel):
    """The keys of info.json that are used; see :func:`read_info`."""

    codebase_version: str
    fps: Annotated[float, Field(gt=0, le=100_000)]
    robot_type: Any = None
    features: dict[str, Any]
    data_path: str
    video_path: str | None = None
    chunks_size: PositiveInt = 1000

    @property
    def is_v2(self) -> bool:
        """Whether every episode has its own files (v2.0 and v2.1)."""
        return self.codebase_version.startswith("v2.")

    def image_keys(self, *, depth: bool) -> list[str]:
        """Return the keys of the camera features: of colour, or of depth."""
        keys = [key for key, each in self.features.items() if _dtype(each) in _PICTURES]
        return [key for key in keys if _is_depth(self.features[key]) == depth]


class _Feature(BaseModel):
    dtype: str
    shape: Annotated[list[PositiveInt], Field(min_length=1, max_length=8)]
    names: Any = None


def read_info(directory: Path) -> DatasetInfo:
    """Read ``meta/info.json``.

    Raises:
        LeRobotError: the file is missing, not JSON, lacks a key, or has an unsupported version.
    """
    path = directory / layout.INFO
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise LeRobotError(
            f"{directory}: has no {layout.INFO}, so it is not a LeRobot dataset; check the path"
        ) from None
    except (ValueError, RecursionError):
        raise LeRobotError(f"{path}: is not JSON; {FETCH}") from None
    version = content.get("codebase_version") if isinstance(content, dict) else None
    if not str(version).startswith(("v2.", "v3.")):
        cure = "convert it to v2.1 with a lerobot of that version (convert_dataset_v1_to_v2.py)"
        raise LeRobotError(f"{directory}: has version {version}, v2.0 to v3 are read; {cure}")
    try:
        info = DatasetInfo.model_validate(content)
    except ValidationError as error:
        raise LeRobotError(_explained(path, error)) from None
    for key in (STATE, ACTION):
        if key not in info.features:
            raise LeRobotError(
                f"{directory}: has no {key}; only datasets with joint positions as state and action"
                " can be read"
            )
    return info


def column_names(path: Path, info: DatasetInfo, key: str) -> tuple[list[str], int]:
    """Return the names of the columns of a feature, and the number of columns.

    LeRobot writes a list, a dictionary of lists, a dictionary of numbers, any of these nested, or
    nothing. The list is empty if there are no names, or not one for each column.

    Raises:
        LeRobotError: the description of the feature is broken.
    """
    feature = _feature(path, info, key)
    count = 1
    for length in feature.shape:
        count *= length
    names = [str(name) for name in _flat(feature.names)]
    return (names if len(names) == count else []), count


def image_size(path: Path, info: DatasetInfo, key: str) -> tuple[int, int]:
    """Return width and height of the images of a camera [pixels], whatever the order of its shape.

    Raises:
        LeRobotError: the description of the feature is broken.
    """
    feature = _feature(path, info, key)
    shape = feature.shape
    names = [str(name).strip().casefold() for name in _flat(feature.names)]
    if len(names) == len(shape):
        initials = [name[:1] for name in names]
        if initials.count("h") == 1 and initials.count("w") == 1:
            return shape[initials.index("w")], shape[initials.index("h")]
    if len(shape) == 2:
        return shape[1], shape[0]
    if len(shape) != 3:
        raise LeRobotError(
            f"{path}: features.{key}.shape is {shape}; give height, width and channels of the"
            " images"
        )
    channels_first = shape[0] in _CHANNELS and shape[2] not in _CHANNELS
    return (shape[2], shape[1]) if channels_first else (shape[1], shape[0])


def depth_information(info: DatasetInfo, key: str) -> Mapping[str, Any]:
    """Return the ``info`` of a depth feature, its keys without the prefix "video."."""
    described = info.features[key].get("info") or info.features[key].get("video_info") or {}
    return {name.removeprefix("video."): value for name, value in described.items()}


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn the errors that a damaged file raises into LeRobotError.

    Args:
        what: the file is read as this, for the message.
    """
    try:
        yield
    except LeRobotError:
        raise
    except OSError as error:
        raise LeRobotError(
            f"{path}: cannot be read ({_first_line(error.strerror or error)}); {FETCH}"
        ) from None
    except _DAMAGE as error:
        reason = f"no {error}" if isinstance(error, KeyError) else _first_line(error)
        raise LeRobotError(f"{path}: cannot be read as {what} ({reason}); {FETCH}") from None


def _feature(path: Path, info: DatasetInfo, key: str) -> _Feature:
    try:
        return _Feature.model_validate(info.features[key])
    except ValidationError as error:
        raise LeRobotError(_explained(path, error, f"features.{key}")) from None


def _explained(path: Path, error: ValidationError, prefix: str = "") -> str:
    first = error.errors()[0]
    key = ".".join(map(str, ([prefix] if prefix else []) + list(first["loc"])))
    if first["type"] == "missing":
        return f"{path}: has no {key}; add it, or {FETCH}"
    return f"{path}: {key} is {str(first['input'])[:80]!r} ({first['msg']}); correct it, or {FETCH}"


def _flat(names: Any) -> list:
    """Return all names in the order of their columns; empty if the order is ambiguous."""
    if names is None:
        return []
    if isinstance(names, Mapping):
        values = list(names.values())
        if values and all(
            isinstance(value, int) and not isinstance(value, bool) for value in values
        ):
            in_order = sorted(names, key=names.__getitem__)  # name to number
            return in_order if sorted(values) == list(range(len(values))) else []
        if (
            values
            and all(str(key).isdigit() for key in names)
            and all(isinstance(value, str) for value in values)
        ):
            return [names[key] for key in sorted(names, key=int)]  # number to name
        return [name for value in values for name in _flat(value)]
    if isinstance(names, Sequence) and not isinstance(names, str):
        return [name for value in names for name in _flat(value)]
    return [names]


def _dtype(feature: Any) -> str:
    return str(feature.get("dtype")) if isinstance(feature, Mapping) else ""


def _is_depth(feature: Mapping) -> bool:
    described = feature.get("info") or feature.get("video_info") or {}
    if not isinstance(described, Mapping):
        return False
    return bool(described.get("is_depth_map") or described.get("video.is_depth_map"))


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def short_name(key: str) -> str:
    """Return the name of a camera: its key without "observation.images." or "observation."."""
    return key.removeprefix(IMAGES).removeprefix("observation.")
