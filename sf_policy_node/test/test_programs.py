"""Tests of starting and ending programs, and of the commands that messages name."""

import os
import shutil
import subprocess
import sys

import pytest

from sf_policy_node.programs import command


@pytest.mark.parametrize(
    "ros2, typed",
    [("/opt/ros/bin/ros2", "ros2 run sf_training sf_training"), (None, "python3 -m sf_training")],
)
def test_a_cure_names_the_command_that_exists_here(monkeypatch, ros2, typed):
    monkeypatch.setattr(shutil, "which", lambda name: ros2)
    assert command("sf_training sf_training", "sf_training") == typed


@pytest.mark.parametrize("code", [None, 3])
def test_a_process_ends_with_its_output_and_without_finalization(code):
    script = f"""
import atexit, threading, time
from sf_policy_node.programs import end_process
atexit.register(time.sleep, 600)
threading.Thread(target=time.sleep, args=[600]).start()
print("the last line")
end_process({code})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (code or 0, "the last line\n")


def test_a_process_ends_when_the_reader_of_its_output_has_ended():
    script = """
import sys
from sf_policy_node.programs import end_process
print("the last line")
sys.stdin.read()
end_process(3)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=120) == 3
