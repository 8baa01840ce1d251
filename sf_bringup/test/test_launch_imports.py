"""Launch files run under the Python of `ros2`, which has ROS packages and nothing of the virtual
environment.
"""

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
    """Module of sf_bringup: top-level names that it imports; for everything that a launch file
    leads to.
    """
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
def test_a_launch_file_imports_ros_and_the_standard_library_alone(path):
    modules = all_modules(path)
    assert {"launch_actions.py", "arguments.py", "journeys.py"} <= set(modules)
    for file, names in modules.items():
        assert not names - OF_ROS - {"sf_bringup"} - set(sys.stdlib_module_names), file


@pytest.mark.parametrize(
    "module", ["sf_bringup.arguments", "sf_bringup.journeys", "sf_policy_node.programs"]
)
def test_it_imports_without_any_installed_package(module):
    places = [str(PACKAGE), str(PACKAGE.parent / "sf_policy_node")]
    code = (
        f"import sys; sys.path = {places!r} + [p for p in sys.path if 'site-packages' not in p];"
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
        for name in ("arguments.py", "journeys.py", "launch_actions.py")
    ],
    ids=str,
)
def test_it_is_python_3_10(path):
    """Humble's; `ast` knows the syntax, and StrEnum, tomllib and the like came later."""
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    assert not imported(path) & {"enum.StrEnum", "tomllib", "typing.Self", "typing.override"}


def test_a_missing_package_is_one_sentence(tmp_path):
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
