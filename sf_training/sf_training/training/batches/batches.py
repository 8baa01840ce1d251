"""Batches of the training loop.

They are drawn in one order whatever the number of processes, split among the processes, and read
ahead by a thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sf_training.training.batches.image_workers import ImageWorkers
from sf_training.training.settings import TrainingError
from sf_training.training.training_set import ContrastiveSampler, TrainingSet


@dataclass(frozen=True)
class MicroBatch:
    """What one process computes in one forward pass: F frames with B labels.

    A frame may have two labels (a pair: two instructions for one image), so B >= F.

    Attributes:
        frames: (F,) indices of the frames in the training set.
        labels: (B,) indices of the labels in the training set.
        rows: (B,) for each label, the index of its frame in ``frames`` and ``images``.
        batch_indices: (B,) indices of the labels in the batch of all processes.
        frame_indices: (F,) indices of the frames in the batch of all processes.
        images: (F, V, 3, H, W) uint8, V cameras.
    """

    frames: np.ndarray
    labels: np.ndarray
    rows: Tensor
    batch_indices: Tensor
    frame_indices: Tensor
    images: Tensor


@dataclass(frozen=True)
class Batch:
    """One optimiser step's data on this process.

    Attributes:
        micro_batches: those that this process computes, one after the other.
        size: number of labels of all processes.
        frames: number of frames of all processes.
        state: of the sampler after the draw.
    """

    micro_batches: tuple[MicroBatch, ...]
    size: int
    frames: int
    state: dict


class _Drawn(NamedTuple):
    """A batch of all processes without images.

    ``frames`` (F,), ``rows`` (B,) into them, ``labels`` (B,), and the sampler's state after the
    draw.
    """

    frames: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    state: dict


class Batches:
    """Draws batches without end; each is split into ``processes * accumulate`` equal micro-batches.

    Args:
        process: index of this process.
        accumulate: micro-batches of one process in a batch.
        ahead: batches that a thread reads ahead; 0 reads a batch when it is asked for.
        workers: processes that decode images, each a batch at a time; 0 decodes in the thread.

    Attributes:
        labels: number of labels in a batch of all processes.
        reading: lock held while images are read, because bags are read by one thread at a time.

    Raises:
        TrainingError: a batch cannot be split evenly.
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
        count = processes * accumulate
        if sampler.pairs % count or sampler.singles % count:
            raise TrainingError(
                f"--pairs, --singles: {sampler.pairs} and {sampler.singles} frames cannot be split"
                f" evenly among {processes} processes times --accumulate {accumulate}; take"
                f" multiples of {count}"
            )
        self._data, self._sampler, self._ahead = data, sampler, ahead
        self._own = range(process * accumulate, (process + 1) * accumulate)
        self._count = count
        self._workers = workers
        self._reader: _ReadAhead | ImageWorkers | None = None
        self.labels = 2 * sampler.pairs + sampler.singles
        self.reading = threading.Lock()

    def __next__(self) -> Batch:
        if not (self._ahead or self._workers):
            return self._read()
        if self._reader is None and self._workers:
            images = self._data.images
            self._reader = ImageWorkers(images, self._draw, self._workers, self._ahead)
        elif self._reader is None:
            self._reader = _ReadAhead(self._read, self._ahead)
        if isinstance(self._reader, ImageWorkers):
            drawn, prepared = self._reader.get()
            return self._batch(drawn, prepared)
        return self._reader.get()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def restart(self, state: dict) -> None:
        """Continue after the batch that had this ``state``."""
        self.close()
        self._sampler.state = state

    def close(self) -> None:
        """Stop the thread or the processes, and drop the batches that they have read."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read(self) -> Batch:
        drawn, frames = self._draw()
        with self.reading:
            images = self._data.images[frames]
        return self._batch(drawn, torch.from_numpy(np.ascontiguousarray(images)))

    def _draw(self) -> tuple[_Drawn, np.ndarray]:
        """Draw the next batch; return it with the frames (F,) that this process needs of it."""
        drawn = _Drawn(*self._sampler.draw(), self._sampler.state)
        own = [drawn.frames[self._frame_indices(number)] for number in self._own]
        return drawn, np.concatenate(own)

    def _frame_indices(self, number: int) -> np.ndarray:
        """Return the indices (F,) of a micro-batch's frames in the batch of all processes."""
        pairs, singles = self._sampler.pairs // self._count, self._sampler.singles // self._count
        return np.concatenate(
            [
                np.arange(pairs) + number * pairs,
                self._sampler.pairs + np.arange(singles) + number * singles,
            ]
        )

    def _batch(self, drawn: _Drawn, images: Tensor) -> Batch:
        """Assemble a batch; ``images`` are those of the frames that :meth:`_draw` returned."""
        micro_batches = tuple(
            self._micro_batch(number, drawn, own)
            for number, own in zip(self._own, images.chunk(len(self._own)), strict=True)
        )
        return Batch(micro_batches, len(drawn.labels), len(drawn.frames), drawn.state)

    def _micro_batch(self, number: int, drawn: _Drawn, images: Tensor) -> MicroBatch:
        frame_indices, (frames, rows, labels) = self._frame_indices(number), drawn[:3]
        batch_indices = np.flatnonzero(np.isin(rows, frame_indices))
        return MicroBatch(
            frames=frames[frame_indices],
            labels=labels[batch_indices],
            rows=torch.from_numpy(np.searchsorted(frame_indices, rows[batch_indices])),
            batch_indices=torch.from_numpy(batch_indices),
            frame_indices=torch.from_numpy(frame_indices),
            images=images,
        )


class _ReadAhead:
    """A thread that keeps a queue of batches full; :meth:`get` raises the thread's errors."""

    def __init__(self, read: Callable[[], Batch], ahead: int) -> None:
        self._read = read
        self._queue: queue.Queue[Batch | Exception] = queue.Queue(ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def get(self) -> Batch:
        """Return the next batch."""
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread; it may wait for room in the queue."""
        self._closed.set()
        while self._thread.is_alive():
            if not self._queue.empty():
                self._queue.get_nowait()
            self._thread.join(0.01)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                item: Batch | Exception = self._read()
            except Exception as error:  # reading bags may raise anything: the caller of get sees it
                item = error
            self._queue.put(item)
            if isinstance(item, Exception):
                return
