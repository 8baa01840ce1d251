"""Tests that a node ends cleanly: repeated signals, and no TCP transport that could hang.

The terminal and ``ros2 launch`` both forward Ctrl-C, so a node receives it twice.
"""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from sf_bringup.graph import arm_graph
from sf_bringup.up import command_line
from sf_policy_node.ros_testing import PATIENCE_S

pytestmark = pytest.mark.ros
READY = {"sim_arm": "simulated arm ready", "chunk_executor": "active"}
SPECS = {spec.name: spec for spec in arm_graph(robot="sim_arm", policy="none")}


@pytest.mark.parametrize("name", sorted(READY))
def test_a_node_that_receives_many_signals_exits_with_zero(name, ros_domain):
    process = subprocess.Popen(
        command_line(SPECS[name]), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for line in process.stdout:
            if READY[name] in line:
                break
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert process.returncode == 0, process.stdout.read()
    finally:
        process.kill()
        process.communicate()


def test_a_node_has_no_tcp_transport(ros_domain):
    """With TCP, a node that ends while others send sometimes hangs (docker/README.md)."""
    process = subprocess.Popen(
        command_line(SPECS["sim_arm"]), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for line in process.stdout:
            if READY["sim_arm"] in line:
                break
        open_files = {link.readlink().name for link in Path(f"/proc/{process.pid}/fd").iterdir()}
        tables = {
            kind: Path(f"/proc/{process.pid}/net/{kind}").read_text().splitlines()[1:]
            for kind in ("udp", "tcp", "tcp6")
        }
        sockets = {
            kind: [line for line in lines if f"socket:[{line.split()[9]}]" in open_files]
            for kind, lines in tables.items()
        }
        assert sockets["udp"] and not sockets["tcp"] + sockets["tcp6"]
    finally:
        process.kill()
        process.communicate()
