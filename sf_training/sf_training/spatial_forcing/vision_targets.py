"""Alignment targets of a data set from a frozen vision model, or from one of its controls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console

from sf_training.data.code_hash import code_hash
from sf_training.progress import counted, status
from sf_training.spatial_forcing import (
    alignment,
    cache_format,
    compression,
    depth_anything3,
    hf_teacher,
    teachers,
    vggt,
    vggt_teacher,
    vision,
)
from sf_training.spatial_forcing.alignment import AlignmentConfig, prepare_target
from sf_training.spatial_forcing.cache_format import CacheFormat
from sf_training.spatial_forcing.compression import Compression
from sf_training.spatial_forcing.depth_anything3 import DepthAnything3Teacher
from sf_training.spatial_forcing.feature_cache import (
    FeatureCache,
    StoredLayer,
    locked_folder,
)
from sf_training.spatial_forcing.hf_teacher import HfTeacher
from sf_training.spatial_forcing.teachers import TeacherError, random_code, rgb_features
from sf_training.spatial_forcing.vggt_teacher import SIDE, VggtTeacher
from sf_training.spatial_forcing.vision import Teacher
from sf_training.spatial_forcing.weights import open_weights

Control = Literal["none", "mean", "random", "rgb"]
_SAMPLE = 1024  # frames for the statistics of the rgb control
_PIXELS = 4 * 518 * 518  # of a teacher's batch
_GROWTH = 4  # of the data since the channels were chosen, from which on it is mentioned


@dataclass(frozen=True)
class Targets:
    """Alignment targets of F frames.

    Attributes:
        layers: (F, V, rows, columns, C) for each teacher layer; ``layer[frames]`` reads frames. A
            layer may be read from disk, computed when read, or one repeated frame.
        prepared: whether they are resized to the student's grid and include the position embedding.
        cosine: mean cosine between full and stored targets over all tokens; below 1 by the loss of
            compression and format.
        lowest_cosine: lowest of these cosines.
        nbytes: size on disk or in memory.
        folder: of the cache; None where in memory.
    """

    layers: tuple[np.ndarray | StoredLayer | LiveLayer, ...]
    prepared: bool = False
    cosine: float = 1.0
    lowest_cosine: float = 1.0
    nbytes: int = 0
    folder: Path | None = None


def open_teacher(
    name: Literal["vggt", "da3", "hf"],
    weights: str,
    layers: tuple[int, ...],
    *,
    size: int = 0,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Teacher:
    """Open a vision teacher with its weights.

    Args:
        weights: file, directory or hub id.
        layers: of the teacher, from 0 or from the end.
        size: longer side of its input images [pixels]; 0: as it was trained.
        device: auto takes a GPU if there is one.
        dtype: auto takes bfloat16 on a GPU, float32 elsewhere.

    Raises:
        TeacherError: the weights are missing or of another architecture, or there is no such layer.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch_dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
        dtype, torch.bfloat16 if device != "cpu" else torch.float32
    )
    if name == "vggt":
        return VggtTeacher(open_weights(weights), layers, size or SIDE, device, torch_dtype)
    if name == "da3":
        return DepthAnything3Teacher(
            open_weights(weights), layers, size or depth_anything3.SIDE, device, torch_dtype
        )
    return HfTeacher(weights, layers, size, device, torch_dtype)


