"""SIGKILL at random moments, for real: nothing but the last second is lost, and every survivor opens."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from rosbags.highlevel import AnyReader

from sf_training.recording.recovery import RecoveryError, recover_episode
from sf_training.recording.verification import verify_episode

KILLS = 20
LOST_S = 1.0

# Imports once and forks a recorder for every line: what is killed is a process with the recorder's queue and threads.
RECORDERS = """
import os, sys, time
import numpy as np
from pathlib import Path
from synthetic_episodes import tiny_contract
from sf_training.recording import messages
from sf_training.recording.episode_writer import EpisodeWriter
from sf_training.recording.queued_writer import QueuedWriter

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
    queue, pixels = QueuedWriter(writer), noise[: int(size), : int(size)]
    for number in range(10**6):
        now = time.time_ns()
        queue.put("/image", bytes(messages.image(now * 1e-9, "c", pixels)), now)
        queue.put("/count", bytes(messages.string(str(number))), now)
        time.sleep(0.01)
"""


@pytest.fixture
def recorders():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", RECORDERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    yield process
    process.stdin.close()
    process.wait(10)


@pytest.mark.slow
def test_twenty_kills_cost_a_second_at_most_each(recorders, tmp_path):
    moments, losses = random.Random(0), []
    for kill in range(KILLS):
        folder = tmp_path / str(kill)
        recorders.stdin.write(f"{folder} {8 if kill % 2 else 240}\n")  # chunks that end by time, and by size
        recorders.stdin.flush()
        pid = int(recorders.stdout.readline())
        time.sleep(moments.uniform(0.3, 2.0))  # the moment of the kill: not a wait for a result
        os.kill(pid, signal.SIGKILL)
        killed = time.time_ns()
        assert recorders.stdout.readline() == "gone\n"
        partial = folder / "episode.partial"
        try:
            recovered = recover_episode(partial)
        except (RecoveryError, OSError):
            begun = partial.stat().st_mtime_ns if partial.exists() else killed
            assert (killed - begun) * 1e-9 < LOST_S, f"kill {kill}: nothing left of {(killed - begun) * 1e-9:.2f} s"
            continue
        verify_episode(recovered.path)
        with AnyReader([recovered.path]) as reader:
            read = [(t, reader.deserialize(data, c.msgtype).data) for c, t, data in reader.messages() if c.topic == "/count"]
        assert [int(number) for _, number in read] == list(range(len(read))), "no gap before the end"
        losses.append((killed - read[-1][0]) * 1e-9)
    assert len(losses) >= KILLS * 0.7 and max(losses) < LOST_S, losses
    print(f"{len(losses)} of {KILLS} recovered; lost at the end: median {sorted(losses)[len(losses) // 2]:.2f} s, most {max(losses):.2f} s")
