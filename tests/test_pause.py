"""Test pause and resume with the shipped policy and real processes."""

import re

import numpy as np
import pytest

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_msgs.msg import ExecutorStatus, PolicyStatus
from sf_policy_node.contract import load_contract
from sf_policy_node.ros_testing import PATIENCE_S

pytestmark = [pytest.mark.ros, pytest.mark.slow]
SEED = 990_001
MOVING, STILL = (
    0.02,
    0.001,
)  # motion of the tool between two reports of the simulator, 0.1 s apart [m]


class Arm:
    """The motion of the arm by the simulator's ground truth."""

    def __init__(self, client):
        self.client = client

    @property
    def tool(self):
        return np.array([self.client.task.tool.x, self.client.task.tool.y, self.client.task.tool.z])

    def distance_moved(self, seconds):
        """Return the distance that the tool moves in simulated seconds [m]."""
        start = self.tool
        self.client.let_pass(seconds)
        return float(np.linalg.norm(self.tool - start))


def test_a_paused_arm_is_stationary_and_a_resumed_one_finishes_its_task(ros_domain, tmp_path):
    contract = load_contract(find_robot("sim_arm"))
    with GraphProcess(["robot:=sim_arm", "policy:=nano"], tmp_path / "graph.log") as graph:
        client = ArmClient(contract, alive=graph.check)
        try:
            arm = Arm(client)
            client.wait_for_arm(PATIENCE_S)
            client.wait_for_policy(PATIENCE_S)
            target = client.reset(SEED).target
            handle = client.start(f"pick the {target} cube", 30.0)
            start = arm.tool
            client.wait_until(
                lambda: np.linalg.norm(arm.tool - start) > MOVING,
                PATIENCE_S,
                "the arm did not move",
            )

            client.pause(True)
            asked = client.simulated_time
            client.wait_until(
                lambda: client.policy.state == PolicyStatus.PAUSED,
                PATIENCE_S,
                "the policy did not pause",
            )
            client.wait_until(
                lambda: client.executor.state != ExecutorStatus.EXECUTING,
                PATIENCE_S,
                "the executor did not stop",
            )
            while arm.distance_moved(0.2) > STILL:
                assert client.simulated_time < asked + contract.budgets.hold_s, (
                    "the arm still moves"
                )
            epoch, chunks = client.executor.epoch, client.executor.chunks_accepted
            assert arm.distance_moved(2.0) < STILL and client.executor.chunks_accepted == chunks
            assert client.feedback.state == "paused" and not client.finished(handle)

            client.pause(False)
            client.wait_until(
                lambda: any(each.lifted for each in client.task.objects),
                PATIENCE_S,
                "nothing was lifted",
            )
            assert client.executor.epoch > epoch
            result = client.finish(handle)
            assert result.worst_cycle_s < 2.0, "the pause is no cycle"
        finally:
            client.close()
    assert re.search(
        r"cube' ended after .* chunks: cancelled by the client; .* chunks per second",
        (tmp_path / "graph.log").read_text(),
    )
