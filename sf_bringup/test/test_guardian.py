"""Tests of ending the graph of a killed starter, and of one graph per ROS domain.

They use plain processes without nodes.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

from sf_bringup.arguments import GraphError
from sf_bringup.guardian import MARK, processes_of
from sf_bringup.one_graph import only_graph, refuse_second_graph
from sf_bringup.record import keep_log

STARTER = """
import os, subprocess, sys, time
from sf_bringup.guardian import MARK, start_guardian
node = "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: (open(sys.argv[1], 'w').write('in order'), sys.exit())); " \\
    "print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", node, sys.argv[2]], env={**os.environ, MARK: sys.argv[1]}, stdout=subprocess.PIPE,
    start_new_session=True)
child.stdout.readline()
start_guardian(sys.argv[1])
print("up", flush=True)
time.sleep(600)
"""  # noqa: E501


def wait(condition, what, seconds=30.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} did not come about"
        time.sleep(0.02)


def test_nodes_of_a_killed_starter_are_stopped_in_order(tmp_path):
    graph, trace = f"test-{os.getpid()}", tmp_path / "trace"
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, graph, str(trace)], stdout=subprocess.PIPE
    )
    starter.stdout.readline()
    assert len(processes_of(graph)) == 1
    starter.kill()
    starter.wait()
    wait(lambda: not processes_of(graph), "the end of the node")
    assert trace.read_text() == "in order"


def test_a_graph_ends_when_its_starter_is_killed():
    """SF_STARTER names the parent: when that one is gone, the watcher acts."""
    watcher = (
        "import os, signal\nfrom sf_bringup.guardian import"
        " when_starter_ends\nwhen_starter_ends(lambda: os.kill(os.getpid(),"
        " signal.SIGTERM))\nprint(os.getpid(), flush=True)\nsignal.pause()"
    )
    parent = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {watcher!r}], env={{**os.environ, "SF_STARTER": str(os.getpid()), "{MARK}": sys.argv[1]}})
time.sleep(600)
"""  # noqa: E501
    graph = f"test-starter-{os.getpid()}"
    process = subprocess.Popen([sys.executable, "-c", parent, graph], stdout=subprocess.PIPE)
    assert int(process.stdout.readline()) in processes_of(graph)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait(lambda: not processes_of(graph), "the end of the graph")


def test_a_domain_has_one_graph(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("ROS_DOMAIN_ID", "77")
    with only_graph(["record", "task:=fold"], ""):
        with pytest.raises(
            GraphError,
            match=rf"ROS domain 77 already \(process {os.getpid()}: record task:=fold\); stop it",
        ):
            refuse_second_graph("/")
        refuse_second_graph("left")
        monkeypatch.setenv("ROS_DOMAIN_ID", "78")
        refuse_second_graph("")
    monkeypatch.setenv("ROS_DOMAIN_ID", "77")
    refuse_second_graph("")
    with only_graph([], "/left/arm"), pytest.raises(GraphError, match="another namespace:="):
        refuse_second_graph("left/arm")


def test_the_log_of_the_previous_run_is_kept(tmp_path):
    log = tmp_path / "record.log"
    for number in range(13):
        log.write_text(f"run {number}")
        os.utime(log, (1e9 + number, 1e9 + number))
        keep_log(log)
        assert not log.exists()
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == sorted(
        f"run {number}" for number in range(3, 13)
    )
