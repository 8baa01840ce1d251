"""Tests of `ros2 launch` from the command line.

Skipped where ROS 2 came from wheels, which lack it.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import rclpy
from ament_index_python.packages import get_package_share_directory

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


@contextlib.contextmanager
def running(words: list[str], tmp_path: Path) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        words,
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
    try:
        yield process
    finally:
        watchdog.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_nodes_in_order(number, ros_domain, tmp_path):
    words = launch("arm.launch.py", "policy:=none", "shadow:=True", "namespace:=left")
    lines, family = [], []
    with running(words, tmp_path) as process:
        for line in process.stdout:
            lines.append(line)
            if not family and "[left.chunk_executor]: active, in shadow mode" in line:
                family = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(number)
        code = process.wait()
    assert family and code == 0, "".join(lines)
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert "[left.chunk_executor]: inactive" in "".join(lines)
    assert not list(tmp_path.iterdir())  # parameter files


def test_sigterm_lets_the_arm_reach_its_rest_pose_before_its_drivers_end(ros_domain, tmp_path):
    words = launch("arm.launch.py", "robot:=piper", "sim:=true", "policy:=none")
    text, missing = "", ["[chunk_executor]: active", "simulated arm ready"]
    with running(words, tmp_path) as process:
        for line in process.stdout:
            text += line
            if missing and not (missing := [each for each in missing if each not in line]):
                time.sleep(2.0)  # joint states arrive
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, text
    executor_ended = re.search(r"chunk_executor-\d+\]: process has finished cleanly", text)
    simulation_stops = re.search(r"sim_arm-\d+\]: sending signal 'SIGINT'", text)
    assert executor_ended and simulation_stops, text
    assert executor_ended.start() < simulation_stops.start(), text
    assert "the arm is in its rest pose" in text, text


INCLUDING = """
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetRemap


def generate_launch_description():
    arm = IncludeLaunchDescription(
        PythonLaunchDescriptionSource({path!r}), launch_arguments={arguments!r}.items()
    )
    around = [PushRosNamespace("cell"), SetRemap("joint_states", "measured/joint_states")]
    return LaunchDescription([GroupAction([*around, arm])])
"""


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [("", "", "/cell"), ("left", "", "/cell/left"), ("/left", "", "/left"), ("", "env", "/cell")],
)
def test_a_file_that_includes_the_journey_sets_namespace_and_remappings(
    given, variable, expected, ros_domain, tmp_path, monkeypatch
):
    monkeypatch.setenv("ROS_NAMESPACE", variable)
    path = Path(get_package_share_directory("sf_bringup"), "launch", "arm.launch.py")
    arguments = {"policy": "none", "shadow": "true", "namespace": given}
    file = tmp_path / "cell.launch.py"
    file.write_text(INCLUDING.format(path=str(path), arguments=arguments))
    active = f"[{expected[1:].replace('/', '.')}.chunk_executor]: active"
    counts: dict[str, tuple[int, int]] = {}
    text = ""
    with running([ROS2, "launch", "--noninteractive", str(file)], tmp_path) as process:
        for line in process.stdout:
            text += line
            if active in line:
                counts = wait_for_counts(f"{expected}/measured/joint_states")
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, text
    assert counts["measured"] == (1, 1) and counts["elsewhere"] == (0, 0), text
    assert counts["clock"] == (1, 1) and counts["global clock"] == (0, 0), text


def wait_for_counts(topic: str) -> dict[str, tuple[int, int]]:
    """Return publishers and subscriptions of the topic, of the one without remapping and of the
    clocks, once the first two are there.
    """
    space = topic.removesuffix("/measured/joint_states")
    topics = {
        "measured": topic,
        "elsewhere": f"{space}/joint_states",
        "clock": f"{space}/clock",
        "global clock": "/clock",
    }
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = rclpy.create_node("watcher", context=context)

    def counts() -> dict[str, tuple[int, int]]:
        return {
            name: (node.count_publishers(each), node.count_subscribers(each))
            for name, each in topics.items()
        }

    try:
        end = time.monotonic() + 30.0
        while min(counts()["measured"] + counts()["clock"]) < 1 and time.monotonic() < end:
            time.sleep(0.1)
        return counts()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
