"""Read LeRobot datasets of v2.0 to v3.x, written by this suite or by others, without lerobot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa

from sf_training.lerobot import depth, instructions, layout
from sf_training.lerobot.dataset_info import (
    FETCH,
    column_names,
    depth_information,
    image_size,
    read_info,
    reading,
    short_name,
)
from sf_training.lerobot.episode_list import EpisodeEntry, list_episodes, read_table, video_location
from sf_training.lerobot.instructions import Instructions, Level, segments
from sf_training.lerobot.layout import ACTION, STATE, LeRobotError
from sf_training.lerobot.video import as_rgb, read_frames


@dataclass(frozen=True)
class DatasetEpisode:
    """N frames of one episode.

    Attributes:
        index: number of the episode in the dataset.
        segments: first frame and text of each instruction, in order; the first begins at 0.
        state, action: (N, C), in the units of the dataset.
        effort: (N, C), columns as in the state, NaN where it is not finite; None if the dataset
            has none.
        timestamps: (N,) [s after its start].
        stamps: (N,) times of recording [s]; None if the dataset has none.
    """

    index: int
    segments: tuple[tuple[int, str], ...]
    state: np.ndarray
    action: np.ndarray
    timestamps: np.ndarray
    stamps: np.ndarray | None
    effort: np.ndarray | None = None

    @property
    def task(self) -> str:
        """The first instruction."""
        return self.segments[0][1]


class DatasetReader:
    """Reader of the dataset in a directory. Methods take the position of an episode, from 0.

    Attributes:
        cameras, depths: name to key of the feature.
        state_names, action_names: names of the columns; empty if the dataset has none.
        state_width, action_width: number of columns.
        episodes: number of episodes.

    Args:
        level: which texts become instructions.
        instruction: for all episodes; empty means those of the dataset.

    Raises:
        LeRobotError: the directory is not a dataset, its version is not supported, or a required
            feature is missing or broken.
    """

    def __init__(self, directory: Path, level: Level = "task", instruction: str = "") -> None:
        self.directory = directory
        self._level, self._instruction = level, instruction
        self._table: tuple[Path, tuple[str, ...], pa.Table] | None = None
        self.info_file = directory / layout.INFO
        self._info = read_info(directory)
        self.fps = self._info.fps
        self.robot = str(self._info.robot_type or "")
        self.cameras = {short_name(key): key for key in self._info.image_keys(depth=False)}
        self.depths = {short_name(key): key for key in self._info.image_keys(depth=True)}
        self.state_names, self.state_width = column_names(self.info_file, self._info, STATE)
        self.action_names, self.action_width = column_names(self.info_file, self._info, ACTION)
        self._entries = list_episodes(directory, self._info)
        self._instructions = Instructions(directory, self._info)
        self.episodes = len(self._entries)
        self._starts = np.cumsum([0, *(entry.length for entry in self._entries)])

    @property
    def has_subtasks(self) -> bool:
        """Whether frames are also labelled with subtasks."""
        return self._instructions.has_subtasks

    @property
    def effort_note(self) -> str:
        """Why the efforts of the dataset are not read; empty if they are, or it has none."""
        if layout.EFFORT not in self._info.features:
            return ""
        width = column_names(self.info_file, self._info, layout.EFFORT)[1]
        if width == self.state_width:
            return ""
        return (
            f"{self.directory}: {layout.EFFORT} has {width} columns, the state {self.state_width},"
            " so the efforts are left out"
        )

    def number(self, position: int) -> int:
        """Return the number of an episode in the dataset."""
        return self._entries[position].index

    def start_s(self, position: int) -> float:
        """Return the time [s] at which an episode begins if all are played in order, 10 s apart."""
        return float(self._starts[position]) / self.fps + 10.0 * position

    def size(self, name: str) -> tuple[int, int]:
        """Return width and height of the images of a camera, or of its depth [pixels].

        Raises:
            LeRobotError: the description of the feature is broken.
        """
        return image_size(self.info_file, self._info, (self.cameras | self.depths)[name])

    def values(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return state and action of an episode, (N, C) each.

        Raises:
            LeRobotError: its file is missing or damaged, or has other columns than info.json.
        """
        entry = self._entries[position]
        table = self._rows_of(entry, (STATE, ACTION))
        return self._matrix(entry, table, STATE, self.state_width), self._matrix(
            entry, table, ACTION, self.action_width
        )

    def episode(self, position: int) -> DatasetEpisode:
        """Return the columns of an episode.

        Raises:
            LeRobotError: its file is missing or damaged, or a value in it is not finite.
        """
        entry = self._entries[position]
        state, action = self.values(position)
        for key, values in ((STATE, state), (ACTION, action)):
            wrong = np.argwhere(~np.isfinite(values))
            if len(wrong):
                frame, column = wrong[0].tolist()
                what = f"{key} of column {column} is {values[frame, column]} at frame {frame}"
                raise LeRobotError(
                    f"{self.directory}: episode {entry.index}: {what}; remove that episode, or"
                    " correct it"
                )
        table = self._rows_of(entry, ("timestamp", layout.STAMP, *instructions.COLUMNS))
        with reading(entry.table, "times"):
            times = self._times(table, "timestamp")
            timestamps = np.arange(entry.length) / self.fps if times is None else times
            stamps = self._times(table, layout.STAMP)
        if not (np.isfinite(timestamps).all() and (np.diff(timestamps) > 0).all()):
            raise LeRobotError(
                f"{entry.table}: the timestamps of episode {entry.index} do not increase; {FETCH}"
            )
        texts = (
            [self._instruction] * entry.length
            if self._instruction
            else self._instructions.of_frames(entry, table, self._level)
        )
        return DatasetEpisode(
            entry.index,
            tuple(segments(texts)),
            state,
            action,
            timestamps,
            stamps,
            self._effort(entry),
        )

    def _effort(self, entry: EpisodeEntry) -> np.ndarray | None:
        if layout.EFFORT not in self._info.features or self.effort_note:
            return None
        values = self._matrix(
            entry, self._rows_of(entry, (layout.EFFORT,)), layout.EFFORT, self.state_width
        )
        return np.where(np.isfinite(values), values, np.nan)

    def images(self, position: int, camera: str) -> Iterator[np.ndarray]:
        """Yield all images (H, W, 3) uint8 RGB of a camera in an episode.

        Raises:
            LeRobotError: the video or an image is missing or damaged.
        """
        yield from self._frames(position, self.cameras[camera], as_rgb, _colour)

    def depth_images(self, position: int, name: str) -> Iterator[np.ndarray]:
        """Yield all depth images (H, W) float32 [m] of a camera in an episode; 0 where nothing was
        measured.

        Raises:
            LeRobotError: the video or an image is missing, damaged, or holds no depth.
        """
        key = self.depths[name]
        described = depth_information(self._info, key)
        yield from self._frames(
            position,
            key,
            lambda frame: depth.of_frame(frame, described),
            lambda data: depth.of_image_file(data, described),
        )

    def _frames(
        self,
        position: int,
        key: str,
        of_frame: Callable[[av.VideoFrame], np.ndarray],
        of_image_file: Callable[[bytes], np.ndarray | None],
    ) -> Iterator[np.ndarray]:
        """Yield the pixels of a camera, from a video or from single image files."""
        entry = self._entries[position]
        if self._info.features[key]["dtype"] == "image":
            for image in self._column(entry, self._rows_of(entry, (key,)), key).to_pylist():
                yield self._image(entry, key, image, of_image_file)
            return
        path, start = video_location(self.directory, self._info, entry, key)
        try:
            yield from read_frames(path, start, entry.length, self.fps, of_frame)
        except LeRobotError as error:
            raise LeRobotError(f"episode {entry.index}: {error}") from None

    def _rows_of(self, entry: EpisodeEntry, columns: tuple[str, ...]) -> pa.Table:
        """Return columns of an episode; those that its file lacks are left out."""
        # Cached: several episodes share a file.
        if self._table is None or self._table[:2] != (entry.table, columns):
            self._table = (
                entry.table,
                columns,
                read_table(entry.table, ["episode_index", *columns]),
            )
        table = self._table[2]
        with reading(entry.table, "rows of episodes"):
            found = np.flatnonzero(np.asarray(table["episode_index"]) == entry.index)
            count = len(found)
            if count != entry.length or found[-1] - found[0] != count - 1:
                raise LeRobotError(
                    f"{entry.table}: episode {entry.index} has {count} rows instead of"
                    f" {entry.length}; {FETCH}"
                )
            return table.slice(found[0], count)

    def _column(self, entry: EpisodeEntry, table: pa.Table, key: str) -> pa.ChunkedArray:
        if key not in table.column_names:
            raise LeRobotError(
                f"{entry.table}: has no column {key}, which {layout.INFO} lists; {FETCH}"
            )
        return table[key]

    def _matrix(self, entry: EpisodeEntry, table: pa.Table, key: str, width: int) -> np.ndarray:
        """Return (N, C) float64 from lists of equal length, or (N, 1) from numbers."""
        column = self._column(entry, table, key)
        with reading(entry.table, f"{key} of episode {entry.index}"):
            values = np.array(column.to_pylist(), np.float64).reshape(len(column), -1)
        if values.shape[1] != width:
            raise LeRobotError(
                f"{entry.table}: {key} has {values.shape[1]} columns, {layout.INFO} lists {width};"
                f" {FETCH}"
            )
        return values

    def _times(self, table: pa.Table, key: str) -> np.ndarray | None:
        if key not in table.column_names:
            return None
        return np.array(table[key].to_pylist(), np.float64).reshape(len(table))

    def _image(
        self,
        entry: EpisodeEntry,
        key: str,
        image: dict,
        read: Callable[[bytes], np.ndarray | None],
    ) -> np.ndarray:
        with reading(entry.table, f"images of {key}"):
            pixels = read(image.get("bytes") or (self.directory / image["path"]).read_bytes())
        if pixels is None:
            raise LeRobotError(
                f"{entry.table}: episode {entry.index}: {key} {image.get('path') or ''} is not an"
                f" image; {FETCH}"
            )
        return pixels


def _colour(data: bytes) -> np.ndarray | None:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:  # a damaged header can claim an impossible size
        return None
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
