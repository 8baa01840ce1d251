"""Measure frames lost by the recorder over DDS, and its memory in a long episode.

The robot and the recorder are one process each. This benchmark alone, at full length:
``PYTHONPATH=tests:$PYTHONPATH python3 -m bench.recorder --seconds 120 --episode-gb 10``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import rclpy
import tyro
import yaml
from bench.figures import Figures
from mcap.reader import make_reader
from rclpy.executors import SingleThreadedExecutor
from rich.console import Console

from sf_bringup.graph import find_robot
from sf_msgs.msg import RecorderStatus
from sf_msgs.srv import EndEpisode, StartEpisode
from sf_policy_node.contract import load_contract
from sf_policy_node.nodes.lifecycle import LATCHED
from sf_training.recording.messages import deserialize

JOINTS_HZ = 100.0
LADDER_HZ = (30, 45, 60, 75, 90, 120, 150, 180, 240)
_START_S = 60.0
_SAMPLES = 40


@dataclass(frozen=True)
class Arguments:
    """Measure the recorder with 3 and 8 cameras, at its highest rate, and in one long episode.

    The cameras have 640x480 and 320x240 pixels.
    """

    seconds: float = 120.0
    """Of the recordings at 30 Hz; the steps of the ladder take a twelfth."""
    episode_gb: float = 10.0
    """Of the long episode; 0: none."""
    ladder: bool = True
    """Look for the highest rate."""
    codecs: tuple[Literal["raw", "h264"], ...] = ("raw", "h264")
    """How images are recorded; h264 only with the three cameras of 640x480."""
    out: Path = Path("out/bench_recorder.json")
    """Where the figures go."""


@dataclass(frozen=True)
class Result:
    """Figures of one recording.

    ``lost``: frames that the robot sent and the bag lacks; ``source_hz``: published rate of the
    slowest camera.
    """

    frames: int
    lost: int
    source_hz: float
    cpu_share: float
    memory_mb: float
    raw_mb_s: float
    file_mb_s: float
    write_p99_ms: float
    write_max_ms: float
    end_s: float


def bench_recorder(
    figures: Figures,
    seconds: float,
    episode_gb: float,
    console: Console,
    *,
    ladder: bool = True,
    codecs: Sequence[str] = ("raw", "h264"),
) -> None:
    """Add the figures of the recorder."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    cases = [
        ("3x640x480", 3, 640, 480, "raw"),
        ("8x320x240", 8, 320, 240, "raw"),
        ("3x640x480_h264", 3, 640, 480, "h264"),
    ]
    for name, cameras, width, height, codec in cases:
        if codec not in codecs:
            continue
        with console.status(f"recorder, {name} at 30 Hz: {seconds:g} s"):
            result = record(cameras, width, height, 30.0, seconds, codec)
        note = (
            f"{name} at {result.source_hz:.1f} Hz, recorded as {codec}, and {JOINTS_HZ:g} Hz"
            f" joints, {seconds:g} s, load {os.getloadavg()[0]:.1f}"
        )
        values = {
            "lost": (result.lost, "frames"),
            "cpu": (result.cpu_share, "cores"),
            "memory_peak": (result.memory_mb, "MB"),
            "raw": (result.raw_mb_s, "MB/s"),
            "file": (result.file_mb_s, "MB/s"),
            "write_p99": (result.write_p99_ms, "ms"),
            "write_max": (result.write_max_ms, "ms"),
            "end": (result.end_s, "s"),
        }
        for key, (value, unit) in values.items():
            figures.add(f"recorder_{name}_{key}", value, unit, result.frames, note)
    if ladder:
        _climb(figures, max(5.0, seconds / 12), console)
    if episode_gb > 0:
        _long_episode(figures, episode_gb, console)


