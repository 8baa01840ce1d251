"""Tests of reading the executable `graph` from a launch file."""

import shutil
import stat

import pytest

from sf_bringup import graph_output
from sf_bringup.arguments import GraphError
from sf_bringup.graph import find_robot
from sf_bringup.journeys import JOURNEYS


def arguments(**given: str) -> dict[str, str]:
    defaults = {each.name: each.default_text for each in JOURNEYS["arm"].arguments}
    return {**defaults, "policy": "none", **given}


@pytest.fixture
def executable(tmp_path, monkeypatch):
    """Return a function that replaces the executable `graph` with a shell script."""

    def replace(script: str) -> None:
        path = tmp_path / "lib" / "sf_bringup" / "graph"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(graph_output, "get_package_prefix", lambda _: str(tmp_path))

    return replace


def test_warnings_of_a_graph_that_starts_are_shown(ros_domain, tmp_path, capfd):
    for suffix in (".yaml", ".urdf"):
        shutil.copy(find_robot("sim_arm").with_suffix(suffix), tmp_path)
    contract = tmp_path / "sim_arm.yaml"
    graph = graph_output.read_graph("arm", arguments(robot=str(contract)))
    assert {"sim_arm", "chunk_executor"} <= set(graph["nodes"])
    assert f"robot: {contract} has the name sim_arm" in capfd.readouterr().err


def test_all_lines_of_stderr_are_forwarded(executable, capfd):
    executable("""echo first >&2; echo second >&2; echo '{"nodes": {}}'""")
    assert graph_output.read_graph("arm", {}) == {"nodes": {}}
    assert capfd.readouterr().err == "first\nsecond\n"


def test_the_launch_file_has_resolved_the_namespace(executable, monkeypatch):
    """PushRosNamespace("/") and ROS_NAMESPACE=left: the nodes are in the root namespace."""
    monkeypatch.setenv("ROS_NAMESPACE", "left")
    executable("""echo "{\\"nodes\\": {\\"$ROS_NAMESPACE\\": {}}}\"""")
    assert graph_output.read_graph("arm", {}) == {"nodes": {"": {}}}


def test_a_refusal_is_an_error_in_the_words_of_the_graph(ros_domain, capfd):
    with pytest.raises(GraphError, match=r"^robot: 'ur55' is unknown"):
        graph_output.read_graph("arm", arguments(robot="ur55"))
    assert not capfd.readouterr().err


def test_a_failure_without_a_word_gives_the_exit_code(executable):
    executable("exit 7")
    with pytest.raises(GraphError, match=r"lib/sf_bringup/graph ended with exit code 7$"):
        graph_output.read_graph("arm", {})


def test_a_missing_executable_names_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_output, "get_package_prefix", lambda _: str(tmp_path))
    with pytest.raises(GraphError, match="build the workspace with colcon"):
        graph_output.read_graph("arm", {})


def test_a_graph_that_hangs_is_reported(executable, monkeypatch):
    executable("exec sleep 60")
    monkeypatch.setattr(graph_output, "_GRAPH_S", 0.2)
    with pytest.raises(GraphError, match=r"did not end within 0\.2 s"):
        graph_output.read_graph("arm", {})
