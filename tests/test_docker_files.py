"""Tests of the container files without a container engine."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from sf_bringup.graph import find_robot
from sf_bringup.journeys import remap_global_topics
from sf_bringup.up import FINISH_S, place_in, remap

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_a_service_runs_the_node_directly_with_time_to_stop_the_arm(service):
    """`ros2 run` does not forward signals, so the arm would not be stopped."""
    settings = COMPOSE["services"][service]
    word, package, executable, *_ = settings["command"].split()
    assert word == "node" and settings["init"] is True and settings["restart"] == "no"
    assert f'"{executable} = {package}.programs:{executable}"' in (
        ROOT / package / "setup.py"
    ).read_text(encoding="utf-8")
    assert int(settings["stop_grace_period"].removesuffix("s")) > FINISH_S


@pytest.mark.parametrize(
    ("service", "topic"), [("policy", "policy_status"), ("robot", "executor_status")]
)
def test_a_health_check_waits_for_a_new_status(service, topic):
    """A node that has stopped would still provide a latched message."""
    command = COMPOSE["services"][service]["healthcheck"]["test"]
    contract = yaml.safe_load(find_robot("sim_arm").read_text(encoding="utf-8"))
    name, kind = command[-2:]
    assert name == "${ROS_NAMESPACE:-}/" + contract["topics"][topic]
    assert (ROOT / "sf_msgs/msg" / f"{kind.rpartition('/')[2]}.msg").is_file()
    assert command[command.index("--qos-durability") + 1] == "volatile"
    limit = int(command[command.index("timeout") + 1])
    assert limit < int(COMPOSE["services"][service]["healthcheck"]["timeout"].removesuffix("s"))


def test_the_gpu_file_only_adds_settings():
    gpu = yaml.safe_load((ROOT / "docker/compose.gpu.yaml").read_text(encoding="utf-8"))
    assert set(gpu["services"]) <= set(COMPOSE["services"])
    assert not any("deploy" in settings for settings in COMPOSE["services"].values())


def test_files_that_the_image_copies_exist():
    lines = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    assert copied and all((ROOT / path).exists() for path in copied)
    assert lines.index("COPY docker docker") < lines.index(
        "COPY . ."
    )  # COPY of dependencies comes first


@pytest.mark.parametrize("namespace", ["", "left", "/left/arm"])
def test_the_entrypoint_becomes_the_node(namespace, tmp_path):
    """The entrypoint replaces itself with the node (exec), so signals arrive.

    Its paths are redirected to a folder of this test.
    """
    node = tmp_path / "workspace/install/sf_policy_node/lib/sf_policy_node/chunk_executor"
    node.parent.mkdir(parents=True)
    node.write_text('#!/bin/sh\necho "$$ $*"\n')
    node.chmod(0o755)
    (tmp_path / "workspace/docker").mkdir()
    (tmp_path / "workspace/docker/env.sh").touch()
    (tmp_path / "opt/ros/jazzy").mkdir(parents=True)
    (tmp_path / "opt/ros/jazzy/setup.bash").touch()
    text = (ROOT / "docker/entrypoint.sh").read_text(encoding="utf-8")
    script = tmp_path / "entrypoint.sh"
    script.write_text(re.sub(r"(?<![\w$.])/(opt|workspace)/", rf"{tmp_path}/\1/", text))
    command = [
        "bash",
        str(script),
        "node",
        "sf_policy_node",
        "chunk_executor",
        "--ros-args",
        "-p",
        "autostart:=true",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={"ROS_DISTRO": "jazzy", "PATH": "/usr/bin:/bin", "ROS_NAMESPACE": namespace},
    )
    out, _ = process.communicate(timeout=60)
    words = ["--ros-args", "-p", "autostart:=true"]
    if namespace:
        place = [*place_in(namespace), *remap(remap_global_topics(namespace).items())]
        words += ["--ros-args", *place]
    assert out.split() == [str(process.pid), *words]