def record(
    cameras: int, width: int, height: int, hz: float, seconds: float, codec: str = "raw"
) -> Result:
    """Record one episode of a robot that publishes in a separate process."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIRECTORY")) as folder:
        contract = _contract(Path(folder), cameras, width, height, hz)
        source = _start(
            "bench.recorder_source", str(contract), str(hz), str(JOINTS_HZ), stdout=subprocess.PIPE
        )
        parameters = {
            "contract": contract,
            "directory": f"{folder}/episodes",
            "image_codec": codec,
        }
        words = ["--ros-args"]
        for name, value in parameters.items():
            words += ["-p", f"{name}:={value}"]
        recorder = _start(
            "sf_training.recording.recorder_node",
            *words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return _observe(contract, psutil.Process(recorder.pid), source, cameras, seconds)
        finally:
            for process in (source, recorder):
                process.terminate()
                process.wait(20)


def _observe(
    contract: Path, recorder: psutil.Process, source: subprocess.Popen, cameras: int, seconds: float
) -> Result:
    rclpy.init()
    node, statuses = rclpy.create_node("observer"), []
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.create_subscription(RecorderStatus, "/recorder/status", statuses.append, LATCHED)

        def wait(condition, timeout: float) -> None:
            end = time.monotonic() + timeout
            while not condition():
                if time.monotonic() > end:
                    raise RuntimeError(
                        "the recorder or the robot did not get ready; look at their output"
                    )
                executor.spin_once(timeout_sec=0.1)

        def call(kind, name: str, timeout: float, **fields):
            client = node.create_client(kind, f"/recorder/{name}")
            wait(client.service_is_ready, _START_S)
            future = client.call_async(kind.Request(**fields))
            wait(future.done, timeout)
            return future.result()

        wait(
            lambda: (
                statuses
                and sum(stream.measured_hz > 1 for stream in statuses[-1].streams) > cameras
            ),
            _START_S,
        )
        call(StartEpisode, "start_episode", 20.0, instruction="bench")
        before, begin = recorder.cpu_times(), time.monotonic()
        wait(lambda: time.monotonic() > begin + seconds, seconds + 5)
        after, wall = recorder.cpu_times(), time.monotonic() - begin
        ended = call(EndEpisode, "end_episode", 300.0, outcome="success")
        end_s = time.monotonic() - begin - wall
        memory = _peak_mb(recorder.pid)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    bag = Path(ended.episode)
    frames, lost, raw, size = _read(bag, load_contract(contract))
    custom = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "custom_data"
    ]
    delays = json.loads(custom["write_delay_ms"])
    cpu = (after.user + after.system - before.user - before.system) / wall
    published = (frames + lost) / cameras / wall  # frames are numbered
    return Result(
        frames,
        lost,
        published,
        cpu,
        memory,
        raw / wall / 1e6,
        size / wall / 1e6,
        delays["p99"],
        delays["max"],
        end_s,
    )


def _read(bag: Path, contract) -> tuple[int, int, int, int]:
    """Return counts of frames and gaps, and sizes of messages and file.

    A gap is a number missing between the first and the last frame.
    """
    (file,) = bag.glob("*.mcap")
    numbers, raw = defaultdict(list), 0
    topics = [camera.topic for camera in contract.cameras]
    with file.open("rb") as stream:
        for schema, channel, message in make_reader(stream).iter_messages(log_time_order=False):
            raw += len(message.data)
            if channel.topic in topics:
                numbers[channel.topic].append(
                    int(deserialize(message.data, schema.name).header.frame_id)
                )
    lost = sum(max(found) - min(found) + 1 - len(set(found)) for found in numbers.values())
    return sum(map(len, numbers.values())), lost, raw, file.stat().st_size


def _climb(figures: Figures, seconds: float, console: Console) -> None:
    best, limit = 0.0, ""
    for hz in LADDER_HZ:
        with console.status(f"recorder, 3x640x480 at {hz} Hz: {seconds:g} s"):
            result = record(3, 640, 480, float(hz), seconds)
        # If the robot does not reach the rate, the result does not concern the recorder.
        if result.lost or result.source_hz < 0.97 * hz:
            limit = (
                f"at {hz} Hz {result.lost} of {result.frames + result.lost} frames were lost, the"
                f" robot published {result.source_hz:.1f} Hz"
            )
            break
        best = hz
    note = (
        f"3x640x480 raw, steps of {seconds:g} s; {limit or 'the ladder ended'}; load"
        f" {os.getloadavg()[0]:.1f}"
    )
    figures.add("recorder_highest_rate", best, "Hz", len(LADDER_HZ), note)


def _long_episode(figures: Figures, gigabytes: float, console: Console) -> None:
    """Measure the resident memory of a process that writes one episode of incompressible images."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIRECTORY")) as folder:
        if shutil.disk_usage(folder).free < 1.3e9 * gigabytes:
            console.print(
                f"long episode: left out, less than {1.3 * gigabytes:.1f} GB are free in {folder}"
            )
            return
        with console.status(f"one episode of {gigabytes:g} GB"):
            done = subprocess.run(
                [sys.executable, "-m", "bench.recorder", "write", folder, str(gigabytes)],
                stdout=subprocess.PIPE,
                check=True,
            )
    result = json.loads(done.stdout)
    memory = np.array(result["memory_mb"])
    settled = memory[len(memory) // 10 :]
    note = (
        f"one episode of {result['file_gb']:.2f} GB in {result['seconds']:.0f} s; of the writing"
        " process, from a tenth on"
    )
    figures.add(
        "recorder_long_episode_growth",
        settled[-3:].mean() - settled[:3].mean(),
        "MB",
        len(settled),
        note,
    )
    figures.add("recorder_long_episode_peak", memory.max(), "MB", len(memory), note)
    figures.add(
        "recorder_long_episode_end",
        result["end_s"],
        "s",
        1,
        "from the last message to the final name",
    )


def _write(folder: Path, gigabytes: float) -> None:
    """Write an episode as fast as the disk takes it, in a separate process that samples memory."""
    from sf_training.recording import messages
    from sf_training.recording.writer.episode_writer import EpisodeWriter
    from sf_training.recording.writer.queued_writer import QueuedWriter

    writer = EpisodeWriter(
        folder, load_contract(find_robot("sim_arm")), instruction="long", operator=""
    )
    writer.add_topic("/image", messages.IMAGE)
    noise = np.random.default_rng(0).integers(0, 256, (16, 480, 640, 3), dtype=np.uint8)
    frames = [bytes(messages.image(1.0, "c", each)) for each in noise]
    queue, memory, begin = QueuedWriter(writer, capacity=64 << 20), [], time.monotonic()
    total = round(gigabytes * 1e9 / len(frames[0]))
    process = psutil.Process()
    for number in range(total):
        while queue.share > 0.8:
            time.sleep(0.002)
        queue.put("/image", frames[number % len(frames)], number)
        if number % max(1, total // _SAMPLES) == 0:
            memory.append(process.memory_info().rss / 1e6)
    wall = time.monotonic() - begin
    path = queue.finish("success")
    size = sum(file.stat().st_size for file in path.glob("*.mcap"))
    print(
        json.dumps(
            {
                "memory_mb": memory,
                "seconds": wall,
                "file_gb": size / 1e9,
                "end_s": time.monotonic() - begin - wall,
            }
        )
    )


def _contract(folder: Path, cameras: int, width: int, height: int, hz: float) -> Path:
    shipped = find_robot("sim_arm")
    data = yaml.safe_load(shipped.read_text())
    data["cameras"] = [
        {
            "name": f"camera{n}",
            "topic": f"/camera{n}/image_raw",
            "width": width,
            "height": height,
            "frame": f"camera{n}",
            "rate_hz": hz,
        }
        for n in range(cameras)
    ]
    (folder / data["urdf"]).write_text(shipped.with_name(data["urdf"]).read_text())
    (folder / "robot.yaml").write_text(yaml.safe_dump(data))
    return folder / "robot.yaml"


def _start(module: str, *words: str, **streams) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", module, *words], text=True, **streams)


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Run the benchmark from the command line."""
    if sys.argv[1:2] == ["write"]:
        _write(Path(sys.argv[2]), float(sys.argv[3]))
        return
    arguments = tyro.cli(Arguments, prog="python3 -m bench.recorder")
    console, figures = Console(width=180), Figures()
    try:
        bench_recorder(
            figures,
            arguments.seconds,
            arguments.episode_gb,
            console,
            ladder=arguments.ladder,
            codecs=arguments.codecs,
        )
    finally:  # figures measured before a failure are written too
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(figures.entries, indent=1) + "\n")
        console.print(figures.table("recorder"))


if __name__ == "__main__":
    main()
