"""Demonstrations as arrays, and how batches are drawn from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.perception.robot_state import robot_state
from sf_policy_node.vla.preprocessing import Fit
from sf_training.data.cache_folder import cache_folder
from sf_training.data.dataset import IDLE_S, EpisodeInfo, load_dataset
from sf_training.data.episode_reader import find_episodes
from sf_training.data.opening import VERDICTS, LeftOut, say_left_out
from sf_training.spatial_forcing.teachers import View
from sf_training.training.settings import TrainingError


@dataclass(frozen=True)
class TrainingSet:
    """F frames of V cameras, with L labels: a label is an instruction and the chunk that follows it
    from one frame.

    A frame has one label for each thing that could have been asked for there (contrastive
    relabelling), so that the same image stands beside different instructions and only language
    tells which chunk is right.
    """

    images: (
        np.ndarray
    )  # (F, V, 3, H, W) uint8; an array, or anything that has this shape and gives images[indices]
    states: np.ndarray  # (F, N) float64
    episodes: np.ndarray  # (F,) int
    label_frame: np.ndarray  # (L,) int, ascending
    label_text: np.ndarray  # (L,) int, index into texts
    label_chunk: np.ndarray  # (L, H, A) float32
    texts: tuple[str, ...]
    depth: np.ndarray | None  # (F, V, H, W) [m]; as images
    views: tuple[View, ...] | None  # one per camera
    digest: str = ""  # of the recordings, their labels and the rules that made this of them
    left_out: list[LeftOut] = field(
        default_factory=list
    )  # episodes that should have been used and cannot be
    notes: list[str] = field(default_factory=list)  # what is odd in the others
    outcomes: Mapping[str, int] = field(default_factory=dict)  # of all episodes that were looked at
    sources: tuple[EpisodeInfo, ...] = ()  # what was read

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

    def part(self, episodes: np.ndarray) -> np.ndarray:
        """Indices of the labels that belong to the given episodes."""
        return np.flatnonzero(np.isin(self.episodes[self.label_frame], episodes))


class ContrastiveSampler:
    """Draws frames with two different instructions each, and frames that have only one.

    Where the data lack one of the two kinds, all of a batch comes from the other.

    Args:
        source: (F,) number of the data source of each frame; with ``weights`` only.
        weights: share of the draws of each source; None draws each frame as often.
        label_frame: (L,) frame of each label that may be drawn.
        labels: (L,) index of each such label in the training set.
        pairs: frames in a batch that bring two labels.
        singles: frames in a batch that bring their only label.
        seed: of the draw; ``state`` makes it resumable.
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
        weights: Sequence[float] | None = None,
    ) -> None:
        order = np.argsort(label_frame, kind="stable")
        self._labels = labels[order]
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
        self.pairs, self.singles = pairs, singles  # frames of each kind in a batch
        self._rng = np.random.default_rng(seed)
        self._chances = {}
        if weights:
            for name, pool in (("several", self._several), ("one", self._one)):
                self._chances[name] = _chances(
                    source[self._frames[pool]], np.asarray(weights, float)
                )

    def draw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames (F,), for each of B rows its index into them (B,), and the rows' labels (B,); B =
        2 * pairs + singles.
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
        """State of the random draw, plain values."""
        return self._rng.bit_generator.state

    @state.setter
    def state(self, value: dict) -> None:
        self._rng.bit_generator.state = value


def _chances(source: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Chance of each frame: those of one source share its weight; sources without a frame leave
    theirs to the others.
    """
    counts = np.bincount(source, minlength=len(weights))
    chances = weights[source] / counts[source]
    return chances / chances.sum()


def source_of(sources: Sequence[EpisodeInfo], folders: Sequence[Path]) -> np.ndarray:
    """Return for each episode the number of the folder in which it lies, the first one that holds
    it.

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
    keep_pictures: bool = True,
    verdicts: Sequence[str] = VERDICTS,
    strict: bool = False,
) -> tuple[Contract, TrainingSet]:
    """All successful episodes below ``folder``, or several of them, with the contract that they
    share.

    Args:
        size, fit: of the pictures, as the model's configuration has them.
        contract: of the robot that the data is for; None takes the one in the first bag. Bags of
            other recorders need one with ``bags``.
        idle_s: of a pause of the operator, labels are made for this long [s].
        cache: folder for indices and prepared pictures; None takes ``.cache`` in the (first) folder
            of the episodes
            (``data/cache_folder``).
        keep_pictures: whether pictures that were prepared once are kept there: faster from the
            second time on, for disk.
        verdicts: of the recorder; episodes with another one are left out.
        strict: whether an episode that cannot be used, or in which something is odd, is an error;
            otherwise it is named on the console.

    Raises:
        BagError: there are no bags, or none can be used; with ``strict``, one cannot.
        TrainingError: they hold nothing to learn from.
    """
    folders = [folder] if isinstance(folder, (str, Path)) else list(folder)
    episodes = list(dict.fromkeys(episode for each in folders for episode in find_episodes(each)))
    options = {
        "idle_s": idle_s,
        "cache": cache or cache_folder(folders[0]),
        "keep_pictures": keep_pictures,
        "verdicts": verdicts,
    }
    dataset = load_dataset(
        episodes,
        contract,
        size=size,
        fit=fit,
        depth=True,
        outcomes=("success",),
        strict=strict,
        **options,
    )
    contract = dataset.contract
    say_left_out(console, dataset.left_out, dataset.notes, folders)
    if dataset.idle_labels:
        console.print(
            f"{dataset.idle_labels} labels left out: the operator had not moved for over"
            f" {idle_s:g} s",
            highlight=False,
        )
    kinematics = kinematics_of(contract)
    states = np.stack(
        [robot_state(contract, kinematics, joints) for joints in dataset.joint_positions]
    )
    known = np.isfinite(dataset.camera_poses).all() and np.isfinite(dataset.intrinsics).all()
    views = tuple(
        View(
            dataset.intrinsics[:, v],
            dataset.camera_poses[:, v, :3, :3],
            dataset.camera_poses[:, v, :3, 3],
        )
        for v in range(len(contract.cameras))
    )
    usable = dataset.depth is not None and known
    if not usable:
        console.print(
            "no depth or no camera poses in the bags: teachers pointmap and mean are not available"
        )
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
        digest=dataset.digest,
        left_out=dataset.left_out,
        notes=dataset.notes,
        outcomes=dataset.outcomes,
        sources=tuple(dataset.episodes),
    )
