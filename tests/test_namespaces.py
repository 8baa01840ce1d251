"""Two graphs in one ROS domain, each in its own namespace: one from ROS_NAMESPACE, one in the root
namespace. Clients and the doctor reach the right one.
"""

import json
import re
import subprocess
import sys

import pytest
import rclpy

from sf_bringup.arm_client import ArmClient
from sf_bringup.doctor import command
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_policy_node.contract import load_contract
from sf_policy_node.ros_testing import PATIENCE_S

pytestmark = [pytest.mark.ros, pytest.mark.timeout(3 * PATIENCE_S)]
CONTRACT = load_contract(find_robot("sim_arm"))
WORDS = ["robot:=sim_arm", "policy:=none"]


def wait_for(graph: GraphProcess, seed: int, namespace: str = "") -> None:
    client = ArmClient(CONTRACT, alive=graph.check, namespace=namespace)
    try:
        client.wait_for_arm(PATIENCE_S)
        client.wait_for_executor(PATIENCE_S)
        assert client.task.seed == seed
    finally:
        client.close()


def full_names() -> list[str]:
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = rclpy.create_node("watcher", context=context)
    try:
        node.wait_for_node("/left/chunk_executor", PATIENCE_S)
        node.wait_for_node("/chunk_executor", PATIENCE_S)
        found = node.get_node_names_and_namespaces()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    return [f"{namespace.rstrip('/')}/{name}" for name, namespace in found]


def findings_of(namespace: str, capsys) -> list[dict]:
    capsys.readouterr()
    command.main([*WORDS[:1], f"namespace:={namespace}", "json:=-", "seconds:=1", "patience:=60"])
    return json.loads(capsys.readouterr().out)["findings"]


def test_a_graph_of_the_environment_and_one_of_the_root(ros_domain, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROS_NAMESPACE", "left")
    with GraphProcess([*WORDS, "seed:=1"], tmp_path / "left.log") as left:
        wait_for(left, seed=1)
        monkeypatch.delenv("ROS_NAMESPACE")
        with GraphProcess([*WORDS, "seed:=2"], tmp_path / "root.log") as root:
            wait_for(root, seed=2)
            wait_for(left, seed=1, namespace="left")
            nodes = ("chunk_executor", "sim_arm")
            wanted = sorted(f"{space}/{name}" for space in ("", "/left") for name in nodes)
            assert sorted(name for name in full_names() if name.endswith(nodes)) == wanted
            again = subprocess.run(
                [sys.executable, "-m", "sf_bringup.up", *WORDS, "namespace:=left"],
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
            assert again.returncode == 2 and "runs in ROS domain" in again.stderr
            for namespace, clock in (("left", "/left/clock"), ("/", "/clock")):
                findings = findings_of(namespace, capsys)
                text = json.dumps(findings, indent=1)
                assert "running twice" not in text and f"({clock})" in text
                # A busy machine may be late by seconds; another clock is decades away.
                ages = [float(age) for age in re.findall(r"([\d.]+) s old", text)]
                assert max(ages, default=0.0) < 100.0, text
                assert f"on {clock.removesuffix('clock')}joint_states" in text
