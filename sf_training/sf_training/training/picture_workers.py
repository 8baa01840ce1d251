"""Processes that read and decode the images of whole batches, by PyTorch's ``DataLoader``."""

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


class PictureWorkers:
    """Images of batches in the order in which they are drawn.

    The processes are started afresh and not forked: the parent may hold threads of ROS or torch.

    Args:
        images: an array, or what is indexed like one and can be handed to other processes.
        draw: gives the next batch, whatever that is, and the frames (F,) that it needs.
        workers: processes, each with a batch of its own.
        ahead: batches that are ready or being read, at least one for each process.
    """

    def __init__(
        self, images: Any, draw: Callable[[], tuple[Any, np.ndarray]], workers: int, ahead: int
    ) -> None:
        self._drawn: deque = deque()
        loader = DataLoader(
            _Images(images),
            batch_sampler=_Frames(draw, self._drawn),
            num_workers=workers,
            prefetch_factor=max(1, -(-ahead // workers)),
            collate_fn=_as_it_is,
            worker_init_fn=_one_thread,
            multiprocessing_context="spawn",
        )
        self._batches = iter(loader)

    def get(self) -> tuple[Any, Tensor]:
        """Return the next batch as it was drawn, and its images (F, ...).

        Raises:
            BagError: one cannot be read.
        """
        found = next(self._batches)
        if isinstance(found, BagError):
            raise found
        return self._drawn.popleft(), found

    def close(self) -> None:
        """End the processes."""
        self._batches = iter(())


class _Images(Dataset):
    def __init__(self, images: Any) -> None:
        self._images = images

    def __getitems__(self, frames: list[int]) -> Tensor | BagError:
        try:
            return torch.from_numpy(np.ascontiguousarray(self._images[np.array(frames)]))
        except BagError as error:  # the loader would put a traceback around it
            return error


class _Frames:
    """Endless index lists; what was drawn for each waits in a queue."""

    def __init__(self, draw: Callable[[], tuple[Any, np.ndarray]], drawn: deque) -> None:
        self._draw, self._drawn = draw, drawn

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            batch, frames = self._draw()
            self._drawn.append(batch)
            yield frames.tolist()


def _as_it_is(found: Any) -> Any:
    return found


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)
