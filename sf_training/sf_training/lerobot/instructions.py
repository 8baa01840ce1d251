"""Find the instruction in force at each frame of a LeRobot episode; group frames to segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from sf_training.lerobot.dataset_info import DatasetInfo, reading
from sf_training.lerobot.episode_list import EpisodeEntry, read_lines, read_table
from sf_training.lerobot.layout import LeRobotError

Level = Literal["task", "subtask"]
TASK, SUBTASK, PERSISTENT = "task_index", "subtask_index", "language_persistent"
COLUMNS = (TASK, SUBTASK, PERSISTENT)


class Instructions:
    """The texts of a dataset: ``tasks`` and ``subtasks`` by number.

    Raises:
        LeRobotError: a table of texts is damaged.
    """

    def __init__(self, directory: Path, info: DatasetInfo) -> None:
        self._directory = directory
        self.tasks = _texts(directory, info, "tasks", TASK, "task")
        self.subtasks = _texts(directory, info, "subtasks", SUBTASK, "subtask")
        self.has_subtasks = SUBTASK in info.features or PERSISTENT in info.features

    def of_frames(self, entry: EpisodeEntry, table: pa.Table, level: Level) -> list[str]:
        """Return the instruction in force at each frame of an episode.

        Args:
            table: frames of the episode.
            level: the task, or the subtask where there is one.

        Raises:
            LeRobotError: the number of a frame has no text, or a text is empty.
        """
        texts = self._tasks_of(entry, table)
        if level == "subtask":
            texts = self._subtasks_of(entry, table, texts)
        empty = next((frame for frame, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            raise LeRobotError(
                f"{self._at(entry)} has no instruction at frame {empty}; give one with"
                " --instruction TEXT"
            )
        return texts

    def _tasks_of(self, entry: EpisodeEntry, table: pa.Table) -> list[str]:
        if TASK in table.column_names and self.tasks:
            with reading(entry.table, TASK):
                numbers = [int(number) for number in table[TASK].to_pylist()]
            return self._looked_up(entry, numbers, self.tasks, TASK, "meta/tasks")
        if len(set(entry.tasks)) > 1:
            cure = "fetch meta/tasks and the data tables again, or give one with --instruction TEXT"
            raise LeRobotError(
                f"{self._at(entry)} has {len(entry.tasks)} tasks but no {TASK} for each frame;"
                f" {cure}"
            )
        return [entry.tasks[0] if entry.tasks else ""] * entry.length

    def _subtasks_of(self, entry: EpisodeEntry, table: pa.Table, tasks: list[str]) -> list[str]:
        if SUBTASK in table.column_names and self.subtasks:
            with reading(entry.table, SUBTASK):
                numbers = [
                    -1 if number is None else int(number) for number in table[SUBTASK].to_pylist()
                ]
            known = [number for number in numbers if number >= 0]
            self._looked_up(entry, known, self.subtasks, SUBTASK, "meta/subtasks.parquet")
            return [
                self.subtasks[number] if number >= 0 else task
                for number, task in zip(numbers, tasks, strict=True)
            ]
        if PERSISTENT in table.column_names:
            with reading(entry.table, PERSISTENT):
                return _persistent(table, tasks)
        raise LeRobotError(
            f"{self._at(entry)} has neither {SUBTASK} nor {PERSISTENT}; leave out --instructions"
            " subtask"
        )

    def _looked_up(
        self,
        entry: EpisodeEntry,
        numbers: Sequence[int],
        texts: Mapping[int, str],
        key: str,
        file: str,
    ) -> list[str]:
        unknown = next((number for number in numbers if number not in texts), None)
        if unknown is not None:
            cure = "fetch both again, or give the instruction with --instruction TEXT"
            raise LeRobotError(
                f"{self._at(entry)} has {key} {unknown}, which {file} does not hold; {cure}"
            )
        return [texts[number] for number in numbers]

    def _at(self, entry: EpisodeEntry) -> str:
        return f"{self._directory}: episode {entry.index}"


def segments(texts: Sequence[str]) -> list[tuple[int, str]]:
    """Return first frame and text of each run of equal texts."""
    changes = [0, *(frame for frame in range(1, len(texts)) if texts[frame] != texts[frame - 1])]
    return [(frame, texts[frame]) for frame in changes]


def _persistent(table: pa.Table, tasks: list[str]) -> list[str]:
    """Return the newest row of style "subtask" at each frame; the task before the first one."""
    times = (
        np.asarray(table["timestamp"], np.float64) if "timestamp" in table.column_names else None
    )
    found = []
    for frame, (rows, task) in enumerate(zip(table[PERSISTENT].to_pylist(), tasks, strict=True)):
        steps = [row for row in rows or [] if row.get("style") == "subtask" and row.get("content")]
        if times is not None:  # the tolerance covers float32: a row holds from its own frame on
            steps = [row for row in steps if row["timestamp"] <= times[frame] + 1e-4]
        steps.sort(key=lambda row: row["timestamp"])
        found.append(str(steps[-1]["content"]) if steps else task)
    return found


def _texts(directory: Path, info: DatasetInfo, name: str, key: str, text: str) -> dict[int, str]:
    """Return number to text; empty if the dataset has no such table."""
    path = directory / "meta" / (f"{name}.jsonl" if info.is_v2 else f"{name}.parquet")
    if not path.exists():
        return {}
    rows = read_lines(path) if info.is_v2 else read_table(path).to_pylist()
    with reading(path, f"a table of {name}"):
        columns = [
            column
            for column in (text, "__index_level_0__", "task", "index", "name")
            if rows and column in rows[0]
        ]
        if rows and not columns:
            raise KeyError(text)
        return {int(row[key]): str(row[columns[0]] or "") for row in rows}