def vision_targets(
    teacher: Teacher,
    images: np.ndarray,
    grid: int | tuple[int, int],
    config: AlignmentConfig,
    *,
    channels: int = 0,
    form: CacheFormat = "float16",
    control: Control = "none",
    episodes: Sequence[tuple[str, int]] | None = None,
    cache: Path | None = None,
    live: bool = False,
    area: np.ndarray | None = None,
    present: np.ndarray | None = None,
    console: Console | None = None,
) -> Targets:
    """Return the targets of a data set on the student's grid, with the position embedding.

    Each target is scaled to unit root mean square over its channels: the loss depends on directions
    only, and the values stay in the range of float16.

    Args:
        images: (F, V, 3, H, W) uint8: an array, or an object with this shape and
            ``images[indices]``.
        grid: rows and columns of the student's patches of one camera, or one number for both.
        channels: maximum number of channels of a target, see :class:`Compression`; 0 keeps all.
        form: storage format, see :data:`CacheFormat`.
        control: ``mean`` repeats the mean of the teacher's targets; ``rgb`` and ``random`` have its
            width and do not run it.
        episodes: digest of the images and number of frames of each episode, in the order of the
            frames; features are cached by episode. None: one episode, whose images are hashed.
        cache: folder of caches; None keeps everything in memory.
        live: store nothing and run the teacher each time a frame is read, for data whose features
            do not fit on the disk.
        area: (V, H, W) bool, False in letterbox bars, which the teacher sees white as in the
            paper's pi0 code. None: no bars.
        present: (F, V) bool, False where a camera is missing: the teacher does not see it, and its
            targets are zero. None: no camera is missing.
        console: shows progress.

    Raises:
        TeacherError: a feature is not finite, or the cache cannot be used.
    """
    if live and control == "mean":
        raise TeacherError(
            "control mean: the average is over all frames, so their features must be stored; take a"
            " cache"
        )
    layers = len(config.target_layers)
    size = (grid, grid) if isinstance(grid, int) else (grid[0], grid[1])
    width = min(channels or teacher.feature_size, teacher.feature_size)
    shape = (*images.shape[:2], *size, width)
    if control == "random":
        code = torch.from_numpy(random_code(images.shape[1], size, width)).float()
        return Targets(
            tuple(_repeated(_prepared(code, size, config), shape) for _ in range(layers)),
            prepared=True,
        )
    source = _Colours(images, size, width, layers, present) if control == "rgb" else teacher
    batch = max(1, _PIXELS // (source.pixels * images.shape[1]))

    area = None if area is None or source is not teacher or area.all() else area
    computed = _Computed(source, images, size, config, batch, area, present)
    if live:
        if width < source.feature_size:
            computed.compression = Compression.fit(computed.full, len(images), width)
        return Targets(
            tuple(LiveLayer(computed, number, shape) for number in range(layers)), prepared=True
        )
    bars = None if area is None else hashlib.sha256(np.packbits(area).tobytes()).hexdigest()
    key = {
        "shape": images.shape[1:],
        "teacher": source.identity,
        "grid": size,
        "position": [config.position_scale, config.position],
        "resize": config.resize,
        "channels": width,
        "format": form,
        "white": bars,
        "made_by": _made_by(),
    }
    episodes = [(_digest(images), len(images))] if episodes is None else episodes
    with locked_folder(cache, key) as folder:
        if width < source.feature_size:
            computed.compression = _fitted(computed, len(images), width, folder, console)
            episodes = [
                (_hash(digest + computed.compression.digest), count) for digest, count in episodes
            ]
        store = FeatureCache(folder, episodes, shape[1:], layers, form)
        with counted(console, "checking cached features", len(images)) as advance:
            missing = store.check(advance)
        if len(missing):
            with counted(console, "teacher features", len(missing)) as advance:
                store.fill(missing, computed.stored, batch, advance)
    found: tuple[np.ndarray | StoredLayer, ...] = store.load()
    if control == "mean":
        found = tuple(_repeated(_mean(layer), shape) for layer in found)
    return Targets(
        found, True, 1.0 - store.mean_error, 1.0 - store.largest_error, store.nbytes, folder
    )


def _fitted(
    computed: _Computed, frames: int, width: int, folder: Path | None, console: Console | None
) -> Compression:
    """Return the principal directions that the cache has, or compute them."""
    with status(console, "teacher: principal directions") if console else nullcontext():
        found = Compression.fit(
            computed.full, frames, width, None if folder is None else folder / "basis.npz"
        )
    if console and frames > _GROWTH * found.frames:
        console.print(
            f"{folder}: the {width} channels were chosen from {found.frames} frames, and the data"
            f" have {frames} now; delete this folder to choose them again",
            highlight=False,
            soft_wrap=True,
        )
    return found


class LiveLayer:
    """Features of one layer (F, V, rows, columns, C), computed when read.

    ``layer[frames]`` returns float32.

    The layers of a teacher share the last result, so reading all of them runs it once.
    """

    def __init__(self, computed: _Computed, number: int, shape: tuple[int, ...]) -> None:
        self._computed, self._number, self.shape = computed, number, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        return self._computed.last(np.asarray(frames))[self._number]

    def of(self, frames: np.ndarray, images: torch.Tensor) -> np.ndarray:
        """Return features (n, V, rows, columns, C) of augmented images (n, V, 3, H, W) in [0, 255].

        All layers are computed once for the same ``images``.
        """
        return self._computed.last(np.asarray(frames), images)[self._number]


class _Computed:
    """Computes prepared targets of any frames with a teacher."""

    def __init__(
        self,
        source: Teacher,
        images: np.ndarray,
        grid: tuple[int, int],
        config: AlignmentConfig,
        batch: int,
        area: np.ndarray | None,
        present: np.ndarray | None,
    ) -> None:
        self._present = None if present is None else torch.from_numpy(present)
        self._source, self._images, self._grid, self._config, self._batch = (
            source,
            images,
            grid,
            config,
            batch,
        )
        self._bars = None if area is None else torch.from_numpy(~area)[:, None]
        self._last: tuple[np.ndarray, list[np.ndarray], torch.Tensor | None] | None = None
        self.compression: Compression | None = None

    def full(self, frames: np.ndarray, images: torch.Tensor | None = None) -> list[np.ndarray]:
        """Return all channels (n, V, rows, columns, C) of each layer; of ``images`` where given."""
        cuts = [slice(start, start + self._batch) for start in range(0, len(frames), self._batch)]
        parts = [
            self._batch_of(frames[cut], None if images is None else images[cut]) for cut in cuts
        ]
        return [np.concatenate(layer) for layer in zip(*parts, strict=True)]

    def stored(self, frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return compressed features of each layer, and the norms of the full ones.

        See :data:`feature_cache.Compute`.
        """
        found = self.full(frames)
        norms = [
            np.sqrt(np.einsum("...c,...c->...", layer, layer, dtype=np.float64)) for layer in found
        ]
        return list(zip(self.compression(found) if self.compression else found, norms, strict=True))

    def last(self, frames: np.ndarray, images: torch.Tensor | None = None) -> list[np.ndarray]:
        """Return compressed features of each layer.

        The result is cached for the same frames and tensor of images.
        """
        if (
            self._last is None
            or self._last[2] is not images
            or not np.array_equal(self._last[0], frames)
        ):
            found = self.full(frames, images)
            self._last = (frames, self.compression(found) if self.compression else found, images)
        return self._last[1]

    def _batch_of(self, frames: np.ndarray, images: torch.Tensor | None = None) -> list[np.ndarray]:
        pixels = (
            torch.from_numpy(np.ascontiguousarray(self._images[frames]))
            if images is None
            else images.cpu()
        )
        pixels = pixels.float() / 255
        if self._bars is not None:
            pixels.masked_fill_(self._bars, 1.0)
        present = None if self._present is None else self._present[frames]
        found = [
            _prepared(layer, self._grid, self._config)
            for layer in self._source.features(pixels, present)
        ]
        if not all(np.isfinite(layer).all() for layer in found):
            raise TeacherError(
                "teacher: a feature is not finite; take float32, or check the weights"
            )
        found = [layer.reshape(*pixels.shape[:2], *self._grid, -1) for layer in found]
        if present is not None:
            for layer in found:
                layer[~present.numpy()] = 0.0  # without the position embedding
        return found


def _prepared(features: torch.Tensor, grid: tuple[int, int], config: AlignmentConfig) -> np.ndarray:
    """Return targets (B, V * rows * columns, C) float32 of features (B, V, gh, gw, C).

    They have unit root mean square over the channels.
    """
    target = prepare_target(
        features, grid, config.position_scale, position=config.position, resize=config.resize
    )
    return (
        (target / target.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6))
        .float()
        .cpu()
        .numpy()
    )


def _repeated(frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(frame.astype(np.float16).reshape(1, *shape[1:]), shape)


def _mean(layer: np.ndarray | StoredLayer) -> np.ndarray:
    total = np.zeros(layer.shape[1:])
    for start in range(0, len(layer), 256):
        total += layer[start : start + 256].sum(0, dtype=np.float64)
    return total / len(layer)


def _digest(images: np.ndarray) -> str:
    content = hashlib.sha256()
    for start in range(0, len(images), 256):
        content.update(
            np.ascontiguousarray(images[np.arange(start, min(start + 256, len(images)))]).data
        )
    return content.hexdigest()[:24]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _made_by() -> str:
    """Return a hash of the code that computes and stores features."""
    functions = (
        alignment.prepare_target,
        alignment.position_embedding,
        _Computed,
        _prepared,
        _Colours,
    )
    modules = (
        cache_format,
        compression,
        depth_anything3,
        hf_teacher,
        teachers,
        vggt,
        vggt_teacher,
        vision,
    )
    return code_hash(*functions, *modules)


class _Colours:
    """The control rgb as a teacher.

    Patch colours in the teacher's width, standardised over a sample.
    """

    description, licence = "patch colours", "none"

    def __init__(
        self,
        images: np.ndarray,
        grid: tuple[int, int],
        width: int,
        layers: int,
        present: np.ndarray | None,
    ) -> None:
        self._patch, self._layers = (
            (
                images.shape[-2] // grid[0],
                images.shape[-1] // grid[1],
            ),
            layers,
        )
        self.feature_size, self.pixels = width, images.shape[-2] * images.shape[-1]
        frames = np.linspace(0, len(images) - 1, min(_SAMPLE, len(images))).astype(int)
        sample = images[frames].reshape(-1, *images.shape[2:])
        if present is not None:
            sample = sample[present[frames].ravel()]
        values = rgb_features(sample, self._patch, width).reshape(-1, width)
        self._centre, self._spread = values.mean(0), values.std(0) + 1e-4
        statistics = _hash(repr((self._centre.tolist(), self._spread.tolist())))
        self.identity = f"rgb {width} of {layers}, {statistics}"

    def features(
        self, images: torch.Tensor, present: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return features; see :class:`~sf_training.spatial_forcing.vision.Teacher`.

        Those of a missing camera are arbitrary.
        """
        del present
        values = rgb_features(
            (images.flatten(0, 1) * 255).round().to(torch.uint8).numpy(),
            self._patch,
            self.feature_size,
        )
        found = torch.from_numpy((values - self._centre) / self._spread).unflatten(
            0, images.shape[:2]
        )
        return (found,) * self._layers
