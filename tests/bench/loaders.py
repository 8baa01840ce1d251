"""Our loader beside LeRobot's on one data set: four cameras of 640x480 at 30 Hz, windows of eight
images, batches of four windows in random order.

    PYTHONPATH=tests:$PYTHONPATH python3 -m bench.loaders --lerobot /tmp/lerobot/bin/python

Both sides read the same frames with the same number of worker processes, one after the other. A
figure counts camera images that reach the training process. LeRobot needs an environment of its own
(``pip install "lerobot[dataset]"``); without it its rows are left out.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
import yaml
from bench.process_tree import PeakMemory, cpu_s
from rich.console import Console
from rich.table import Table

from sf_bringup.graph import find_robot
from sf_policy_node.contract import Contract, load_contract, parse_contract
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import find_episodes
from sf_training.lerobot.command import main as lerobot
from sf_training.recording import messages
from sf_training.recording.topics import absolute, episode_topics
from sf_training.recording.writer.episode_writer import EpisodeWriter
from sf_training.training.batches.image_workers import ImageWorkers

WIDTH, HEIGHT, FPS, CAMERAS = 640, 480, 30, 4
WARM_UP = 3  # batches, while the processes start


@dataclass(frozen=True)
class Arguments:
    """Compare the speed of data loaders."""

    lerobot: Path | None = None
    """Python interpreter of an environment with lerobot."""
    episodes: int = 2
    frames: int = 60
    """Frames in an episode."""
    workers: int = 2
    """Worker processes of either loader."""
    batch: int = 4
    """Windows in a batch."""
    out: Path | None = None
    """JSON file for the figures."""


@dataclass(frozen=True)
class Case:
    """One way to read our data set.

    Attributes:
        bags: folder name: images as JPEG or raw.
        window: images of each camera in a sample.
        size: of the prepared images (height, width).
        keep: prepared images are cached on disk.
    """

    bags: str
    window: int
    size: tuple[int, int]
    keep: bool
    batch: int
    workers: int


def four_cameras(*, jpeg: bool) -> Contract:
    """Return the simulated arm with four cameras."""
    known = load_contract(find_robot("sim_arm"))
    data = known.model_dump(mode="json")
    camera = data["cameras"][0] | {"width": WIDTH, "height": HEIGHT, "rate_hz": float(FPS)}
    camera |= {"depth_topic": None, "info_topic": None}
    camera |= {"transport": "compressed"} if jpeg else {}
    end = "/compressed" if jpeg else ""
    data["cameras"] = [
        camera | {"name": f"camera{n}", "frame": f"camera{n}", "topic": f"/camera{n}/image{end}"}
        for n in range(CAMERAS)
    ]
    data["simulation"] = {}
    data["action"] |= {"step_s": 1.0 / FPS, "horizon": 8}
    return parse_contract(yaml.safe_dump(data), known.urdf_xml)


def write_episode(folder: Path, contract: Contract, number: int, frames: int) -> Path:
    """Record one synthetic episode with our writer."""
    writer = EpisodeWriter(
        folder, contract, instruction="bench", operator="bench", name=f"take{number}"
    )
    topics = contract.topics
    with writer:
        for topic in episode_topics(contract):
            writer.add_topic(topic.name, topic.type_name)
        for frame in range(frames):
            stamp = 1.0 + frame / FPS
            for view, camera in enumerate(contract.cameras):
                pixels = scene(number, frame, view)
                writer.write(
                    absolute(camera.topic),
                    image(stamp, camera, pixels),
                    messages.nanoseconds(stamp),
                )
            for tick in range(8):
                at = stamp + tick / FPS / 8
                positions = np.array([0.2 * np.sin(at), 0.4, 1.4, 1.3, 0, 0, 0.02])
                state = messages.joint_state(at, contract.command_joints, positions)
                writer.write(absolute(topics.joint_states), state, messages.nanoseconds(at))
                writer.write(absolute(topics.teleop_command), state, messages.nanoseconds(at))
        return writer.finish("success")


def image(stamp: float, camera, pixels: np.ndarray) -> bytes | memoryview:
    """Return an image message: raw, or JPEG of quality 90."""
    raw = messages.image(stamp, camera.frame, pixels)
    if camera.transport == "raw":
        return raw
    header = messages.deserialize(raw, messages.IMAGE).header
    options = [cv2.IMWRITE_JPEG_QUALITY, 90]
    data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].ravel()
    store = messages.typestore()
    message = store.types[messages.COMPRESSED_IMAGE](header, "jpeg", data)
    return store.serialize_cdr(message, messages.COMPRESSED_IMAGE)


def scene(episode: int, frame: int, view: int) -> np.ndarray:
    """Return (H, W, 3) uint8: a smooth background with texture, moving boxes and sensor noise."""
    fixed = np.random.default_rng(10 * episode + view)
    coarse = fixed.integers(40, 216, (12, 16, 3)).astype(np.uint8)
    pixels = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    pixels += fixed.integers(-12, 13, (HEIGHT, WIDTH, 1), np.int16)
    for box in range(6):
        x = (97 * box + (box + 2) * frame) % (WIDTH - 80)
        y = (61 * box + (box % 3) * frame) % (HEIGHT - 80)
        pixels[y : y + 80, x : x + 80] = fixed.integers(0, 256, 3)
    noise = np.random.default_rng((episode, frame, view)).normal(0.0, 2.0, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def read_ours(root: str, case: Case) -> dict:
    """Read two epochs in random order; return figures as ``loader_lerobot.py``."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=root) as cache, PeakMemory() as memory:
        data = load_dataset(
            find_episodes(Path(root) / case.bags),
            None,
            size=case.size,
            fit="stretch",
            depth=False,
            cache=cache,
            cache_images=case.keep,
            workers=1,
            progress=False,
        )
        opened = time.perf_counter() - started
        images = data.images
        frames = np.concatenate(
            [
                np.flatnonzero(data.episode == episode)[case.window - 1 :]
                for episode in range(len(data.episodes))
            ]
        )
        frames = frames[: len(frames) - len(frames) % case.batch]
        rng = np.random.default_rng(0)
        orders = [rng.permutation(frames) for _ in range(2)]
        # The warm-up repeats one batch, so that it does not fill the cache for the first epoch.
        ends = [
            *[orders[0][: case.batch]] * WARM_UP,
            *np.split(np.concatenate(orders), 2 * len(frames) // case.batch),
        ]
        past = np.arange(1 - case.window, 1)
        drawn = iter([(end[:, None] + past).ravel() for end in ends])
        shape = (case.batch, case.window, *images.shape[1:])
        spread = None
        if case.workers:
            spread = ImageWorkers(images, _draw(drawn), case.workers, 2 * case.workers)

        def get():
            return (spread.get()[1] if spread else images[next(drawn)]).reshape(shape)

        count = len(frames) * case.window * images.shape[1]
        result = {"images": count, "windows": len(frames), "open_s": opened}
        for _ in range(WARM_UP):
            get()
        for epoch in ("first", "later"):
            clock, processor = time.perf_counter(), cpu_s()
            for _ in range(len(frames) // case.batch):
                get()
            result[f"{epoch}_per_s"] = count / (time.perf_counter() - clock)
            result[f"{epoch}_per_cpu_s"] = count / max(cpu_s() - processor, 0.01)
        if spread:
            spread.close()
    return result | {"memory_mb": memory.mb}


def _draw(drawn):
    last = [np.zeros(1, int)]  # the loader asks for more batches than are read

    def draw():
        last[0] = next(drawn, last[0])
        return None, last[0]

    return draw


def main() -> None:
    """Write the data, run every case in a process of its own, and print one table."""
    arguments = tyro.cli(Arguments)
    console = Console(width=150)
    with tempfile.TemporaryDirectory() as root:
        _write(Path(root), arguments)
        if arguments.lerobot is None:
            console.print(
                "lerobot: not measured; give the interpreter of its environment with --lerobot"
            )
        rows = {}
        for text, run in _cases(root, arguments):
            rows[text] = run()
            console.print(text, rows[text], soft_wrap=True)
        sizes = {
            folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            for folder in sorted(Path(root).iterdir())
        }
    table = Table(
        "loader", "first / cpu s", "later / cpu s", "first / s", "later / s", "memory [MB]"
    )
    table.title = f"camera images per second, {arguments.workers} workers; data [MB]: " + ", ".join(
        f"{name} {size / 1e6:.0f}" for name, size in sizes.items()
    )
    for text, row in rows.items():
        keys = ("first_per_cpu_s", "later_per_cpu_s", "first_per_s", "later_per_s", "memory_mb")
        table.add_row(text, *(f"{row[key]:.0f}" for key in keys))
    console.print(table)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"rows": rows, "bytes": sizes}, indent=1))


