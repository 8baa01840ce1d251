"""Tests of SIGKILL at random moments: only the last second is lost, every file opens."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from rosbags.highlevel import AnyReader

from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.recording.recover.recovery import RecoveryError, recover_episode
from sf_training.recording.recover.verification import verify_episode

KILLS = 12
LOST_S = 1.0
PERIOD_S = 0.01  # s, minimum between two messages; a busy machine sends fewer

# Imports once and forks a recorder for every line: the killed process has the recorder's queue
# and threads.
RECORDERS = """
import os, sys, time
import numpy as np
from pathlib import Path
from synthetic_episodes import tiny_contract
from sf_training.recording import messages
from sf_training.recording.writer.episode_writer import EpisodeWriter
from sf_training.recording.writer.queued_writer import QueuedWriter

rng = np.random.default_rng(0)
noise = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
contract = tiny_contract()
messages.image(0.0, "c", noise)  # loads what is loaded once
for line in sys.stdin:
    folder, size = line.split()
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("gone", flush=True)
        continue
    writer = EpisodeWriter(Path(folder), contract, instruction="pick", operator="", name="episode", keep=True)
    writer.add_topic("/image", messages.IMAGE)
    writer.add_topic("/count", messages.STRING)
    progress = os.open(folder + ".count", os.O_CREAT | os.O_WRONLY)
    queue, pixels = QueuedWriter(writer), noise[: int(size), : int(size)]
    for number in range(10**6):
        now = time.time_ns()
        queue.put("/image", bytes(messages.image(now * 1e-9, "c", pixels)), now)
        queue.put("/count", bytes(messages.string(str(number))), now)
        os.pwrite(progress, b"%12d" % number, 0)
        time.sleep(PERIOD_S)
""".replace("PERIOD_S", str(PERIOD_S))  # noqa: E501


@pytest.fixture
def recorders():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", RECORDERS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    yield process
    process.stdin.close()
    process.wait(PATIENCE_S)


def queued(count):
    """Return the number of messages in the recorder's queue when it was killed."""
    return int(count.read_text() or -1) + 1 if count.exists() else 0


@pytest.mark.slow
def test_each_kill_loses_at_most_one_second(recorders, tmp_path):
    """The bound is a second of messages; a busy machine sends and loses fewer."""
    moments, losses = random.Random(0), []
    for kill in range(KILLS):
        folder, count = tmp_path / str(kill), tmp_path / f"{kill}.count"
        recorders.stdin.write(
            f"{folder} {8 if kill % 2 else 240}\n"
        )  # chunks that end by time, and by size
        recorders.stdin.flush()
        pid = int(recorders.stdout.readline())
        moment, end = moments.uniform(0.2, 1.6) / PERIOD_S, time.monotonic() + PATIENCE_S
        while queued(count) < moment:
            assert time.monotonic() < end, "the recorder stands still"
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        assert recorders.stdout.readline() == "gone\n"
        try:
            recovered = recover_episode(folder / "episode.partial")
        except (RecoveryError, OSError):
            assert queued(count) * PERIOD_S < 1.1 * LOST_S, (
                f"kill {kill}: nothing is left of {queued(count)} messages"
            )
            continue
        verify_episode(recovered.path)
        with AnyReader([recovered.path]) as reader:
            read = [
                int(reader.deserialize(data, channel.msgtype).data)
                for channel, _, data in reader.messages()
                if channel.topic == "/count"
            ]
        assert read == list(range(len(read))), "no gap before the end"
        losses.append((queued(count) - len(read)) * PERIOD_S)
    assert len(losses) >= KILLS * 0.4 and max(losses) < 1.1 * LOST_S, losses
    print(
        f"{len(losses)} of {KILLS} recovered; lost at the end: median"
        f" {sorted(losses)[len(losses) // 2]:.2f} s, most {max(losses):.2f} s"
    )
