"""Demonstrations as arrays, and the sampler that draws batches from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.perception.robot_state import robot_state
from sf_policy_node.vla.preprocessing import Fit
from sf_training.data.cache_folder import cache_folder
from sf_training.data.dataset import IDLE_S, EpisodeInfo, load_dataset
from sf_training.data.episode_reader import find_episodes
from sf_training.data.opening import VERDICTS, LeftOut, print_left_out
from sf_training.spatial_forcing.teachers import View
from sf_training.training.settings import TrainingError


@dataclass(frozen=True)
class TrainingSet:
    """F frames of V cameras with L labels; a label is an instruction and the chunk after one frame.

    A frame has one label for each instruction that could have been given there (contrastive
    relabelling). The same image then appears with different instructions, and only language
    determines which chunk is correct.

    Attributes:
        images: (F, V, 3, H, W) uint8: an array, or an object with this shape and
            ``images[indices]``; black where a camera is missing.
        states: (F, N) float64.
        episodes: (F,) index of the episode of each frame.
        label_frame: (L,) frame of each label.
        label_text: (L,) index into ``texts``.
        label_chunk: (L, H, A) float32.
        texts: the different instructions.
        depth: (F, V, H, W) [m], an array or an object as ``images``; None where not recorded.
        efforts: (F, J) measured of each command joint [N m, N], NaN where unknown; None where not
            recorded. No model reads them.
        views: geometry of each camera; None where unknown.
        digest: of the recordings, their labels and the rules that make the arrays from them.
        left_out: episodes that should have been used and cannot be.
        notes: irregularities in the used episodes.
        outcomes: number of episodes found, by outcome.
        sources: episodes that were read.
        present: (F, V) bool, False where a camera is missing; None: no camera is missing.
    """

    images: Any
    states: np.ndarray
    episodes: np.ndarray
    label_frame: np.ndarray
    label_text: np.ndarray
    label_chunk: np.ndarray
    texts: tuple[str, ...]
    depth: Any
    views: tuple[View, ...] | None
    efforts: np.ndarray | None = None
    digest: str = ""
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    sources: tuple[EpisodeInfo, ...] = ()
    present: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.label_frame):
            raise TrainingError(
                "the data hold no labelled frame: record successful episodes, or check their topics"
                " with `lint`"
            )
        if not np.isfinite(self.label_chunk).all() or not np.isfinite(self.states).all():
            raise TrainingError(
                "the data hold a state or an action that is not finite: remove that episode"
            )

    @property
    def labels(self) -> np.ndarray:
        """Return the indices (L,) of all labels."""
        return np.arange(len(self.label_frame))

    def labels_of(self, episodes: np.ndarray) -> np.ndarray:
        """Return the indices of the labels that belong to the given episodes."""
        return np.flatnonzero(np.isin(self.episodes[self.label_frame], episodes))


class ContrastiveSampler:
    """Draws frames with two different instructions each, and frames with one.

    Where the data have only one of the two, the whole batch comes from it.

    Args:
        label_frame: (L,) frame of each label that may be drawn.
        labels: (L,) index of each such label in the training set.
        pairs: frames in a batch that contribute two labels.
        singles: frames in a batch that contribute their only label.
        seed: of the draws; ``state`` makes them resumable.
        source: (F,) data source of each frame; only with ``source_weights``.
        source_weights: share of the draws of each source; None draws all frames with equal
            probability.
    """

    def __init__(
        self,
        label_frame: np.ndarray,
        labels: np.ndarray,
        pairs: int,
        singles: int,
        seed: int,
        *,
        source: np.ndarray | None = None,
        source_weights: Sequence[float] | None = None,
    ) -> None:
        order = np.argsort(label_frame, kind="stable")
        self._labels = labels[order]
        self._starts: np.ndarray
        self._frames, self._starts, self._counts = np.unique(
            label_frame[order], return_index=True, return_counts=True
        )
        self._several, self._one = (
            np.flatnonzero(self._counts > 1),
            np.flatnonzero(self._counts == 1),
        )
        if not len(self._several):
            pairs, singles = 0, 2 * pairs + singles
        elif not len(self._one):
            pairs, singles = pairs + (singles + 1) // 2, 0
        self.pairs, self.singles = pairs, singles  # in a batch
        self._rng = np.random.default_rng(seed)
        self._chances = {}
        if source_weights:
            assert source is not None
            for name, pool in (("several", self._several), ("one", self._one)):
                self._chances[name] = _chances(
                    source[self._frames[pool]], np.asarray(source_weights, float)
                )

    def draw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw a batch of B = 2 * pairs + singles labels.

        Returns:
            Frames (pairs + singles,); for each label the index of its frame among them (B,); the
            labels (B,).
        """
        several = self._pick("several", self._several, self.pairs)
        one = self._pick("one", self._one, self.singles)
        two = [
            self._starts[index] + self._rng.permutation(self._counts[index])[:2]
            for index in several
        ]
        rows = np.concatenate(
            [np.repeat(np.arange(self.pairs), 2), self.pairs + np.arange(self.singles)]
        )
        labels = np.concatenate([*two, self._starts[one]]).astype(int)
        return self._frames[np.concatenate([several, one])], rows, self._labels[labels]

    def _pick(self, name: str, pool: np.ndarray, count: int) -> np.ndarray:
        if not count:
            return np.empty(0, int)
        if name in self._chances:
            return self._rng.choice(pool, count, p=self._chances[name])
        return pool[self._rng.integers(0, len(pool), count)]

    @property
    def state(self) -> dict:
        """State of the random generator, plain values."""
        return dict(self._rng.bit_generator.state)

    @state.setter
    def state(self, value: dict) -> None:
        self._rng.bit_generator.state = value


