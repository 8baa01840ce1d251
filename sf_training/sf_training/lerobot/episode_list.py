"""List the episodes of a LeRobot dataset: v3.x (several per file) and v2.x (one file each)."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sf_training.lerobot.dataset_info import FETCH, DatasetInfo, reading
from sf_training.lerobot.layout import LeRobotError

_FRAMES_MAX = 100_000_000  # of an episode; more are damage


@dataclass(frozen=True)
class EpisodeEntry:
    """An entry in the list of episodes.

    Attributes:
        index: number of the episode in the dataset.
        length: number of frames.
        tasks: its instructions.
        table: file with its frames.
        source, row: file of the list, and the entry as it is there.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    table: Path
    source: Path
    row: dict[str, Any]


def list_episodes(directory: Path, info: DatasetInfo) -> list[EpisodeEntry]:
    """Return the entries of ``meta/episodes``, sorted by the number of the episode.

    Raises:
        LeRobotError: there is no entry, an episode is listed twice, or an entry cannot be read.
    """
    entries = [_entry(directory, info, path, row) for path, row in _rows(directory, info)]
    entries.sort(key=lambda entry: entry.index)
    if not entries:
        raise LeRobotError(f"{directory}: lists no episode in meta/episodes; {FETCH}")
    for before, after in itertools.pairwise(entries):
        if before.index == after.index:
            raise LeRobotError(f"{after.source}: lists episode {after.index} twice; {FETCH}")
    return entries


def video_location(
    directory: Path, info: DatasetInfo, entry: EpisodeEntry, key: str
) -> tuple[Path, float]:
    """Return the video of a camera, and the time at which an episode begins in it [s].

    Raises:
        LeRobotError: the dataset lacks the location.
    """
    if info.video_path is None:
        raise LeRobotError(
            f"{directory / 'meta/info.json'}: has no video_path, but {key} is a video; {FETCH}"
        )
    with reading(entry.source, f"the location of {key} in episode {entry.index}"):
        if info.is_v2:
            path, start = _path_v2(info.video_path, info, entry.index, video_key=key), 0.0
        else:
            row = entry.row
            location = {
                name: _count(row[f"videos/{key}/{name}"]) for name in ("chunk_index", "file_index")
            }
            path, start = (
                info.video_path.format(video_key=key, **location),
                float(row[f"videos/{key}/from_timestamp"]),
            )
        if not (math.isfinite(start) and 0.0 <= start < 1e9):
            raise ValueError(f"from_timestamp {start}")
        return directory / path, start


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or only those of ``columns`` that it has.

    Raises:
        LeRobotError: the file is missing or damaged.
    """
    with reading(path, "a table"):
        names = pq.read_schema(path).names
        chosen = names if columns is None else [name for name in columns if name in names]
        # Not read_table: it turns folders named key=value into columns.
        with pq.ParquetFile(path) as file:
            return file.read(columns=chosen)


def _rows(directory: Path, info: DatasetInfo) -> list[tuple[Path, dict]]:
    if info.is_v2:
        path = directory / "meta/episodes.jsonl"
        return [(path, row) for row in read_lines(path)]
    found = []
    for path in sorted(directory.glob("meta/episodes/*/*.parquet")):
        with reading(path, "a table"):
            names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
        found += [(path, row) for row in read_table(path, names).to_pylist()]
    return found


def read_lines(path: Path) -> list[dict]:
    """Read a file with one JSON object per line.

    Raises:
        LeRobotError: the file is missing, or a line is not a JSON object.
    """
    with reading(path, "lines of JSON"):
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        wrong = [number for number, row in enumerate(rows, 1) if not isinstance(row, dict)]
        if wrong:
            raise ValueError(f"line {wrong[0]} is not an object")
        return rows


def _entry(directory: Path, info: DatasetInfo, source: Path, row: dict) -> EpisodeEntry:
    with reading(source, "a list of episodes"):
        index, length = _count(row["episode_index"]), _count(row["length"])
        if not 0 < length <= _FRAMES_MAX:
            raise ValueError(f"episode {index} has length {length}")
        tasks = row.get("tasks") or ()
        tasks = (tasks,) if isinstance(tasks, str) else tuple(str(task) for task in tasks)
        if info.is_v2:
            table = _path_v2(info.data_path, info, index)
        else:
            location = {name: _count(row[f"data/{name}"]) for name in ("chunk_index", "file_index")}
            table = info.data_path.format(**location)
        return EpisodeEntry(index, length, tasks, directory / table, source, row)


def _path_v2(pattern: str, info: DatasetInfo, index: int, **more: str) -> str:
    return pattern.format(episode_chunk=index // info.chunks_size, episode_index=index, **more)


def _count(value: object) -> int:
    """Return a value that must be an integer of 0 or more.

    Raises:
        ValueError: it is not.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or value != int(value)
        or value < 0
    ):
        raise ValueError(f"{value!r} is not a count")
    return int(value)
