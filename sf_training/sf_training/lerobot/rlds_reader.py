"""Read LIBERO datasets in RLDS format (``*_no_noops``, TFDS directories) without TensorFlow.

Joint positions and images are those of the simulation. LIBERO's own actions are commands of its
tool controller, which no joint of a robot follows: what the arm did until the next frame takes
their place, with the gripper's command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from sf_training.lerobot.dataset_reader import DatasetEpisode
from sf_training.lerobot.layout import LeRobotError
from sf_training.lerobot.tfrecord import Record, parse_example, records

LIBERO_HZ = 20.0
_FINGER_OPEN_M = 0.04  # of LIBERO's Panda hand; closed is 0
_OBSERVATION = "steps/observation/"
_JOINTS, _STATE = _OBSERVATION + "joint_state", _OBSERVATION + "state"
_ACTION, _TEXT = "steps/action", "steps/language_instruction"
_SHARD = re.compile(r"\.tfrecord-(\d{5})-of-(\d{5})$")


def is_rlds(directory: Path) -> bool:
    """Return whether a directory holds TFRecord shards."""
    return bool(_shards(directory))


class RldsReader:
    """Reader of a dataset, with the members of
    :class:`~sf_training.lerobot.dataset_reader.DatasetReader` that an import uses.

    State columns are the arm's joints [rad], then both fingers [m].

    Args:
        joints: names of the robot's command joints; used for the columns where there are as many
            arm joints, and one finger or two.
        instruction: for all episodes; empty means those of the dataset.

    Raises:
        LeRobotError: shards are missing or damaged, or the dataset has no joint positions.
    """

    has_subtasks = False
    effort_note = ""
    fps = LIBERO_HZ

    def __init__(self, directory: Path, joints: Sequence[str], instruction: str = "") -> None:
        self.directory, self._instruction = directory, instruction
        self._records = _records(directory)
        self.episodes = len(self._records)
        self._cached: tuple[int, dict] | None = None
        first = self._example(0)
        for key in (_JOINTS, _STATE, _ACTION, _TEXT):
            if key not in first:
                raise LeRobotError(
                    f"{directory}: its episodes have no {key}; only LIBERO's RLDS datasets with"
                    " joint states can be read"
                )
        names = [key.removeprefix(_OBSERVATION) for key in first if key.startswith(_OBSERVATION)]
        self.cameras = {
            name: name for name in sorted(names) if _is_image(first[_OBSERVATION + name])
        }
        self.depths: dict[str, str] = {}
        arm = self._matrix(0, _JOINTS).shape[1]
        columns = [f"joint_{number}" for number in range(arm)] + ["finger_0", "finger_1"]
        if len(joints) in (arm + 1, arm + 2):
            columns = [*joints, *columns[len(joints) :]]
        self.state_names = self.action_names = columns
        self.state_width = self.action_width = len(columns)

    def number(self, position: int) -> int:
        """Return the number of an episode, which is its position."""
        return position

    def start_s(self, position: int) -> float:
        """Return a time [s] at which an episode may begin, so that none overlap."""
        return 600.0 * position

    def size(self, name: str) -> tuple[int, int]:
        """Return width and height of the images of a camera [pixels]."""
        height, width = next(self.images(0, name)).shape[:2]
        return width, height

    def values(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return state and command (N, C) of an episode.

        A command is the next state of the arm, and open or closed for the fingers (LIBERO: -1
        opens, 1 closes).
        """
        arm, fingers = self._matrix(position, _JOINTS), self._matrix(position, _STATE)[:, -2:]
        closes = self._matrix(position, _ACTION)[:, -1:] > 0
        wide = np.array([_FINGER_OPEN_M, -_FINGER_OPEN_M])  # the second one moves the other way
        following = np.concatenate([arm[1:], arm[-1:]])
        return (
            np.concatenate([arm, fingers], axis=1),
            np.concatenate([following, np.where(closes, 0.0, wide)], axis=1),
        )

    def episode(self, position: int) -> DatasetEpisode:
        """Return the columns of an episode.

        Raises:
            LeRobotError: it is damaged, or a value is not finite.
        """
        state, action = self.values(position)
        if not (np.isfinite(state).all() and np.isfinite(action).all()):
            raise LeRobotError(
                f"{self._where(position)}: a joint or an action is not finite; leave it out"
            )
        text = self._instruction or self._example(position)[_TEXT][0].decode()
        times = np.arange(len(state)) / self.fps
        return DatasetEpisode(position, ((0, text),), state, action, times, None)

    def images(self, position: int, camera: str) -> Iterator[np.ndarray]:
        """Yield all images (H, W, 3) uint8 RGB of a camera in an episode.

        Raises:
            LeRobotError: one of them is damaged.
        """
        for frame, data in enumerate(self._example(position)[_OBSERVATION + camera]):
            try:
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            except cv2.error:
                pixels = None
            if pixels is None:
                raise LeRobotError(
                    f"{self._where(position)}: image {frame} of {camera} is damaged; fetch it again"
                )
            yield cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

    def _matrix(self, position: int, key: str) -> np.ndarray:
        """Return the values (N, C) float64 of a feature."""
        example = self._example(position)
        count, values = len(example[_TEXT]), np.asarray(example.get(key, ()), np.float64)
        if not count or not len(values) or len(values) % count:
            raise LeRobotError(
                f"{self._where(position)}: {key} has {len(values)} values for {count} steps; fetch"
                " it again"
            )
        return values.reshape(count, -1)

    def _example(self, position: int) -> dict:
        if self._cached is None or self._cached[0] != position:
            try:
                self._cached = position, parse_example(self._records[position].read())
            except ValueError as error:
                raise LeRobotError(f"{self._where(position)}: {error}; fetch it again") from None
        return self._cached[1]

    def _where(self, position: int) -> str:
        return f"{self._records[position].path}: episode {position}"


def _is_image(values: np.ndarray | list[bytes]) -> bool:
    return isinstance(values, list) and bool(values)


def _shards(directory: Path) -> list[Path]:
    """Return the shards in the directory of a version, or in the only version of a dataset."""
    found = [path for path in sorted(directory.glob("*")) if _SHARD.search(path.name)]
    return found or [path for path in sorted(directory.glob("*.*.*/*")) if _SHARD.search(path.name)]


def _number_and_count(shard: Path) -> tuple[int, int]:
    """Return the number of a shard and the number of all shards, from its name."""
    match = _SHARD.search(shard.name)
    assert match is not None  # of _shards
    return int(match[1]), int(match[2])


def _records(directory: Path) -> list[Record]:
    shards = _shards(directory)
    numbers = [_number_and_count(path) for path in shards]
    found, count = {number for number, _ in numbers}, numbers[0][1]
    missing = sorted(set(range(count)) - found)
    if missing or len(shards) != count:
        raise LeRobotError(
            f"{directory}: has {len(shards)} of {count} shards"
            + (f", number {missing[0]} is missing" if missing else " in several versions")
            + "; give the directory of one complete version"
        )
    everything = [record for path in shards for record in records(path)]
    if not everything:
        raise LeRobotError(f"{directory}: its shards hold no episode; fetch the dataset again")
    return everything
