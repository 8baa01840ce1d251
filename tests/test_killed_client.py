"""Tests of a command that is killed while the arm follows it, with a graph of real processes."""

import subprocess
import sys
import time

import pytest
import yaml

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_bringup.lease import LEASE_S
from sf_msgs.msg import ExecutorStatus
from sf_policy_node.contract import load_contract
from sf_policy_node.ros_testing import PATIENCE_S

pytestmark = [pytest.mark.ros, pytest.mark.slow]
SLOW = 0.1  # of the joints' velocities: the way home takes about a minute


@pytest.fixture
def slow_robot(tmp_path):
    """Return the path of a contract whose arm needs a minute to its home pose."""
    source = find_robot("fr3")
    data = yaml.safe_load(source.read_text())
    for joint in data["joints"]:
        joint["velocity"] *= SLOW
    path = tmp_path / "slow.yaml"
    path.write_text(yaml.safe_dump(data))
    (tmp_path / data["urdf"]).write_text(source.with_name(data["urdf"]).read_text())
    return path


def test_the_arm_stops_when_the_home_command_is_killed(slow_robot, tmp_path, ros_domain):
    with GraphProcess(
        [f"robot:={slow_robot}", "sim:=true", "policy:=none"], tmp_path / "graph.log"
    ) as graph:
        client = ArmClient(load_contract(slow_robot), alive=graph.check)
        home = None
        try:
            client.wait_for_arm(PATIENCE_S)
            client.wait_for_executor(PATIENCE_S)
            home = subprocess.Popen(
                [sys.executable, "-m", "sf_bringup.home", f"robot:={slow_robot}"]
            )
            is_homing = lambda: client.executor.state == ExecutorStatus.HOMING  # noqa: E731
            client.wait_until(
                lambda: is_homing() or home.poll() is not None, PATIENCE_S, "the arm does not move"
            )
            end = time.monotonic() + 2 * LEASE_S  # a living client keeps its goal
            client.wait_until(lambda: time.monotonic() > end, PATIENCE_S, "never")
            assert is_homing() and home.poll() is None
            home.kill()
            killed = time.monotonic()
            client.wait_until(
                lambda: "the client of the action is gone" in client.executor.reason,
                60.0,
                "the arm goes on",
            )
            took = time.monotonic() - killed
            print(f"stopped {took:.1f} s after the kill")
            assert client.executor.state == ExecutorStatus.HOLDING
            assert took < LEASE_S + 8.0  # a busy machine
        finally:
            if home is not None:
                home.kill()
                home.wait()
            client.close()
