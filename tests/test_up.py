"""Tests of the graph as processes (``up``).

The graph answers over ROS, ends in order, and names the process that failed. Twin of
``test_arm_launch.py``.
"""

import fcntl
import mmap
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from array import array

import psutil
import pytest

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_policy_node.contract import load_contract
from sf_policy_node.ros_testing import PATIENCE_S

pytestmark = pytest.mark.ros
NODES = ("sim_arm", "chunk_executor")


@pytest.fixture
def graph(ros_domain, tmp_path):
    """Start the arm and the executor without a policy; wait until both answer."""
    with GraphProcess(["robot:=sim_arm", "policy:=none"], tmp_path / "graph.log") as graph:
        client = ArmClient(load_contract(find_robot("sim_arm")), alive=graph.check)
        try:
            client.wait_for_arm(PATIENCE_S)
            client.wait_for_executor(PATIENCE_S)
            yield graph
        finally:
            client.close()


def pids(graph):
    """Return the process id of each node from the output of ``up``."""
    return {
        name: int(pid)
        for name, pid in re.findall(r"(\w+) started \(pid=(\d+)\)", graph.log.read_text())
    }


def wait_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    assert not alive, f"still running: {[process.cmdline() for process in alive]}"


def test_ctrl_c_ends_all_nodes_in_order(graph):
    nodes = pids(graph)
    assert set(nodes) == set(NODES)
    family = psutil.Process(graph.pid).children(recursive=True)
    assert {process.pid for process in family} >= set(nodes.values())
    assert graph.stop() == 0
    wait_gone(family)
    text = graph.log.read_text()
    assert "real-time factor" in text and "Traceback" not in text


@pytest.mark.slow
def test_the_shipped_policy_starts_with_its_instruction_and_ends_in_order(ros_domain, tmp_path):
    with GraphProcess(
        ["robot:=sim_arm", "policy:=nano", "seed:=7", "instruction:=pick the red cube"],
        tmp_path / "graph.log",
    ) as graph:
        client = ArmClient(load_contract(find_robot("sim_arm")), alive=graph.check)
        try:
            client.wait_for_arm(PATIENCE_S)
            client.wait_for_policy(PATIENCE_S)
            client.wait_until(
                lambda: client.policy.instruction == "pick the red cube",
                PATIENCE_S,
                "the instruction did not arrive",
            )
            assert client.task.seed == 7
            client.wait_until(
                lambda: client.executor.chunks_accepted > 0, PATIENCE_S, "no chunk was followed"
            )
        finally:
            client.close()
        family = psutil.Process(graph.pid).children(recursive=True)
        assert set(pids(graph)) == {*NODES, "policy_node"}
        assert graph.stop() == 0
        wait_gone(family)
    assert "Traceback" not in graph.log.read_text()


def test_sigterm_ends_all_nodes_too(graph):
    family = psutil.Process(graph.pid).children(recursive=True)
    os.kill(graph.pid, signal.SIGTERM)
    assert graph.wait(PATIENCE_S) == 0
    wait_gone(family)


@pytest.mark.parametrize("victim", NODES)
def test_a_node_that_dies_stops_the_others_and_is_named(graph, victim):
    family = psutil.Process(graph.pid).children(recursive=True)
    os.kill(pids(graph)[victim], signal.SIGKILL)
    assert graph.wait(PATIENCE_S) == 1
    wait_gone(family)
    text = graph.log.read_text()
    assert f"{victim} was ended by SIGKILL, so everything was stopped; its last lines:" in text


