"""A second start of the same nodes is refused: the only guard of `ros2 launch`."""

import json

import pytest
import rclpy

from sf_bringup import graph
from sf_bringup.arguments import GraphError
from sf_bringup.journeys import CHECKS_SECOND_START
from sf_bringup.second_start import refuse_second_start
from sf_policy_node.ros_testing import free_domain

pytestmark = pytest.mark.ros


@pytest.fixture
def left_executor(ros_domain):
    """Run a node /left/chunk_executor in the domain of the test."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = rclpy.create_node("chunk_executor", namespace="left", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_running_node_is_named_with_its_domain(left_executor, ros_domain):
    wanted = ["/left/sim_arm", "/left/chunk_executor"]
    cure = rf"^/left/chunk_executor already runs in ROS domain {ros_domain}; stop it, give another"
    with pytest.raises(GraphError, match=cure):
        refuse_second_start(wanted)


def test_other_names_namespaces_and_domains_are_free(left_executor, monkeypatch):
    refuse_second_start(["/chunk_executor", "/right/chunk_executor", "/left/policy_node"])
    refuse_second_start(["/left/chunk", "/left/chunk_executor_2"])
    with free_domain() as other:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(other))
        refuse_second_start(["/left/chunk_executor"])


@pytest.mark.parametrize("namespace", ["left", "/left"])
def test_the_executable_of_launch_files_refuses(left_executor, namespace, monkeypatch, capsys):
    words = ["arm", "policy:=none", f"namespace:={namespace}"]
    assert graph.main(words) == 0  # `ros2 run sf_bringup graph` only prints
    assert "chunk_executor" in json.loads(capsys.readouterr().out)["nodes"]
    monkeypatch.setenv(CHECKS_SECOND_START, "1")
    assert graph.main(words) == 2
    output = capsys.readouterr()
    assert output.err.startswith("graph: /left/chunk_executor already runs") and not output.out
    assert graph.main(["arm", "policy:=none", "namespace:=right"]) == 0


def test_the_namespace_of_the_environment_counts(left_executor, monkeypatch, capsys):
    # The first search of this process: a later one needs up to 2.5 s to find a node.
    monkeypatch.setenv(CHECKS_SECOND_START, "1")
    monkeypatch.setenv("ROS_NAMESPACE", "left")
    assert graph.main(["arm", "policy:=none"]) == 2
    assert "/left/chunk_executor already runs" in capsys.readouterr().err
    monkeypatch.delenv("ROS_NAMESPACE")
    assert graph.main(["arm", "policy:=none"]) == 0