def _write(root: Path, arguments: Arguments) -> None:
    """Record the episodes as JPEG and raw; convert the former for LeRobot."""
    for name, jpeg in (("jpeg", True), ("raw", False)):
        contract = four_cameras(jpeg=jpeg)
        for number in range(arguments.episodes):
            write_episode(root / name, contract, number, arguments.frames)
    for codec in ("av1", "h264") if arguments.lerobot else ():
        words = [str(root / "jpeg"), "--out", str(root / codec), "--codec", codec]
        if lerobot(["export", *words]):
            sys.exit("loaders: the export to LeRobot failed")


def _cases(root: str, arguments: Arguments) -> list[tuple[str, Callable[[], dict]]]:
    """Return name and run of every case; ours and theirs alternate, so that other load on the
    machine slows both.
    """
    full, prepared = (HEIGHT, WIDTH), (224, 224)
    common = {"batch": arguments.batch, "workers": arguments.workers}
    ours = [
        (text, functools.partial(_ours, root, Case(bags, window, size, keep, **common)))
        for text, bags, window, size, keep in (
            ("ours, raw, 640x480", "raw", 8, full, False),
            ("ours, JPEG, 640x480", "jpeg", 8, full, False),
            ("ours, JPEG, 640x480, kept", "jpeg", 8, full, True),
            ("ours, JPEG, 224x224, kept", "jpeg", 8, prepared, True),
            ("ours, JPEG, 224x224, kept, window 1", "jpeg", 1, prepared, True),
        )
    ]
    theirs = [
        (
            text,
            functools.partial(
                _theirs,
                arguments.lerobot,
                f"{root}/{codec}",
                {"window": window, "uint8": uint8, **common},
            ),
        )
        for text, codec, window, uint8 in (
            ("lerobot, AV1, 640x480", "av1", 8, False),
            ("lerobot, AV1, 640x480, uint8", "av1", 8, True),
            ("lerobot, H.264, 640x480, uint8", "h264", 8, True),
            ("lerobot, AV1, 640x480, uint8, window 1", "av1", 1, True),
        )
    ]
    pairs = itertools.zip_longest(ours, theirs if arguments.lerobot else [])
    return [case for pair in pairs for case in pair if case]


def _ours(root: str, case: Case) -> dict:
    words = [
        sys.executable,
        "-m",
        "bench.loaders",
        "--read",
        root,
        json.dumps(dataclasses.asdict(case)),
    ]
    return _json(words, os.environ)


def _theirs(python: Path, dataset: str, options: dict) -> dict:
    script = Path(__file__).with_name("loader_lerobot.py")
    # The paths of this environment must not leak into theirs.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return _json([str(python), str(script), dataset, json.dumps(options)], environment)


def _json(words: list[str], environment: dict[str, str]) -> dict:
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"loaders: {words[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        values = json.loads(sys.argv[3])
        found = read_ours(sys.argv[2], Case(**values | {"size": tuple(values["size"])}))
        print(json.dumps(found))
    else:
        main()
