"""Read the batches of the training loop: drawn in one order however many processes read them,
split among these processes, and read ahead by a thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sf_training.training.picture_workers import PictureWorkers
from sf_training.training.settings import TrainingError
from sf_training.training.training_set import ContrastiveSampler, TrainingSet


@dataclass(frozen=True)
class Part:
    """The share of a batch that one process computes at once: F frames with B labels.

    A frame may have two labels (a pair: two instructions for one image), so B >= F.

    Attributes:
        frames: (F,) indices of the frames in the training set.
        labels: (B,) indices of the labels in the training set.
        rows: (B,) for each label, the index of its frame in ``frames`` and ``images``.
        whole: (B,) indices of the labels in the batch of all processes.
        batch_frames: (F,) indices of the frames in the batch of all processes.
        images: (F, V, 3, H, W) uint8, V cameras.
    """

    frames: np.ndarray
    labels: np.ndarray
    rows: Tensor
    whole: Tensor
    batch_frames: Tensor
    images: Tensor


@dataclass(frozen=True)
class Batch:
    """The parts of one step that this process computes.

    ``size`` and ``frames`` count the labels and frames of all processes; ``state`` is the sampler's
    after the draw.
    """

    parts: tuple[Part, ...]
    size: int
    frames: int
    state: dict


class _Drawn(NamedTuple):
    """A batch without its images: frames (F,), rows (B,) of them, labels (B,), and the sampler's
    state afterwards.
    """

    frames: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    state: dict


class Batches:
    """Draw batches without end, each split into ``processes * accumulate`` parts of equal size.

    Args:
        ahead: batches that a thread reads ahead; 0 reads them when they are asked for.
        workers: processes that decode images, each a whole batch; 0 decodes in the thread.

    Raises:
        TrainingError: a batch cannot be split so.
    """

    def __init__(
        self,
        data: TrainingSet,
        sampler: ContrastiveSampler,
        *,
        process: int = 0,
        processes: int = 1,
        accumulate: int = 1,
        ahead: int = 2,
        workers: int = 0,
    ) -> None:
        parts = processes * accumulate
        if sampler.pairs % parts or sampler.singles % parts:
            raise TrainingError(
                f"--pairs, --singles: {sampler.pairs} and {sampler.singles} frames cannot be split"
                f" evenly among {processes} processes times --accumulate {accumulate}; take"
                f" multiples of {parts}"
            )
        self._data, self._sampler, self._ahead = data, sampler, ahead
        self._mine = range(process * accumulate, (process + 1) * accumulate)
        self._parts = parts
        self._workers = workers
        self._reader: _ReadAhead | PictureWorkers | None = None
        self.labels = 2 * sampler.pairs + sampler.singles  # in a batch
        self.reading = (
            threading.Lock()
        )  # held while images are read: one thread at a time reads bags

    def __next__(self) -> Batch:
        if not (self._ahead or self._workers):
            return self._read()
        if self._reader is None and self._workers:
            images = self._data.images
            self._reader = PictureWorkers(images, self._draw, self._workers, self._ahead)
        elif self._reader is None:
            self._reader = _ReadAhead(self._read, self._ahead)
        if isinstance(self._reader, PictureWorkers):
            drawn, images = self._reader.get()
            return self._batch(drawn, images)
        return self._reader.get()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def restart(self, state: dict) -> None:
        """Continue after the batch that had this ``state``."""
        self.close()
        self._sampler.state = state

    def close(self) -> None:
        """End the thread or the processes, and drop the batches that they have read."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read(self) -> Batch:
        drawn, frames = self._draw()
        with self.reading:
            images = self._data.images[frames]
        return self._batch(drawn, torch.from_numpy(np.ascontiguousarray(images)))

    def _draw(self) -> tuple[_Drawn, np.ndarray]:
        """Draw the next batch; return it and the frames (F,) that this process needs of it."""
        drawn = _Drawn(*self._sampler.draw(), self._sampler.state)
        return drawn, np.concatenate([drawn.frames[self._chosen(part)] for part in self._mine])

    def _chosen(self, number: int) -> np.ndarray:
        """Return the places (F,) of a part's frames in the batch."""
        pairs, singles = self._sampler.pairs // self._parts, self._sampler.singles // self._parts
        return np.concatenate(
            [
                np.arange(pairs) + number * pairs,
                self._sampler.pairs + np.arange(singles) + number * singles,
            ]
        )

    def _batch(self, drawn: _Drawn, images: Tensor) -> Batch:
        """Put a batch together; ``images`` are those of the frames that :meth:`_draw` returned."""
        parts = tuple(
            self._part(number, drawn, own)
            for number, own in zip(self._mine, images.chunk(len(self._mine)), strict=True)
        )
        return Batch(parts, len(drawn.labels), len(drawn.frames), drawn.state)

    def _part(self, number: int, drawn: _Drawn, images: Tensor) -> Part:
        chosen, (frames, rows, labels) = self._chosen(number), drawn[:3]
        whole = np.flatnonzero(np.isin(rows, chosen))
        return Part(
            frames=frames[chosen],
            labels=labels[whole],
            rows=torch.from_numpy(np.searchsorted(chosen, rows[whole])),
            whole=torch.from_numpy(whole),
            batch_frames=torch.from_numpy(chosen),
            images=images,
        )


class _ReadAhead:
    """A thread that keeps a queue full. An error in it is raised where the batch is asked for."""

    def __init__(self, read: Any, ahead: int) -> None:
        self._read, self._queue, self._closed = read, queue.Queue(ahead), threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def get(self) -> Batch:
        found = self._queue.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self._closed.set()
        while self._thread.is_alive():
            with_room = not self._queue.empty()
            if with_room:
                self._queue.get_nowait()
            self._thread.join(0.01)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                found: Any = self._read()
            except (
                Exception
            ) as error:  # whatever reading bags may raise belongs to the one who asks
                found = error
            self._queue.put(found)
            if isinstance(found, BaseException):
                return
