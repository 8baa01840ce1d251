"""Measure memory while training, lint and export read a long bag.

The memory of the process itself is subtracted. The bag is sparse: its images are black and take no
space on the disk, so that one of 10 GB is written in seconds.
``PYTHONPATH=tests:$PYTHONPATH python3 -m bench.long_bag 10`` measures a bag of 10 GB.
"""

from __future__ import annotations

import gc
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import yaml
from mcap.writer import CompressionType, Writer
from rich.console import Console
from rich.table import Table

from sf_bringup.graph import find_robot
from sf_policy_node.contract import Contract, load_contract, parse_contract
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import EpisodeReader
from sf_training.data.image_rows import images_in_rows
from sf_training.lerobot.export_bags import stretches
from sf_training.lint.measure import measure_episode
from sf_training.lint.thresholds import Thresholds
from sf_training.recording import messages
from sf_training.recording.topics import absolute

WIDTH, HEIGHT, CAMERA_HZ, JOINT_HZ = 640, 480, 30, 500
_PAGE = 4096
_NS = 1_000_000_000
_BEGIN = 1_700_000_000 * _NS
_SIZE = 96  # pixels of the images that training reads


class SparseFile:
    """Binary file whose pages of zeros are sparse."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        """Write data; seek over pages of zeros."""
        view = memoryview(data)
        head = min(-self._file.tell() % _PAGE, len(view))
        self._file.write(view[:head])
        pages = np.frombuffer(view[head : len(view) - (len(view) - head) % _PAGE], np.uint64)
        used = pages.reshape(-1, _PAGE // 8).any(axis=1).tolist()
        position = head
        for is_used, group in itertools.groupby(used):
            length = _PAGE * len(list(group))
            if is_used:
                self._file.write(view[position : position + length])
            else:
                self._file.seek(length, 1)
            position += length
        self._file.write(view[position:])
        return len(view)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def seek(self, *where: int) -> int:
        """Set the position."""
        return self._file.seek(*where)

    def flush(self) -> None:
        """Write what is buffered."""
        self._file.flush()


def long_contract() -> Contract:
    """Return the simulated arm with two cameras of 640x480, for bags of another recorder."""
    known = load_contract(find_robot("sim_arm"))
    data = known.model_dump(mode="json")
    for camera in data["cameras"]:
        camera.update(width=WIDTH, height=HEIGHT)
    data["bags"] = {"instruction": "pick the red cube"}
    return parse_contract(yaml.safe_dump(data), known.urdf_xml)


def write_long_bag(path: Path, contract: Contract, seconds: float) -> Path:
    """Write an uncompressed MCAP file of 55 MB/s: raw images at 30 Hz, joint states at 500 Hz and
    commands at 25 Hz.
    """
    with path.open("wb") as file:
        writer = Writer(SparseFile(file), compression=CompressionType.NONE, enable_crcs=False)
        writer.start("ros2", "bench")
        channels: dict[str, int] = {}
        for topic, kind, stamp, data in _messages(contract, seconds):
            if topic not in channels:
                text = messages.definition(kind)[0].encode()
                schema = writer.register_schema(kind, "ros2msg", text)
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            writer.add_message(channels[topic], stamp, data, stamp)
        writer.finish()
        file.truncate(file.tell())
    return path


def _messages(contract: Contract, seconds: float) -> Iterator[tuple[str, str, int, bytes]]:
    """Yield topic, type, time [ns] and CDR bytes in order of time."""
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    names, topics = contract.command_joints, contract.topics
    ticks = round(seconds * JOINT_HZ)
    frame = 0
    for tick in range(ticks):
        stamp = _BEGIN + tick * _NS // JOINT_HZ
        t = (stamp - _BEGIN) * 1e-9
        positions = np.array([0.2 * np.sin(t), 0.4, 1.4, 1.3, 0.0, 0.0, 0.02])
        state = messages.joint_state(stamp * 1e-9, names, positions)
        yield absolute(topics.joint_states), messages.JOINT_STATE, stamp, state
        if tick % (JOINT_HZ // 25) == 0:
            yield absolute(topics.teleop_command), messages.JOINT_STATE, stamp, state
        if t >= frame / CAMERA_HZ:
            frame += 1
            for camera in contract.cameras:
                image = messages.image(stamp * 1e-9, camera.name, black)
                yield absolute(camera.topic), messages.IMAGE, stamp, image


def peak_mb(work: Callable[[], object]) -> float:
    """Return by how much a call raises the memory of this process at its peak [MB]. Linux only."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _memory("VmRSS")
    work()
    return _memory("VmHWM") - before


def _memory(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1000
    raise KeyError(key)


def index(bag: Path, contract: Contract) -> None:
    """Index the bag as training does, and read one batch of images."""
    options = {"size": _SIZE, "depth": False, "workers": 1, "progress": False}
    data = load_dataset([bag], contract, **options)
    data.images[np.linspace(0, len(data.images) - 1, 16).astype(int)]


def lint(bag: Path, contract: Contract) -> None:
    """Measure the bag as lint does."""
    measure_episode(bag, Thresholds(), 16, contract)


def export(bag: Path, contract: Contract) -> None:
    """Read all frames as the LeRobot export does, without encoding them."""
    reader = EpisodeReader(bag, contract)
    with reader.cached_in_memory():
        for stretch in stretches(reader, round(1 / contract.action.step_s), "commanded", 2, 0.5):
            for _ in images_in_rows(reader, stretch.indices):
                pass


STEPS = {"index": index, "lint": lint, "export": export}


def main() -> None:
    """Measure one bag of the size given on the command line [GB]."""
    contract = long_contract()
    seconds = float(sys.argv[1]) * 1e9 / (len(contract.cameras) * CAMERA_HZ * WIDTH * HEIGHT * 3)
    with tempfile.TemporaryDirectory() as folder:
        index(write_long_bag(Path(folder) / "warm_up.mcap", contract, 2.0), contract)
        bag = write_long_bag(Path(folder) / "long.mcap", contract, seconds)
        table = Table("step", "peak [MB]", "time [s]")
        table.title = f"{bag.stat().st_size / 1e9:.2f} GB, {seconds:.0f} s of recording"
        for name, step in STEPS.items():
            started = time.monotonic()
            peak = peak_mb(lambda step=step: step(bag, contract))
            table.add_row(name, f"{peak:.0f}", f"{time.monotonic() - started:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
