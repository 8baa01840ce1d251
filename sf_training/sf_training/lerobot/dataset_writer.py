"""Write a LeRobot v3.0 dataset one episode at a time; memory use does not grow with the images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sf_training.lerobot import depth, layout
from sf_training.lerobot.layout import ACTION, IMAGES, STAMP, STATE, LeRobotError
from sf_training.lerobot.summaries import PixelSummary, merged, of_columns, sampled_frames
from sf_training.lerobot.video import DEPTH, Codec, VideoFile


class DatasetWriter:
    """Write a dataset. Call :meth:`add_episode`, then :meth:`finish`; leaving a ``with`` block
    without it deletes the dataset.

    Until :meth:`finish` the dataset is in ``<directory>.partial``.

    Args:
        joints: names of the columns of state and action.
        cameras: name to (width, height) [pixels].
        depths: the same for depth images.
        effort: episodes have efforts.
        file_mb: files are closed at about this size, (tables, videos).

    Raises:
        LeRobotError: the directory already exists.
    """

    def __init__(
        self,
        directory: Path,
        *,
        fps: int,
        robot: str,
        joints: list[str],
        cameras: Mapping[str, tuple[int, int]],
        codec: Codec = "h264",
        depths: Mapping[str, tuple[int, int]] | None = None,
        effort: bool = False,
        file_mb: tuple[float, float] = (layout.DATA_FILE_MB, layout.VIDEO_FILE_MB),
    ) -> None:
        self._final, self._root = directory, directory.with_name(directory.name + ".partial")
        if directory.exists():
            raise LeRobotError(
                f"{directory}: already exists; choose another directory, or remove it"
            )
        shutil.rmtree(self._root, ignore_errors=True)
        (self._root / "meta").mkdir(parents=True)
        self._depths, self._effort = dict(depths or {}), effort
        self._fps, self._robot, self._joints, self._codec = fps, robot, joints, codec
        self._cameras = dict(cameras) | self._depths
        self._limits = [int(size * 1e6) for size in file_mb]
        self._tasks: list[str] = []
        self._rows: list[dict] = []
        self._columns: dict[str, list[np.ndarray]] = {}
        self._pixels: dict[str, list[PixelSummary]] = {name: [] for name in self._cameras}
        self._frames = 0
        self._table: pq.ParquetWriter | None = None
        self._table_bytes, self._table_file = 0, -1
        self._videos: dict[str, VideoFile] = {}
        self._video_files = dict.fromkeys(self._cameras, -1)

    @property
    def root(self) -> Path:
        """Directory of the dataset during writing; the caller may add files."""
        return self._root

    @property
    def episodes(self) -> int:
        """Number of episodes so far."""
        return len(self._rows)

    def add_episode(
        self,
        tasks: str | Sequence[str],
        state: np.ndarray,
        action: np.ndarray,
        stamps: np.ndarray,
        images: Iterable[tuple[str, np.ndarray]],
        effort: np.ndarray | None = None,
    ) -> None:
        """Add an episode of N frames.

        Args:
            tasks: one for all frames, or one for each.
            state, action: (N, J) [rad, m].
            stamps: (N,) times of recording [s].
            images: (camera, (H, W, 3) uint8) or (depth camera, (H, W) [m]); N of each in order.
                Cameras may alternate in any way.
            effort: (N, J) [N m, N], if the dataset has efforts.

        Raises:
            LeRobotError: there is no frame, or not one image of each camera per frame.
        """
        count, index = len(state), self.episodes
        if not count:
            raise LeRobotError(f"episode {index}: has no frame")
        first_frames = self._encode(count, images)
        texts = [tasks] * count if isinstance(tasks, str) else list(tasks)
        different = list(dict.fromkeys(texts))
        self._tasks += [text for text in different if text not in self._tasks]
        numbers = {text: self._tasks.index(text) for text in different}
        columns: dict[str, np.ndarray] = {
            STATE: np.asarray(state, np.float32),
            ACTION: np.asarray(action, np.float32),
            "timestamp": (np.arange(count) / self._fps).astype(np.float32),
            STAMP: np.asarray(stamps, np.float64),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, index),
            "index": np.arange(self._frames, self._frames + count),
            "task_index": np.array([numbers[text] for text in texts]),
        }
        if self._effort:
            columns[layout.EFFORT] = np.asarray(effort, np.float32)
        chunk, file = self._append(
            {name: layout.column(values) for name, values in columns.items()}
        )
        row = {
            "episode_index": index,
            "tasks": different,
            "length": count,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + count,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        statistics = {name: of_columns(values) for name, values in columns.items()}
        for name, first in first_frames.items():
            key = IMAGES + name
            row |= dict(
                zip(
                    (f"videos/{key}/chunk_index", f"videos/{key}/file_index"),
                    _place(self._video_files[name]),
                    strict=True,
                )
            )
            row |= {
                f"videos/{key}/from_timestamp": first / self._fps,
                f"videos/{key}/to_timestamp": (first + count) / self._fps,
            }
            statistics[key] = self._pixels[name][-1].statistics()
        row |= {
            f"stats/{key}/{name}": value
            for key, found in statistics.items()
            for name, value in found.items()
        }
        self._rows.append(row)
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)
        self._frames += count

    def finish(self) -> Path:
        """Write episode list, tasks, statistics and info.json, and rename the dataset to its final
        name; return its directory.

        Raises:
            LeRobotError: there is no episode.
        """
        if not self._rows:
            raise LeRobotError(f"{self._final}: there is no episode to write; check the data")
        self._close()
        path = self._root / layout.EPISODES.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._rows), path)
        pq.write_table(layout.tasks_table(self._tasks), self._root / layout.TASKS)
        statistics = {
            name: of_columns(np.concatenate(values)) for name, values in self._columns.items()
        }
        statistics |= {
            IMAGES + name: merged(summaries).statistics()
            for name, summaries in self._pixels.items()
        }
        self._write_json(layout.STATISTICS, statistics)
        information = {
            "codebase_version": layout.VERSION,
            "robot_type": self._robot,
            "total_episodes": len(self._rows),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": layout.FILES_PER_CHUNK,
            "data_files_size_in_mb": layout.DATA_FILE_MB,
            "video_files_size_in_mb": layout.VIDEO_FILE_MB,
            "fps": self._fps,
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": layout.DATA,
            "video_path": layout.VIDEOS,
            "features": self._features(),
        }
        self._write_json(layout.INFO, information)
        self._root.rename(self._final)
        return self._final

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._root.exists():
            self._close()
            shutil.rmtree(self._root, ignore_errors=True)

    def _encode(self, count: int, images: Iterable[tuple[str, np.ndarray]]) -> dict[str, int]:
        """Append the images to the videos; return camera to index of its first frame."""
        first, written, sampled = {}, dict.fromkeys(self._cameras, 0), sampled_frames(count)
        for name, (width, height) in self._cameras.items():
            if name not in self._videos or self._videos[name].bytes > self._limits[1]:
                self._next_video(name, width, height)
            first[name] = self._videos[name].frames
            self._pixels[name].append(
                PixelSummary(depth.levels_m(), 1) if name in self._depths else PixelSummary()
            )
        for name, image in images:
            pixels = depth.to_codes(image) if name in self._depths else image
            self._videos[name].add(pixels)
            if written[name] in sampled:
                self._pixels[name][-1].add(pixels.reshape(*pixels.shape[:2], -1))
            written[name] += 1
        wrong = {name: number for name, number in written.items() if number != count}
        if wrong:
            raise LeRobotError(
                f"episode {self.episodes}: {count} frames, but the numbers of images are {wrong};"
                " give one per frame and camera"
            )
        return first

    def _next_video(self, name: str, width: int, height: int) -> None:
        if name in self._videos:
            self._videos[name].close()
        self._video_files[name] += 1
        chunk, file = _place(self._video_files[name])
        path = self._root / layout.VIDEOS.format(
            video_key=IMAGES + name, chunk_index=chunk, file_index=file
        )
        self._videos[name] = VideoFile(
            path, self._fps, width, height, DEPTH if name in self._depths else self._codec
        )

    def _append(self, columns: dict[str, pa.Array]) -> tuple[int, int]:
        """Append a row group; return chunk and file index of its file."""
        table = pa.table(columns)
        if self._table is None or self._table_bytes > self._limits[0]:
            if self._table:
                self._table.close()
            self._table_file, self._table_bytes = self._table_file + 1, 0
            chunk, file = _place(self._table_file)
            path = self._root / layout.DATA.format(chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._table = pq.ParquetWriter(path, table.schema)
        self._table.write_table(table)
        self._table_bytes += table.nbytes
        return _place(self._table_file)

    def _features(self) -> dict:
        colour = {name: size for name, size in self._cameras.items() if name not in self._depths}
        found = layout.features(self._joints, colour, self._fps, self._codec)
        if self._effort:
            found[layout.EFFORT] = found[STATE]
        return found | {
            IMAGES + name: depth.feature(*size, self._fps) for name, size in self._depths.items()
        }

    def _close(self) -> None:
        for video in self._videos.values():
            video.close()
        self._videos.clear()
        if self._table:
            self._table.close()
            self._table = None

    def _write_json(self, path: Path, content: dict) -> None:
        (self._root / path).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _place(file: int) -> tuple[int, int]:
    """Return chunk and file index of the n-th file."""
    return divmod(file, layout.FILES_PER_CHUNK)
