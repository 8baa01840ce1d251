"""Worker processes that decode the images of batches, by PyTorch's ``DataLoader``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sf_training.data.bag_files import BagError


class ImageWorkers:
    """Decodes the images of batches in the order in which the batches are drawn.

    The processes are spawned, not forked: the parent may have threads of ROS or torch.

    Args:
        images: an array, or a picklable object that is indexed like one.
        draw: returns the next batch, of any type, and the frames (F,) that it needs.
        workers: number of processes, each with a batch of its own.
        ahead: batches that are ready or being read, at least one for each process.
    """

    def __init__(
        self, images: Any, draw: Callable[[], tuple[Any, np.ndarray]], workers: int, ahead: int
    ) -> None:
        self._drawn: deque = deque()
        loader = DataLoader(
            _Images(images),
            batch_sampler=_FrameLists(draw, self._drawn),
            num_workers=workers,
            prefetch_factor=max(1, -(-ahead // workers)),
            collate_fn=_identity,
            worker_init_fn=_use_one_thread,
            multiprocessing_context="spawn",
        )
        self._batches: Iterator[Any] = iter(loader)

    def get(self) -> tuple[Any, Tensor]:
        """Return the next batch as ``draw`` gave it, and its images (F, ...).

        Raises:
            BagError: an image cannot be read.
        """
        images = next(self._batches)
        if isinstance(images, BagError):
            raise images
        return self._drawn.popleft(), images

    def close(self) -> None:
        """Stop the processes."""
        self._batches = iter(())


class _Images(Dataset):
    def __init__(self, images: Any) -> None:
        self._images = images

    def __getitems__(self, frames: list[int]) -> Tensor | BagError:
        try:
            return torch.from_numpy(np.ascontiguousarray(self._images[np.array(frames)]))
        except BagError as error:  # returned: the loader would wrap a traceback around it
            return error


class _FrameLists:
    """Yields frame indices of batches without end; puts each batch into the queue ``drawn``."""

    def __init__(self, draw: Callable[[], tuple[Any, np.ndarray]], drawn: deque) -> None:
        self._draw, self._drawn = draw, drawn

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            batch, frames = self._draw()
            self._drawn.append(batch)
            yield frames.tolist()


def _identity(batch: Any) -> Any:
    return batch


def _use_one_thread(_: int) -> None:
    cv2.setNumThreads(1)
