"""The bench of the loaders reads what it says, and counts the memory of worker processes."""

import subprocess
import sys
import time

from bench.loaders import CAMERAS, Case, four_cameras, read_ours, write_episode
from bench.process_tree import PeakMemory, cpu_s


def test_windows_of_all_cameras_are_read(tmp_path):
    write_episode(tmp_path / "jpeg", four_cameras(jpeg=True), 0, 13)
    case = Case("jpeg", window=8, size=(48, 64), keep=True, batch=3, workers=0)
    found = read_ours(str(tmp_path), case)
    assert found["windows"] == 6, "of 13 frames; a batch that is not full is left out"
    assert found["images"] == 6 * 8 * CAMERAS
    assert found["later_per_cpu_s"] > found["first_per_cpu_s"], "prepared images are cached"


def test_processor_time_and_memory_are_those_of_the_tree():
    work = (
        "import time; kept = bytearray(80_000_000); end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
        "print('done', flush=True); input()"
    )
    before = cpu_s()
    with PeakMemory() as memory:
        child = subprocess.Popen(
            [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "done\n"
        deadline = time.monotonic() + 10
        while memory.mb < 80 and time.monotonic() < deadline:
            time.sleep(0.05)
        during = cpu_s() - before
        child.communicate("\n")
    assert memory.mb > 80 and during > 0.29
    assert cpu_s() - before >= during - 0.02, "an ended child still counts"
