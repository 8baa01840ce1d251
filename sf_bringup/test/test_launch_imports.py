"""Tests of imports of launch files, which run under the Python of `ros2` without our venv."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1]
LAUNCH_FILES = sorted((PACKAGE / "launch").glob("*.launch.py"))
OF_ROS = {"ament_index_python", "launch", "launch_ros", "yaml"}  # yaml: launch_ros needs it itself


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def all_modules(path: Path) -> dict[str, set[str]]:
    """Return the top-level imports of every sf_bringup module that a launch file needs."""
    found, open_ends = {}, [path]
    while open_ends:
        path = open_ends.pop()
        names = imported(path)
        found[path.name] = {name.partition(".")[0] for name in names}
        for name in names:
            parts = name.split(".")
            file = PACKAGE.joinpath(*parts).with_suffix(".py")
            if parts[0] == "sf_bringup" and file.is_file() and file.name not in found:
                open_ends.append(file)
    return found


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_a_launch_file_imports_only_ros_and_the_standard_library(path):
    modules = all_modules(path)
    assert {"launch_actions.py", "graph_output.py", "arguments.py", "journeys.py"} <= set(modules)
    for file, names in modules.items():
        assert not names - OF_ROS - {"sf_bringup"} - set(sys.stdlib_module_names), file


@pytest.mark.parametrize(
    "module", ["sf_bringup.arguments", "sf_bringup.journeys", "sf_policy_node.programs"]
)
def test_a_launch_module_imports_without_installed_packages(module):
    positions = [str(PACKAGE), str(PACKAGE.parent / "sf_policy_node")]
    code = (
        f"import sys; sys.path = {positions!r} + [p for p in sys.path if 'site-packages' not in p];"
        f" import {module}"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path",
    [
        PACKAGE / "sf_bringup" / name
        for name in ("arguments.py", "graph_output.py", "journeys.py", "launch_actions.py")
    ],
    ids=str,
)
def test_launch_modules_are_python_3_10(path):
    """Humble has Python 3.10; `ast` checks the syntax; StrEnum, tomllib and others are newer."""
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    assert not imported(path) & {"enum.StrEnum", "tomllib", "typing.Self", "typing.override"}


def test_a_missing_package_gives_one_sentence(tmp_path):
    (tmp_path / "sf_policy_node").symlink_to(PACKAGE.parent / "sf_policy_node" / "sf_policy_node")
    code = f"""
import sys
sys.path = [{str(tmp_path)!r}] + [p for p in sys.path if 'site-packages' not in p]
from sf_policy_node.programs import start
sys.exit(start("sf_policy_node.contract"))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert (
        "is not installed for" in done.stderr and "sf_policy_node/requirements.txt" in done.stderr
    )
