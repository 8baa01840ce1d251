"""Load episode bags as one training set: labels and states in memory, images read on demand.

dataset = load_dataset(find_episodes("out/demos"), contract, size=96, cache="out/cache")
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.vla.preprocessing import Fit
from sf_training.data.bag_images import BagImages, Source, images_key
from sf_training.data.episode_arrays import prepared_matrices
from sf_training.data.episode_index import EpisodeIndex, index_episode, index_key
from sf_training.data.episode_reader import BagError, EpisodeReader, find_episodes
from sf_training.data.opening import (
    VERDICTS,
    LeftOut,
    check_strict,
    lacking_everywhere,
    none_left,
    open_bags,
)
from sf_training.progress import ProgressBar

__all__ = ["BagError", "Dataset", "EpisodeInfo", "find_episodes", "load_dataset"]

IDLE_S = 0.5  # s of each pause of the operator that get labels
_POOL_MIN = 8  # episodes; with fewer, starting processes takes longer than indexing


@dataclass(frozen=True)
class EpisodeInfo:
    """An episode of a data set.

    Attributes:
        checksum: SHA-256 of its files.
        frames: number of its observations.
        seconds: time from the first to the last observation.
        image_digest: hash of everything that its prepared images depend on.
    """

    name: str
    path: str
    instruction: str
    operator: str
    outcome: str
    checksum: str
    frames: int
    seconds: float = 0.0
    image_digest: str = ""


@dataclass(frozen=True)
class Dataset:
    """N observations with V cameras and J joints, and P labels of H steps and A columns.

    Attributes:
        images: (N, V, 3, height, width) uint8 RGB, prepared as for the policy; ``images[indices]``
            reads them from the bags.
        present: (N, V) bool, False where the episode has no images of a camera.
        depth: (N, V, height, width) float16 [m] along the optical axis, fitted like the images; NaN
            where unknown. None if it was not requested.
        joint_positions: (N, J) float32, measured [rad, m], in the order of
            ``contract.command_joints``.
        joint_efforts: (N, J) float32, measured [N m, N]; NaN where unknown.
        stamps: (N,) float64 [s], time of the oldest image of each observation.
        intrinsics: (N, V, 3, 3) float32, camera matrix of the prepared image [pixels]; NaN where
            unknown.
        camera_poses: (N, V, 4, 4) float32, optical frame in the base frame [m]; NaN where unknown.
        episode: (N,) int32, index into ``episodes``.
        episodes: episodes that are used.
        pair_frame: (P,) int32, index of the observation.
        pair_instruction: (P,) int32, index into ``instructions``.
        pair_target: (P, H, A) float32, steps as in ``sf_msgs/ActionChunk``.
        instructions: each text once.
        digest: hash of everything that the data depend on.
        idle_labels: number of labels left out because the operator paused.
        left_out: wanted episodes that cannot be used.
        notes: one sentence for each anomaly in the episodes used.
        outcomes: outcome to number of episodes, the most frequent first.
        contract: of all episodes.
    """

    images: BagImages
    present: np.ndarray
    depth: BagImages | None
    joint_positions: np.ndarray
    joint_efforts: np.ndarray
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
    idle_labels: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    contract: Contract | None = None

    def frames_of(self, episodes: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the indices of the observations of some episodes."""
        return np.flatnonzero(np.isin(self.episode, episodes))

    def pairs_of(self, episodes: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the indices of the labels of some episodes."""
        return np.flatnonzero(np.isin(self.episode[self.pair_frame], episodes))


def load_dataset(
    bags: Sequence[str | Path],
    contract: Contract | None,
    *,
    size: int | tuple[int, int],
    fit: Fit = "crop",
    depth: bool = True,
    outcomes: Sequence[str] = ("success",),
    idle_s: float = IDLE_S,
    cache: str | Path | None = None,
    cache_images: bool = True,
    workers: int = 2,
    progress: bool = True,
    verdicts: Sequence[str] = VERDICTS,
    strict: bool = False,
) -> Dataset:
    """Open episodes and index each of them once; images stay in the bags.

    Episodes that cannot be used are left out and listed in the result. An episode without images
    of a camera is used if another one has them.

    Args:
        bags: episode directories, see :func:`find_episodes`.
        contract: with which every bag was recorded, or whose ``bags`` section says how to read it;
            None takes that of the first bag.
        size: side of the prepared images, or (height, width) [pixels].
        fit: how an image with another aspect ratio is fitted.
        depth: provide depth images, for the teacher. An observation whose depth is recorded and
            cannot be used is then left out; otherwise only its depth is.
        outcomes: episodes with another outcome are skipped.
        idle_s: how long a pause, in which the operator commands no motion, gets labels [s];
            infinity keeps all.
        cache: folder for indices and prepared images; None caches nothing.
        cache_images: cache the prepared images, too.
        workers: number of processes that index. They are spawned, so a script needs ``if __name__
            == "__main__":``.
        progress: show a progress bar.
        verdicts: episodes with another verdict of the recorder are left out.
        strict: raise on the first unusable episode or anomaly.

    Raises:
        BagError: no bag can be used, or none has a wanted outcome.
    """
    opened = open_bags(
        bags,
        contract,
        outcomes,
        verdicts,
        strict,
        allow_missing_cameras=True,
        progress=progress,
    )
    height, width = (size, size) if isinstance(size, int) else size
    image_size = (height, width)
    with ProgressBar("hashing episodes", disable=not progress, transient=True) as bar:
        all_keys = [index_key(reader) for reader in bar.track(opened.readers)]
    folder = None if cache is None else Path(cache) / "episodes"
    results = index_episodes(opened.readers, cache, workers, progress)
    if depth:
        for number, result in enumerate(results):
            if isinstance(result, EpisodeIndex):
                results[number] = found = _with_usable_depth(opened.readers[number], result)
                all_keys[number] += "" if found is result else "_depth"
    left_out = [
        LeftOut(opened.readers[number].path, result)
        for number, result in enumerate(results)
        if isinstance(result, str)
    ]
    readers, keys, indices = [], [], []
    for reader, key, result in zip(opened.readers, all_keys, results, strict=True):
        if isinstance(result, EpisodeIndex):
            readers.append(reader)
            keys.append(key)
            indices.append(result)
    notes = [
        f"{reader.path}: {note}"
        for reader, index in zip(readers, indices, strict=True)
        for note in index.notes
    ]
    check_strict(strict, left_out, notes)
    left_out = [*opened.left_out, *left_out, *(unseen := lacking_everywhere(readers))]
    if not readers or unseen:
        raise none_left(left_out, opened.count, opened.outcomes, outcomes)
    sources = [
        Source(reader, index, key)
        for reader, index, key in zip(readers, indices, keys, strict=True)
    ]
    image_cache = folder if cache_images else None
    digest_parts = [
        keys,
        [reader.outcome for reader in readers],
        images_key(image_size, fit),
        depth,
        repr(idle_s),
    ]
    return Dataset(
        images=BagImages(sources, "colour", image_size, fit, image_cache),
        depth=BagImages(sources, "depth", image_size, fit, image_cache) if depth else None,
        **_joined(
            indices,
            [
                prepared_matrices(reader.contract, index.matrices, image_size, fit)
                for reader, index in zip(readers, indices, strict=True)
            ],
        ),
        **_labels(indices, idle_s),
        episodes=[
            _information(reader, index, images_key(image_size, fit))
            for reader, index in zip(readers, indices, strict=True)
        ],
        digest=hashlib.sha256(json.dumps(digest_parts).encode()).hexdigest()[:16],
        left_out=left_out,
        notes=notes,
        outcomes=dict(opened.outcomes.most_common()),
        contract=readers[0].contract,
    )


def _with_usable_depth(reader: EpisodeReader, index: EpisodeIndex) -> EpisodeIndex | str:
    """Return the index without observations whose depth is unusable; a sentence if none is left."""
    found = index.with_usable_depth()
    if found is index:
        return index
    if lost := len(found.stamps) and len(index.stamps) - len(found.stamps):
        note = f"{lost} observations are left out, because depth is needed and theirs is unusable"
        return replace(found, notes=[*index.notes, note])
    return (
        f"{reader.path}: no observation has depth that can be used; find the reason with"
        " `python3 -m sf_training lint`, or choose a teacher without depth"
    )


def _information(reader: EpisodeReader, index: EpisodeIndex, prepared: str) -> EpisodeInfo:
    """Return the information on an episode; ``prepared`` is the key of how images are prepared."""
    images = hashlib.sha256(f"{reader.checksum} {prepared} ".encode())
    images.update(np.ascontiguousarray(index.colour).data)
    return EpisodeInfo(
        name=reader.name,
        path=str(reader.path),
        instruction=reader.instruction,
        operator=reader.operator,
        outcome=reader.outcome,
        checksum=reader.checksum,
        frames=len(index.stamps),
        seconds=float(np.ptp(index.stamps)),
        image_digest=images.hexdigest()[:24],
    )


def _joined(indices: list[EpisodeIndex], matrices: list[np.ndarray]) -> dict[str, Any]:
    counts = [len(index.stamps) for index in indices]
    return {
        "present": np.concatenate([index.colour[..., 0] >= 0 for index in indices]),
        "joint_positions": np.concatenate([index.joint_positions for index in indices]),
        "joint_efforts": np.concatenate([index.joint_efforts for index in indices]),
        "stamps": np.concatenate([index.stamps for index in indices]),
        "camera_poses": np.concatenate([index.camera_poses for index in indices]),
        "intrinsics": np.repeat(np.stack(matrices), counts, axis=0),
        "episode": np.repeat(np.arange(len(indices), dtype=np.int32), counts),
    }


def _labels(indices: list[EpisodeIndex], idle_s: float) -> dict:
    instructions: dict[str, int] = {}
    frames, texts, offset, idle = [], [], 0, 0
    targets = []
    for index in indices:
        pairs = index.pairs
        moving = pairs.idle <= idle_s
        idle += int((~moving).sum())
        frames.append(pairs.frame[moving] + offset)
        numbers = [
            instructions.setdefault(text, len(instructions))
            for text, used in zip(pairs.instructions, moving, strict=True)
            if used
        ]
        texts.append(np.array(numbers, np.int32))
        targets.append(pairs.targets[moving])
        offset += len(index.stamps)
    return {
        "pair_frame": np.concatenate(frames).astype(np.int32),
        "pair_instruction": np.concatenate(texts),
        "pair_target": np.concatenate(targets),
        "instructions": list(instructions),
        "idle_labels": idle,
    }


def index_episodes(
    readers: Sequence[EpisodeReader],
    cache: str | Path | None,
    workers: int = 2,
    progress: bool = True,
) -> list[EpisodeIndex | str]:
    """Return the index of every episode, cached or made now; a sentence for an unusable one.

    Args:
        cache: folder, as for :func:`load_dataset`.

    Raises:
        BagError: the cache cannot be written.
    """
    folder = None if cache is None else Path(cache) / "episodes"
    paths = [
        None if folder is None else folder / f"{index_key(reader)}.index" for reader in readers
    ]
    indices: list[EpisodeIndex | str | None] = [
        None if path is None else EpisodeIndex.load(path) for path in paths
    ]
    missing = [number for number, index in enumerate(indices) if index is None]
    with ProgressBar("indexing episodes", disable=not progress or not missing) as bar:
        made = _indexed([readers[number] for number in missing], workers)
        for number, index in zip(missing, bar.track(made, total=len(missing)), strict=True):
            indices[number] = index
            path = paths[number]
            if path is not None and isinstance(index, EpisodeIndex):
                _save(index, path)
    return [index for index in indices if index is not None]


def _index_or_sentence(reader: EpisodeReader) -> EpisodeIndex | str:
    try:
        return index_episode(reader)
    except BagError as error:
        return str(error)


def _save(index: EpisodeIndex, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        index.save(path)
    except OSError as error:
        cure = "free some space" if error.errno == errno.ENOSPC else "check its permissions"
        raise BagError(
            f"{path.parent}: the cache cannot be written ({error.strerror}); {cure}, or choose"
            " another folder"
        ) from None


def _indexed(readers: list[EpisodeReader], workers: int) -> Iterator[EpisodeIndex | str]:
    """Yield the indices of episodes, in their order."""
    if workers <= 1 or len(readers) < _POOL_MIN:
        yield from map(_index_or_sentence, readers)
        return
    # Spawned, not forked: the parent may have threads of ROS or torch.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        try:
            yield from pool.map(_index_or_sentence, readers, chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)
