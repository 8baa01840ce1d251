"""Reads LeRobot v3.0 datasets, ours and others', without lerobot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sf_training.lerobot import layout
from sf_training.lerobot.layout import ACTION, IMAGES, STATE, LeRobotError
from sf_training.lerobot.video import read_frames


@dataclass(frozen=True)
class DatasetEpisode:
    """N frames: ``state`` and ``action`` (N, C), ``timestamps`` (N,) [s from its start], ``stamps`` (N,) [s] where recorded."""

    index: int
    task: str
    state: np.ndarray
    action: np.ndarray
    timestamps: np.ndarray
    stamps: np.ndarray | None


class DatasetReader:
    """A dataset by its directory.

    Attributes: ``fps``, ``robot``, ``cameras`` (names, without "observation.images."), ``state_names``, ``action_names``
    (empty where the dataset has none), ``episodes`` (how many).

    Raises:
        LeRobotError: not a dataset, another version, or a feature that is needed is missing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._table: tuple[Path, pa.Table] | None = None
        try:
            self._information = json.loads((directory / layout.INFO).read_text(encoding="utf-8"))
        except OSError:
            raise LeRobotError(f"{directory}: has no {layout.INFO}, so it is no LeRobot dataset; check the path") from None
        except ValueError:
            raise LeRobotError(f"{directory / layout.INFO}: is not JSON; fetch the dataset again") from None
        version = str(self._information.get("codebase_version"))
        if not version.startswith("v3."):
            cure = "convert it with `python -m lerobot.datasets.v30.convert_dataset_v21_to_v30` in an environment with lerobot"
            raise LeRobotError(f"{directory}: is of version {version}, {layout.VERSION} is read; {cure}")
        self._features: dict[str, dict] = self._information.get("features", {})
        for key in (STATE, ACTION):
            if key not in self._features:
                raise LeRobotError(f"{directory}: has no {key}; only datasets with joint positions as state and action can be read")
        self.fps = float(self._information["fps"])
        self.robot = self._information.get("robot_type") or ""
        self.cameras = [key.removeprefix(IMAGES) for key in self._features if key.startswith(IMAGES)]
        self.state_names, self.action_names = (_names(self._features[key]) for key in (STATE, ACTION))
        rows = [row for path in sorted(directory.glob("meta/episodes/*/*.parquet")) for row in _read(path, "stats/").to_pylist()]
        self._rows = sorted(rows, key=lambda row: row["episode_index"])
        self.episodes = len(self._rows)
        if not self.episodes:
            raise LeRobotError(f"{directory}: lists no episode in meta/episodes; fetch the dataset again")

    def size(self, camera: str) -> tuple[int, int]:
        """Width and height of a camera's pictures."""
        feature = self._features[IMAGES + camera]
        sizes = dict(zip(feature.get("names") or ("height", "width", "channels"), feature["shape"], strict=False))
        return int(sizes["width"]), int(sizes["height"])

    def episode(self, position: int) -> DatasetEpisode:
        """The columns of the n-th episode.

        Raises:
            LeRobotError: its file is missing or damaged.
        """
        row = self._rows[position]
        table = self._rows_of(row)
        stamps = np.asarray(table[layout.STAMP]) if layout.STAMP in table.column_names else None
        return DatasetEpisode(
            index=row["episode_index"],
            task=" ".join(row["tasks"]),
            state=_matrix(table[STATE]),
            action=_matrix(table[ACTION]),
            timestamps=np.asarray(table["timestamp"], np.float64),
            stamps=stamps,
        )

    def pictures(self, position: int, camera: str) -> Iterator[np.ndarray]:
        """All pictures (H, W, 3) uint8 RGB of one camera in the n-th episode.

        Raises:
            LeRobotError: the video or a picture is missing or damaged.
        """
        row, key = self._rows[position], IMAGES + camera
        if self._features[key]["dtype"] == "image":
            yield from (self._picture(entry) for entry in self._rows_of(row)[key].to_pylist())
            return
        place = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
        path = self.directory / self._information["video_path"].format(video_key=key, **place)
        yield from read_frames(path, row[f"videos/{key}/from_timestamp"], row["length"], self.fps)

    def _rows_of(self, row: dict) -> pa.Table:
        place = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
        path = self.directory / self._information["data_path"].format(**place)
        if self._table is None or self._table[0] != path:  # several episodes lie in one file
            self._table = (path, _read(path))
        table = self._table[1]
        found = np.flatnonzero(np.asarray(table["episode_index"]) == row["episode_index"])
        if len(found) != row["length"]:
            raise LeRobotError(
                f"{self.directory}: episode {row['episode_index']} has {len(found)} rows, {row['length']} are announced; fetch it again"
            )
        return table.slice(found[0], len(found))

    def _picture(self, entry: dict) -> np.ndarray:
        data = entry.get("bytes") or (self.directory / entry["path"]).read_bytes()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise LeRobotError(f"{self.directory}: {entry.get('path')}: is no picture; fetch the dataset again")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _read(path: Path, prefix_left_out: str | None = None) -> pa.Table:
    """A table, without the columns whose names begin with a prefix."""
    try:
        names = [name for name in pq.read_schema(path).names if not prefix_left_out or not name.startswith(prefix_left_out)]
        return pq.read_table(path, columns=names)
    except (OSError, pa.ArrowException) as error:
        raise LeRobotError(f"{path}: cannot be read ({str(error).splitlines()[0]}); fetch the dataset again") from None


def _names(feature: dict) -> list[str]:
    """Columns of a feature; LeRobot has lists, dictionaries of lists, or nothing."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for values in names.values() for name in (values if isinstance(values, list) else [values])]
    return [str(name) for name in names or []]


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """(N, C) float64 from lists of equal length, or (N, 1) from numbers."""
    return np.array(column.to_pylist(), np.float64).reshape(len(column), -1)
