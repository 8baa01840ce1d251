"""Episode bags as one set of training arrays, decoded once and then mapped from disk.

dataset = load_dataset(find_episodes("out/demos"), contract, size=96, cache="out/cache")
"""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sf_policy_node.contract import Contract
from sf_policy_node.vla import preprocessing
from sf_policy_node.vla.preprocessing import Fit
from sf_training.data import episode_arrays, synchronisation, targets
from sf_training.data.cache import ArrayStore
from sf_training.data.episode_arrays import EpisodeArrays, load_episode
from sf_training.data.episode_reader import BagError, EpisodeReader, find_episodes

__all__ = ["BagError", "Dataset", "EpisodeInfo", "find_episodes", "load_dataset"]

_POOL_FROM = 8  # episodes: below, starting processes costs more than it saves
_RULES = (preprocessing, synchronisation, targets, episode_arrays)  # a change in these makes cached arrays stale


@dataclass(frozen=True)
class EpisodeInfo:
    """Where observations come from; ``frames`` is their number."""

    name: str
    path: str
    instruction: str
    operator: str
    outcome: str
    checksum: str
    frames: int


@dataclass(frozen=True)
class Dataset:
    """N observations with V cameras, J joints; P labels of H rows and A columns. Large arrays may be mapped from disk.

    Attributes:
        images: (N, V, 3, S, S) uint8 RGB, prepared as for the policy.
        depth: (N, V, S, S) float16 along the optical axis, same crop [m]; NaN where unknown; None when not asked for.
        joint_positions: (N, J) float32, measured, in the order of ``contract.command_joints`` [rad, m].
        stamps: (N,) float64, time of each observation: its oldest image [s].
        intrinsics: (N, V, 3, 3) float32, camera matrix of the prepared image [pixels]; NaN where unknown.
        camera_poses: (N, V, 4, 4) float32, optical frame in the base frame [m]; NaN where unknown.
        episode: (N,) int32, index into ``episodes``.
        episodes: what was read.
        pair_frame: (P,) int32, index of the observation.
        pair_instruction: (P,) int32, index into ``instructions``.
        pair_target: (P, H, A) float32, as the rows of ``sf_msgs/ActionChunk``.
        instructions: each text once.
        digest: changes with everything that the data depend on.
    """

    images: np.ndarray
    depth: np.ndarray | None
    joint_positions: np.ndarray
    stamps: np.ndarray
    intrinsics: np.ndarray
    camera_poses: np.ndarray
    episode: np.ndarray
    episodes: list[EpisodeInfo]
    pair_frame: np.ndarray
    pair_instruction: np.ndarray
    pair_target: np.ndarray
    instructions: list[str]
    digest: str

    def frames_of(self, episodes: Sequence[int] | np.ndarray) -> np.ndarray:
        """Indices of the observations of some episodes."""
        return np.flatnonzero(np.isin(self.episode, episodes))

    def pairs_of(self, episodes: Sequence[int] | np.ndarray) -> np.ndarray:
        """Indices of the labels of some episodes."""
        return np.flatnonzero(np.isin(self.episode[self.pair_frame], episodes))


def load_dataset(
    bags: Sequence[str | Path],
    contract: Contract,
    *,
    size: int | tuple[int, int],
    fit: Fit = "crop",
    depth: bool = True,
    outcomes: Sequence[str] = ("success",),
    cache: str | Path | None = None,
    workers: int = 2,
    progress: bool = True,
) -> Dataset:
    """Read episodes, or map what an earlier call with the same bags, contract and options left in ``cache``.

    Args:
        bags: episode directories, see :func:`find_episodes`.
        contract: every bag must have been recorded with it.
        size: side of the prepared images, or (height, width) [pixels].
        fit: how a picture of another shape is fitted.
        depth: keep depth for the teacher.
        outcomes: episodes with another outcome are skipped.
        cache: folder; None keeps everything in memory.
        workers: processes that decode. They are started afresh, so a script needs ``if __name__ == "__main__":``.
        progress: show a bar while decoding.

    Raises:
        BagError: a bag cannot be used, or none has a wanted outcome.
    """
    readers = [EpisodeReader(bag, contract) for bag in bags]
    readers = [reader for reader in readers if reader.outcome in outcomes]
    if not readers:
        raise BagError(f"none of {len(bags)} episodes has the outcome {' or '.join(outcomes)}; record some, or ask for other outcomes")
    store = ArrayStore(cache, key := _key(readers, contract, size, fit, depth))
    if not store.complete:
        with store.building():
            _build(store, readers, size, fit, depth, workers, progress)
    arrays, notes = store.load()
    return Dataset(
        **{name: arrays[name] for name in ("images", "joint_positions", "stamps", "intrinsics", "camera_poses", "episode")},
        **{name: arrays[name] for name in ("pair_frame", "pair_instruction", "pair_target")},
        depth=arrays.get("depth"),
        # Paths are those of this call: bags may have moved since the cache was made.
        episodes=[
            EpisodeInfo(reader.name, str(reader.path), reader.instruction, reader.operator, reader.outcome, reader.checksum, frames)
            for reader, frames in zip(readers, notes["frames"], strict=True)
        ],
        instructions=notes["instructions"],
        digest=key,
    )


def _build(
    store: ArrayStore, readers: list[EpisodeReader], size: int | tuple[int, int], fit: Fit, depth: bool, workers: int, progress: bool
) -> None:
    instructions: dict[str, int] = {}
    frames: list[int] = []
    columns = (TextColumn("decoding episodes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        for arrays in bar.track(_decoded(readers, size, fit, depth, workers), total=len(readers)):
            count = len(arrays.stamps)
            offset = sum(frames)
            store.append("images", arrays.images)
            if arrays.depth is not None:
                store.append("depth", arrays.depth)
            for name in ("joint_positions", "stamps", "intrinsics", "camera_poses"):
                store.append(name, getattr(arrays, name))
            store.append("episode", np.full(count, len(frames), np.int32))
            texts = [instructions.setdefault(text, len(instructions)) for text in arrays.pairs.instructions]
            store.append("pair_frame", (arrays.pairs.frame + offset).astype(np.int32))
            store.append("pair_instruction", np.array(texts, np.int32))
            store.append("pair_target", arrays.pairs.targets)
            frames.append(count)
    store.note({"frames": frames, "instructions": list(instructions)})


def _decoded(readers: list[EpisodeReader], size: int | tuple[int, int], fit: Fit, depth: bool, workers: int) -> Iterator[EpisodeArrays]:
    """Arrays of each episode, in order."""
    if workers <= 1 or len(readers) < _POOL_FROM:
        yield from (load_episode(reader, size, depth=depth, fit=fit) for reader in readers)
        return
    # Not forked: the parent may hold threads of ROS or torch.
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        try:
            yield from pool.map(_decode, readers, [size] * len(readers), [fit] * len(readers), [depth] * len(readers))
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(reader: EpisodeReader, size: int | tuple[int, int], fit: Fit, depth: bool) -> EpisodeArrays:
    return load_episode(reader, size, depth=depth, fit=fit)


def _key(readers: list[EpisodeReader], contract: Contract, size: int | tuple[int, int], fit: Fit, depth: bool) -> str:
    """Changes with everything that the arrays depend on."""
    parts = {
        "bags": [[reader.checksum, reader.instruction] for reader in readers],
        "contract": contract.hash,
        "size": size,
        "fit": fit,
        "depth": depth,
        "rules": [hashlib.sha256(inspect.getsource(module).encode()).hexdigest() for module in _RULES],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
