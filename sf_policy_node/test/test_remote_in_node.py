"""Tests over DDS of the policy node with a remote policy: chunks, lost server, refusals."""

import re

import numpy as np
import pytest
from faulty_servers import chunk, encoded, openpi_server
from motion_cases import sim_arm
from node_cases import CONTRACT_PARAMETER, FakeArm
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from sf_msgs.msg import ActionChunk, PolicyStatus
from sf_policy_node.nodes.policy_node import PolicyNode

pytestmark = pytest.mark.ros
TOPICS = sim_arm().topics
MAPPING = """
images: {scene: observation/image}
space: ee_delta
step_s: 0.1
columns: [x, y, z, {name: gripper, open: 1.0, closed: 0.0}]
"""


def parameters(server, folder, mapping=MAPPING):
    (folder / "mapping.yaml").write_text(mapping)
    address = Parameter("checkpoint", value=f"openpi://127.0.0.1:{server.port}")
    return [CONTRACT_PARAMETER, address, Parameter("mapping", value=str(folder / "mapping.yaml"))]


def test_a_server_predicts_chunks_and_its_loss_gives_a_wait_with_the_reason(graph, tmp_path):
    with openpi_server(lambda *_: encoded({"actions": chunk()})) as server:
        chunks = graph.listen(ActionChunk, TOPICS.action_chunk)
        statuses = graph.listen(PolicyStatus, TOPICS.policy_status, 50)
        graph.add(PolicyNode(parameter_overrides=parameters(server, tmp_path)))
        arm = FakeArm(graph)
        late = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        graph.publisher(String, TOPICS.instruction, late).publish(String(data="pick the red cube"))
        graph.until(lambda: chunks, "a chunk", each=arm)
        assert np.array_equal(np.array(chunks[0].data).reshape(8, 4), chunk())
        graph.until(lambda: statuses and "reply" in statuses[-1].device, "the latency", each=arm)
        assert statuses[-1].policy_id == f"policy@openpi://127.0.0.1:{server.port}"
        server.stop()
        lost = graph.until(
            lambda: next((each for each in statuses if each.state == PolicyStatus.WAITING), None),
            "the wait",
            each=arm,
        )
        graph.until(
            lambda: f"openpi://127.0.0.1:{server.port}: " in statuses[-1].reason,
            "the reason",
            each=arm,
        )
        count = len(chunks)
        graph.until(lambda: len(statuses) > statuses.index(lost) + 3, "more statuses", each=arm)
        assert len(chunks) == count
        server.start()


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        (MAPPING.replace("step_s: 0.1", "step_s: 0.02"), "step_s: 0.02 s, the contract's is 0.1 s"),
        (
            MAPPING.replace("open: 1.0, closed: 0.0", "open: 0.0, closed: 0.01"),
            "moves gripper to .* check open and closed of gripper",
        ),
    ],
)
def test_an_incompatible_server_is_refused_before_the_arm_moves(graph, tmp_path, mapping, reason):
    with openpi_server(lambda *_: encoded({"actions": chunk()})) as server:
        node = graph.add(
            PolicyNode(parameter_overrides=parameters(server, tmp_path, mapping)), activate=False
        )
        assert node.trigger_configure().name != "SUCCESS"
        assert re.search(reason, str(node.failure))
