"""Tests that a node ends with its `ros2` command and outlives any other parent."""

import subprocess
import sys

import pytest

CHILD = """
import signal, sys
from sf_policy_node.nodes.starter import end_with_starter
signal.signal(signal.SIGALRM, lambda *_: sys.exit("still there"))
signal.alarm(1 if sys.argv[1] == "stays" else 60)
asked = end_with_starter()
try:
    print("ready", asked, flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {child!r}, {mode!r}])
time.sleep(60)
"""


def start(folder, name, mode):
    script = folder / name
    script.write_text(PARENT.format(child=CHILD, mode=mode))
    return subprocess.Popen(
        [sys.executable, str(script), "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_killed_ros2_command_takes_its_node_with_it(tmp_path, end):
    parent = start(tmp_path, "ros2", "ends")
    assert parent.stdout.readline() == "ready True\n"
    getattr(parent, end)()
    assert parent.stdout.read() == "interrupted\n"  # until the node has closed its end too
    parent.wait()


def test_a_node_of_another_parent_continues(tmp_path):
    parent = start(tmp_path, "my_supervisor", "stays")
    assert parent.stdout.readline() == "ready False\n"
    parent.kill()
    assert parent.stdout.read() == "still there\n"
    parent.wait()
