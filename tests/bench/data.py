"""Measure the path from bags to training batches.

Measured are the indexing (once), the first epoch and later epochs, compared with a conversion to
LeRobot. ``python3 -m bench.data FOLDER [BYTES]`` runs this benchmark alone.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench.figures import Figures
from rich.console import Console

from sf_bringup.graph import find_robot
from sf_training.data.bag_images import BagImages
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import EpisodeReader, find_episodes
from sf_training.lerobot.command import main as lerobot
from sf_training.simulation.demonstrations import main as demonstrations

_BYTES = 1_000_000_000
_BATCH = 32
_SIZE = 224
_MADE = 8  # episodes to record where the folder has none


def bench_data(figures: Figures, folder: Path, console: Console, limit: int = _BYTES) -> None:
    """Measure at most ``limit`` bytes of the episodes in a folder, in one process.

    Records a few episodes where there are none. Times are processor time.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if not folder.is_dir():
            folder = _demonstrations(Path(scratch) / "demos")
        bags, size = _at_most(find_episodes(folder), limit)
        contract = EpisodeReader(bags[0]).contract
        cache = Path(scratch) / "cache"
        note = (
            f"{len(bags)} episodes, {size / 1e6:.0f} MB, {len(contract.cameras)} cameras; images"
            f" of {_SIZE}, batches of {_BATCH}"
        )

        def load(**options):
            return load_dataset(
                bags,
                contract,
                size=_SIZE,
                depth=False,
                cache=cache,
                workers=1,
                progress=False,
                **options,
            )

        with console.status("data: bags to batches"):
            index_s, data = _timed(load)
            first_s, _ = _timed(lambda: _epoch(data.images, seed=0))
            cached_s, _ = _timed(lambda: _epoch(data.images, seed=1))
            again_s, bare = _timed(lambda: load(cache_images=False))
            decoded_s, _ = _timed(lambda: _epoch(bare.images, seed=1))
        frames = len(data.images)
        figures.add("data_index_MB_per_s", size / 1e6 / index_s, "MB/s", len(bags), f"once, {note}")
        figures.add(
            "data_open_again_s", again_s, "s", len(bags), "from the index stored beside the data"
        )
        for name, seconds, what in (
            ("first_epoch", first_s, "decoded from the bags in random order, and cached"),
            ("later_epoch", cached_s, "images cached in the first epoch"),
            ("later_epoch_not_kept", decoded_s, "decoded from the bags again"),
        ):
            figures.add(f"data_{name}_frames_per_s", frames / seconds, "frames/s", frames, what)
            figures.add(
                f"data_{name}_MB_per_s", size / 1e6 / seconds, "MB/s", frames, f"of bags; {what}"
            )
        figures.add(
            "data_1_GB_to_batches_s",
            (index_s + first_s) * _BYTES / size,
            "s",
            frames,
            "index and first epoch, scaled to 1 GB of bags",
        )
        with console.status("data: conversion to LeRobot"):
            arguments = [
                "export",
                *map(str, bags),
                "--out",
                str(Path(scratch) / "lerobot"),
                "--action",
                "measured",
            ]
            convert_s, code = _timed(lambda: lerobot(arguments))
        if code == 0:
            figures.add(
                "data_1_GB_to_lerobot_s",
                convert_s * _BYTES / size,
                "s",
                frames,
                "conversion alone (h264), before the first batch",
            )


def _timed(work: Callable) -> tuple[float, object]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def _epoch(images: BagImages, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(images))
    for start in range(0, len(order), _BATCH):
        images[order[start : start + _BATCH]]


def _at_most(bags: list[Path], limit: int) -> tuple[list[Path], int]:
    """Return the first bags of at most ``limit`` bytes together, at least one, and their bytes."""
    chosen, total = [], 0
    for bag in bags:
        size = EpisodeReader(bag).file.stat().st_size
        if chosen and total + size > limit:
            break
        chosen.append(bag)
        total += size
    return chosen, total


def _demonstrations(folder: Path) -> Path:
    contract = find_robot("sim_arm")
    demonstrations(["--out", str(folder), "--contract", str(contract), "--episodes", str(_MADE)])
    return folder


if __name__ == "__main__":
    measured = Figures()
    bench_data(
        measured,
        Path(sys.argv[1]),
        Console(),
        int(float(sys.argv[2])) if len(sys.argv) > 2 else _BYTES,
    )
    Console(width=160).print(measured.table("data"))