def _chances(source: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the probability of each frame: the frames of one source share its weight.

    Sources without a frame leave their share to the others.
    """
    counts = np.bincount(source, minlength=len(weights))
    chances = weights[source] / counts[source]
    return chances / chances.sum()


def source_of(sources: Sequence[EpisodeInfo], folders: Sequence[Path]) -> np.ndarray:
    """Return the data source, an index into ``folders``, of each episode.

    Raises:
        TrainingError: a folder holds no episode that is used.
    """
    roots = [os.path.realpath(folder) for folder in folders]
    inside = [
        [os.path.commonpath([root, os.path.realpath(each.path)]) == root for root in roots]
        for each in sources
    ]
    found = np.array([row.index(True) if True in row else 0 for row in inside], int)
    if empty := [str(folder) for number, folder in enumerate(folders) if number not in found]:
        raise TrainingError(
            f"--data {empty[0]}: holds no episode that is used, so --data-weights cannot give it a"
            " share; leave it out"
        )
    return found


def load_training_set(
    folder: Path | Sequence[Path],
    size: int | tuple[int, int],
    console: Console,
    *,
    fit: Fit = "crop",
    contract: Contract | None = None,
    idle_s: float = IDLE_S,
    cache: Path | None = None,
    cache_images: bool = True,
    verdicts: Sequence[str] = VERDICTS,
    strict: bool = False,
    depth: bool = True,
) -> tuple[Contract, TrainingSet]:
    """Load all successful episodes below one or several folders, with the contract that they share.

    Args:
        size, fit: of the images, as in the model's configuration.
        contract: of the recorded robot; None takes the one in the first bag. Bags of other
            recorders need one with ``bags``.
        idle_s: during a pause of the operator, labels are made for this time [s].
        cache: folder of indices and prepared images; None takes ``.cache`` in the (first) folder of
            the episodes (``data/cache_folder``).
        cache_images: whether prepared images are saved there: faster from the second pass on, for
            disk space.
        verdicts: of the recorder; episodes with another verdict are left out.
        strict: whether an episode that cannot be used, or has an irregularity, is an error;
            otherwise it is reported on the console.
        depth: whether depth is needed, by the teacher.

    Raises:
        BagError: there are no bags, or none can be used; with ``strict``, one cannot.
        TrainingError: the bags hold no label.
    """
    folders = [folder] if isinstance(folder, (str, Path)) else list(folder)
    episodes = list(dict.fromkeys(episode for each in folders for episode in find_episodes(each)))
    dataset = load_dataset(
        episodes,
        contract,
        size=size,
        fit=fit,
        depth=depth,
        outcomes=("success",),
        strict=strict,
        idle_s=idle_s,
        cache=cache or cache_folder(folders[0]),
        cache_images=cache_images,
        verdicts=verdicts,
    )
    common = dataset.contract
    assert common is not None  # load_dataset takes it from the first bag
    print_left_out(console, dataset.left_out, dataset.notes, folders)
    if dataset.idle_labels:
        console.print(
            f"{dataset.idle_labels} labels left out: the operator had not moved for over"
            f" {idle_s:g} s",
            highlight=False,
        )
    kinematics = kinematics_of(common)
    states = np.stack(
        [robot_state(common, kinematics, joints) for joints in dataset.joint_positions]
    )
    # A missing camera has no geometry; any finite one does, because its targets are masked.
    seen = dataset.present[..., None, None]
    poses = np.where(seen, dataset.camera_poses, np.eye(4, dtype=np.float32))
    intrinsics = np.where(seen, dataset.intrinsics, np.eye(3, dtype=np.float32))
    known = np.isfinite(poses).all() and np.isfinite(intrinsics).all()
    views = tuple(
        View(intrinsics[:, v], poses[:, v, :3, :3], poses[:, v, :3, 3])
        for v in range(len(common.cameras))
    )
    usable = dataset.depth is not None and known
    if depth and not usable:
        console.print(
            "no depth or no camera poses in the bags: teachers pointmap and mean are not available"
        )
    return common, TrainingSet(
        images=dataset.images,
        states=states,
        episodes=np.asarray(dataset.episode),
        label_frame=np.asarray(dataset.pair_frame),
        label_text=np.asarray(dataset.pair_instruction),
        label_chunk=np.asarray(dataset.pair_target),
        texts=tuple(dataset.instructions),
        depth=dataset.depth if usable else None,
        views=views if usable else None,
        efforts=dataset.joint_efforts if np.isfinite(dataset.joint_efforts).any() else None,
        digest=dataset.digest,
        left_out=dataset.left_out,
        notes=dataset.notes,
        outcomes=dataset.outcomes,
        sources=tuple(dataset.episodes),
        present=None if dataset.present.all() else dataset.present,
    )
