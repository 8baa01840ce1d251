"""Pictures of many episodes, read from the bags when they are asked for: indexable like an array
that would not fit into memory.

A picture that was prepared once may be kept beside the data: from then on it is one read from the
disk.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sf_policy_node.perception import images
from sf_policy_node.vla import preprocessing
from sf_policy_node.vla.preprocessing import Fit, prepare, prepare_depth
from sf_training.data.bag_files import BagError
from sf_training.data.episode_cameras import checked_size
from sf_training.data.episode_index import EpisodeIndex
from sf_training.data.episode_reader import EpisodeReader
from sf_training.data.picture_store import PictureStore
from sf_training.recording.topics import absolute

Kind = Literal["colour", "depth"]


@dataclass(frozen=True)
class Source:
    """An episode: how it is read, where its pictures lie, and a name for these that changes with
    them.
    """

    reader: EpisodeReader
    index: EpisodeIndex
    key: str


class BagImages:
    """Pictures (F, V, 3, H, W) uint8, or depth (F, V, H, W) float16 [m] with NaN where unknown, of
    all observations of some episodes.

    ``images[indices]`` reads those asked for, in any order; ``np.asarray(images)`` reads them all.
    It can be handed to other processes.

    Args:
        size: (height, width) of a prepared picture.
        kept: folder in which prepared pictures are kept; None decodes them each time.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        kind: Kind,
        size: tuple[int, int],
        fit: Fit,
        kept: Path | None = None,
    ) -> None:
        self._sources, self._kind, self._size, self._fit = list(sources), kind, size, fit
        self._starts = np.cumsum([0, *(len(source.index.stamps) for source in sources)])
        contract = sources[0].reader.contract
        self._row = (
            (len(contract.cameras), 3, *size)
            if kind == "colour"
            else (len(contract.cameras), *size)
        )
        self.dtype = np.dtype(np.uint8 if kind == "colour" else np.float16)
        self._stores: list[PictureStore] | None = None
        if kept is not None:
            end = f"{_prepared_by()[:8]}.{kind}_{size[0]}x{size[1]}_{fit}"
            self._stores = [
                PictureStore(
                    kept / f"{source.key}.{end}", len(source.index.stamps), self._row, self.dtype
                )
                for source in sources
            ]

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, V, 3, H, W), or (F, V, H, W) of depth."""
        return (int(self._starts[-1]), *self._row)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[np.arange(len(self))].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index) -> np.ndarray:
        """As of an array: the first axis chooses what is read.

        Raises:
            BagError: a picture cannot be decoded, or its file has changed or vanished.
        """
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        frames = np.arange(len(self))[first]
        pictures = np.empty((frames.size, *self._row), self.dtype)
        self._read(frames.ravel(), pictures)
        pictures = pictures.reshape(*frames.shape, *self._row)
        return pictures[(slice(None),) * frames.ndim + rest] if rest else pictures

    def _read(self, frames: np.ndarray, out: np.ndarray) -> None:
        episodes = np.searchsorted(self._starts, frames, side="right") - 1
        for episode in np.unique(episodes).tolist():
            rows = np.flatnonzero(episodes == episode)
            local = frames[rows] - self._starts[episode]
            store = self._stores[episode] if self._stores else None
            missing = store.read(local, rows, out) if store else np.ones(len(rows), bool)
            if missing.any():
                self._decode(self._sources[episode], local[missing], rows[missing], out)
                if store:
                    store.write(local[missing], out[rows[missing]])

    def _decode(
        self, source: Source, frames: np.ndarray, rows: np.ndarray, out: np.ndarray
    ) -> None:
        """Pictures of one episode, in the order in which they lie in its file."""
        reader, index = source.reader, source.index
        places = (index.colour if self._kind == "colour" else index.depth)[frames]
        cameras = reader.contract.cameras
        order = np.lexsort((places[..., 1].ravel(), places[..., 0].ravel()))
        try:
            with reader.places(index.blocks) as blocks:
                for number, view in zip(*np.unravel_index(order, places.shape[:2]), strict=True):
                    place, camera = places[number, view].tolist(), cameras[view]
                    if place[0] < 0:
                        out[rows[number], view] = np.nan
                        continue
                    topic = absolute(camera.topic if self._kind == "colour" else camera.depth_topic)
                    pixels = checked_size(
                        reader, camera, topic, reader.picture(topic, blocks.read(*place))
                    )
                    if self._kind == "colour":
                        out[rows[number], view] = prepare(
                            {camera.name: pixels}, [camera.name], self._size, self._fit
                        )[0]
                    else:
                        out[rows[number], view] = prepare_depth(pixels, self._size, self._fit)
        except BagError:
            if any(not file.exists() for file in reader.bag.files):
                raise BagError(
                    f"{reader.file}: cannot be read any more; it was there when training began, put"
                    " it back"
                ) from None
            raise


def _prepared_by() -> str:
    """Changes with the code that makes prepared pictures of recorded ones."""
    return hashlib.sha256(
        (inspect.getsource(images) + inspect.getsource(preprocessing)).encode()
    ).hexdigest()


def pictures_key(size: tuple[int, int], fit: Fit) -> str:
    """Changes with everything but the recordings that prepared pictures depend on."""
    return f"{_prepared_by()}{size}{fit}"
