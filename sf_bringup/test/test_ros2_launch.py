"""Tests of `ros2 launch` from the command line.

Skipped where ROS 2 came from wheels, which lack it.
"""

import functools
import os
import re
import shutil
import signal
import subprocess
import threading

import psutil
import pytest

from sf_bringup.graph import find_robot
from sf_bringup.journeys import JOURNEYS

ROS2 = shutil.which("ros2")
PATIENCE_S = 300.0  # reached only by a hang
pytestmark = [
    pytest.mark.ros,
    pytest.mark.timeout(PATIENCE_S + 60),
    pytest.mark.skipif(
        ROS2 is None, reason="there is no command ros2: it comes with an installed ROS 2"
    ),
]


def launch(*words: str) -> list[str]:
    return [ROS2, "launch", "--noninteractive", "sf_bringup", *words]


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        launch(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize("journey", JOURNEYS)
def test_arguments_and_nodes_are_shown(journey):
    shown = run(f"{journey}.launch.py", "--show-args").stdout
    assert re.findall(r"^ +'(\w+)':$", shown, re.MULTILINE) == [
        each.name for each in JOURNEYS[journey].arguments
    ]
    printed = run(f"{journey}.launch.py", "--print").stdout
    for node in JOURNEYS[journey].nodes:
        assert f"ExecInPkg(pkg='{node.package}', exec='{node.executable}')" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["shaddow:=true"],
            "shaddow:= is not an argument of this launch file (did you mean shadow?)",
        ),
        (["velocity:=2"], "velocity:= is not an argument of this launch file; it takes robot"),
        (["robot:=ur55"], "robot: 'ur55' is unknown; known are"),
        (["seed:=soon"], "seed: 'soon' is not a number"),
        (["namespace:=a-b"], "namespace: 'a-b' is not a ROS namespace"),
        (["params_file:=/nowhere.yaml"], "params_file: /nowhere.yaml does not exist"),
    ],
)
def test_unusable_arguments_start_nothing(words, message, ros_domain):
    done = run("arm.launch.py", "policy:=none", *words)
    assert done.returncode == 1 and message in done.stdout
    assert "process started" not in done.stdout and "Traceback" not in done.stdout


def test_a_node_that_cannot_start_gives_exit_code_one(ros_domain, tmp_path):
    contract = tmp_path / "arm.yaml"
    contract.write_text(find_robot("sim_arm").read_text().replace("name: wrist", "name: elbow"))
    (tmp_path / "sim_arm.urdf").write_text(
        find_robot("sim_arm").with_name("sim_arm.urdf").read_text()
    )
    done = run("arm.launch.py", f"robot:={contract}", "policy:=none")
    assert done.returncode == 1
    assert re.search(r"\[launch\].*sim_arm-\d+ ended with exit code 1", done.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_nodes_in_order(number, ros_domain, tmp_path):
    process = subprocess.Popen(
        launch("arm.launch.py", "policy:=none", "shadow:=True", "namespace:=left"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        # A shell's background jobs ignore SIGINT, and `ros2 launch` inherits that.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    watchdog = threading.Timer(PATIENCE_S, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    lines, family = [], []
    for line in process.stdout:
        lines.append(line)
        if not family and "[left.chunk_executor]: active, in shadow mode" in line:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
    code = process.wait()
    watchdog.cancel()
    assert family and code == 0, "".join(lines)
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert "[left.chunk_executor]: inactive" in "".join(lines)
    assert not list(tmp_path.iterdir())  # parameter files