def test_a_node_that_cannot_start_stops_the_others_with_its_sentence(ros_domain, tmp_path):
    contract = tmp_path / "arm.yaml"
    contract.write_text(find_robot("sim_arm").read_text().replace("name: wrist", "name: elbow"))
    (tmp_path / "sim_arm.urdf").write_text(
        find_robot("sim_arm").with_name("sim_arm.urdf").read_text()
    )
    with GraphProcess([f"robot:={contract}", "policy:=none"], tmp_path / "graph.log") as graph:
        assert graph.wait(PATIENCE_S) == 1
    text = graph.log.read_text()
    assert (
        "sim_arm ended with exit code 1" in text and "elbow is not in the model of sim_arm" in text
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("robot:=ur55", "up: robot: 'ur55' is unknown; known are "),
        ("policy:=gpt", "up: policy: 'gpt' is unknown; known are"),
        ("speed:=2", "up: 'speed:=2' is not an argument"),
    ],
)
def test_unknown_names_give_one_sentence_and_start_nothing(word, message):
    done = subprocess.run(
        [sys.executable, "-m", "sf_bringup.up", word],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert (
        done.stderr.startswith(message)
        and "Traceback" not in done.stderr
        and "started" not in done.stdout
    )


# `up` with two shells in place of an executor with a rest pose and a driver; each writes its end.
FINISHING = """
import sys
from sf_bringup import up
from sf_bringup.graph import NodeSpec
NODE = "trap 'sleep %s; echo %s INT >> log; exit 0' INT; trap 'echo %s HUP >> log; exit 0' HUP; "
NODE += "echo ready; while :; do sleep 0.02; done"
SECONDS = {"executor": sys.argv[1], "driver": "0"}
up.command_line = lambda spec: ["sh", "-c", NODE % (SECONDS[spec.name], spec.name, spec.name)]
manager = up.NodeManager()
for name in SECONDS:
    manager.add_node(NodeSpec("", "", name, finishes=name == "executor"), up.start_environment())
sys.exit(manager.run())
"""


@pytest.mark.parametrize(
    ("signals", "log"),
    [
        ([signal.SIGINT], ["executor INT", "driver INT"]),
        ([signal.SIGHUP], ["executor HUP", "driver INT"]),
        ([signal.SIGINT, signal.SIGINT], ["driver INT", "executor INT"]),
    ],
)
def test_an_executor_with_a_rest_pose_ends_before_its_drivers(signals, log, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", FINISHING, "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        # A shell cannot trap what its parent ignores: SIGINT in the background, SIGHUP under nohup.
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in signals],
    )

    def read_until(text):
        while text not in (line := process.stdout.readline()):
            assert line, f"up ended before it wrote {text!r}"

    watchdog = threading.Timer(PATIENCE_S, process.kill)
    watchdog.start()
    try:
        for _ in range(2):
            read_until("ready")
        for number in signals:
            process.send_signal(number)
            if number != signal.SIGHUP:  # up reports nothing then: its terminal is gone
                read_until(f"{signal.Signals(number).name} received")
        assert process.wait(PATIENCE_S) == 0
    finally:
        watchdog.cancel()
        process.kill()
    assert (tmp_path / "log").read_text().splitlines() == log


# `up` with a shell that writes a page every 10 ms until SIGINT. One that writes without pause has
# more lines in up's queue by then than a slow machine prints in the time that a node has to end.
CHATTY = """
import sys
from sf_bringup import up
from sf_bringup.graph import NodeSpec
NODE = "trap 'echo INT >> log; exit 0' INT; while :; do echo " + 4096 * "x" + "; sleep 0.01; done"
up.command_line = lambda spec: ["sh", "-c", NODE]
manager = up.NodeManager()
manager.add_node(NodeSpec("", "", "talker"), up.start_environment())
sys.exit(manager.run())
"""


def wait_until_full(pipe):
    """Wait until the writer of a pipe is blocked: as many bytes in it for half a second."""
    filled, steady, end = array("i", [0]), 0, time.monotonic() + PATIENCE_S
    while steady < 50:
        assert time.monotonic() < end, "up does not fill the pipe"
        before = filled[0]
        fcntl.ioctl(pipe, termios.FIONREAD, filled)
        steady = steady + 1 if filled[0] == before > 8 * mmap.PAGESIZE else 0
        time.sleep(0.01)


def test_a_signal_while_a_line_is_written_stops_the_nodes(tmp_path):
    """Before, writing "SIGINT received" raised RuntimeError, and up ended without its nodes."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", CHATTY],
        cwd=tmp_path,
        env=buffered,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_until_full(process.stdout.fileno())
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0 and b"SIGINT received" in output, errors.decode()
    assert (tmp_path / "log").read_text() == "INT\n"
