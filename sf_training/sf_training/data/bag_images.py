"""Index the images of many episodes like an array; they are read from the bags on demand.

Prepared images can be cached on disk. A cached image costs one read instead of decode and resize.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sf_policy_node.perception import images
from sf_policy_node.vla import preprocessing
from sf_policy_node.vla.preprocessing import Fit, prepare, prepare_depth
from sf_training.data.bag_files import BagError
from sf_training.data.code_hash import code_hash
from sf_training.data.episode_cameras import checked_size
from sf_training.data.episode_index import EpisodeIndex
from sf_training.data.episode_reader import EpisodeReader
from sf_training.data.image_store import ImageStore
from sf_training.recording.topics import absolute

Kind = Literal["colour", "depth"]


@dataclass(frozen=True)
class Source:
    """One episode of a data set.

    Attributes:
        reader: decodes its images.
        index: locates its images in the bag.
        key: names its cache file; changes with the bag.
    """

    reader: EpisodeReader
    index: EpisodeIndex
    key: str


class BagImages:
    """Prepared images of all observations of some episodes.

    ``images[indices]`` reads the chosen observations, in any order; ``np.asarray(images)`` reads
    all. The object can be pickled. With F observations and V cameras, colour is (F, V, 3, H, W)
    uint8 RGB, black where a camera is missing; depth is (F, V, H, W) float16 [m] with NaN where
    unknown.

    Args:
        kind: colour or depth.
        size: (height, width) of a prepared image.
        fit: how an image with another aspect ratio is fitted.
        cache: folder for prepared images; None decodes them each time.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        kind: Kind,
        size: tuple[int, int],
        fit: Fit,
        cache: Path | None = None,
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
        self._stores: list[ImageStore] | None = None
        if cache is not None:
            end = f"{_prepared_by()[:8]}.{kind}_{size[0]}x{size[1]}_{fit}"
            self._stores = [
                ImageStore(
                    cache / f"{source.key}.{end}", len(source.index.stamps), self._row, self.dtype
                )
                for source in sources
            ]

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, V, 3, H, W) of colour, (F, V, H, W) of depth."""
        return (int(self._starts[-1]), *self._row)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(len(self))].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read what an array index selects; only the first axis decides which images are read.

        Raises:
            BagError: an image cannot be decoded, or its file was changed or removed.
        """
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        frames = np.arange(len(self))[first]
        prepared = np.empty((frames.size, *self._row), self.dtype)
        self._read(frames.ravel(), prepared)
        prepared = prepared.reshape(*frames.shape, *self._row)
        return prepared[(slice(None),) * frames.ndim + rest] if rest else prepared

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
        """Decode images of one episode into ``out[rows]``, in the order of the file, so that each
        chunk is decompressed once.
        """
        reader, index = source.reader, source.index
        locations = (index.colour if self._kind == "colour" else index.depth)[frames]
        cameras = reader.contract.cameras
        order = np.lexsort((locations[..., 1].ravel(), locations[..., 0].ravel()))
        try:
            with reader.random_access(index.blocks) as access:
                for number, view in zip(*np.unravel_index(order, locations.shape[:2]), strict=True):
                    location, camera = locations[number, view].tolist(), cameras[view]
                    if location[0] < 0:
                        out[rows[number], view] = 0 if self._kind == "colour" else np.nan
                        continue
                    topic = absolute(camera.topic if self._kind == "colour" else camera.depth_topic)
                    pixels = checked_size(
                        reader, camera, topic, reader.image(topic, access.read(*location))
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
                    f"{reader.file}: was removed after training had started; put it back"
                ) from None
            raise


def _prepared_by() -> str:
    """Return a hash of the code that prepares images, so that cached ones follow its changes."""
    return code_hash(images, preprocessing)


def images_key(size: tuple[int, int], fit: Fit) -> str:
    """Return a key of everything except the recordings that prepared images depend on."""
    return f"{_prepared_by()}{size}{fit}"
