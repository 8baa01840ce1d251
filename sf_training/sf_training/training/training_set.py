"""Demonstrations as arrays in memory, and how batches are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from sf_policy_node.contract import Contract
from sf_policy_node.motion.kinematics import Kinematics
from sf_policy_node.state import robot_state
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import EpisodeReader, find_episodes
from sf_training.spatial_forcing.teachers import View


@dataclass(frozen=True)
class TrainingSet:
    """F frames of V cameras, with L labels: a label is an instruction and the chunk that follows it from one frame.

    A frame has one label for each thing that could have been asked for there (contrastive relabelling), so that
    the same image stands beside different instructions and only language tells which chunk is right.
    """

    images: np.ndarray  # (F, V, 3, S, S) uint8
    states: np.ndarray  # (F, N) float64
    episodes: np.ndarray  # (F,) int
    label_frame: np.ndarray  # (L,) int, ascending
    label_text: np.ndarray  # (L,) int, index into texts
    label_chunk: np.ndarray  # (L, H, A) float32
    texts: tuple[str, ...]
    depth: np.ndarray | None  # (F, V, S, S) [m]
    views: tuple[View, ...] | None  # one per camera

    def __post_init__(self) -> None:
        if not len(self.label_frame):
            raise ValueError("the data hold no labelled frame: record successful episodes, or check their topics with `lint`")
        if not np.isfinite(self.label_chunk).all() or not np.isfinite(self.states).all():
            raise ValueError("the data hold a state or an action that is not finite: remove that episode")

    def part(self, episodes: np.ndarray) -> np.ndarray:
        """Indices of the labels that belong to the given episodes."""
        return np.flatnonzero(np.isin(self.episodes[self.label_frame], episodes))


class ContrastiveSampler:
    """Draws frames, and for each frame ``per_frame`` labels, different ones where the frame has them.

    Args:
        label_frame: (L,) frame of each label that may be drawn.
        labels: (L,) index of each such label in the training set.
        frames: frames in a batch.
        seed: of the draw; ``state`` makes it resumable.
    """

    def __init__(self, label_frame: np.ndarray, labels: np.ndarray, frames: int, per_frame: int, seed: int) -> None:
        order = np.argsort(label_frame, kind="stable")
        self._labels = labels[order]
        self._frames, self._starts, self._counts = np.unique(label_frame[order], return_index=True, return_counts=True)
        self._batch, self._per_frame = frames, per_frame
        self._rng = np.random.default_rng(seed)

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames (B,) and labels (B * per_frame,), grouped by frame."""
        chosen = self._rng.integers(0, len(self._frames), self._batch)
        labels = []
        for index in chosen:
            count = self._counts[index]
            picks = self._rng.permutation(count) if count >= self._per_frame else self._rng.integers(0, count, self._per_frame)
            labels.append(self._labels[self._starts[index] + picks[: self._per_frame]])
        return self._frames[chosen], np.concatenate(labels)

    @property
    def state(self) -> dict:
        """State of the random draw, plain values."""
        return self._rng.bit_generator.state

    @state.setter
    def state(self, value: dict) -> None:
        self._rng.bit_generator.state = value


def load_training_set(folder: Path, size: int, console: Console) -> tuple[Contract, TrainingSet]:
    """All successful episodes below ``folder``, decoded once and cached beside them, with the contract that they share.

    Raises:
        BagError: a bag is damaged or the bags belong to different contracts.
        ValueError: there are no episodes, or they hold nothing to learn from.
    """
    episodes = find_episodes(folder)
    if not episodes:
        raise ValueError(f"{folder}: no episode bags; record some with `ros2 run sf_training demonstrations`, or check --data")
    contract = EpisodeReader(episodes[0]).contract
    dataset = load_dataset(episodes, contract, size=size, cache=folder / ".cache", depth=True, outcomes=("success",))
    kinematics = Kinematics(contract)
    states = np.stack([robot_state(contract, kinematics, joints) for joints in dataset.joint_positions])
    known = np.isfinite(dataset.camera_poses).all() and np.isfinite(dataset.intrinsics).all()
    views = tuple(
        View(dataset.intrinsics[:, v], dataset.camera_poses[:, v, :3, :3], dataset.camera_poses[:, v, :3, 3]) for v in range(len(contract.cameras))
    )
    usable = dataset.depth is not None and known
    if not usable:
        console.print("no depth or no camera poses in the bags: teachers pointmap and mean are not available")
    return contract, TrainingSet(
        images=dataset.images,
        states=states,
        episodes=np.asarray(dataset.episode),
        label_frame=np.asarray(dataset.pair_frame),
        label_text=np.asarray(dataset.pair_instruction),
        label_chunk=np.asarray(dataset.pair_target),
        texts=tuple(dataset.instructions),
        depth=dataset.depth if usable else None,
        views=views if usable else None,
    )
