"""Test the policy node with every kind of checkpoint."""

import backbone_cases as cases
import numpy as np
import pytest
from motion_cases import sim_arm
from policy_node_cases import Policy
from rclpy.parameter import Parameter

from sf_policy_node.motion.types import Join
from sf_policy_node.nodes.policy_node import load_policy
from sf_policy_node.vla.checkpoint import save_checkpoint

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(
    ("make", "continues", "join"),
    [
        (lambda: cases.hf("smolvlm"), True, Join.BLEND),
        (lambda: cases.hf("qwen3_vl", head="flow"), True, Join.RTC),
        (lambda: cases.hf("qwen3_vl", head="flow"), False, Join.BLEND),
        (cases.pi0, True, Join.RTC),
    ],
)
def test_a_checkpoint_of_each_kind_publishes_consecutive_chunks(
    graph, tmp_path, make, continues, join
):
    save_checkpoint(tmp_path / "policy", make(), cases.CONTRACT, cases.statistics(), {})
    policy = load_policy(str(tmp_path / "policy"), sim_arm(), "cpu")
    node = Policy(graph, policy, Parameter("real_time_chunking", value=continues))
    node.say("pick the red cube")
    node.until(lambda: len(node.chunks) > 2, "three chunks")
    assert node.chunks[-1].policy_id.startswith("policy@")
    assert Join(node.chunks[-1].join) is join
    assert np.isfinite(node.chunks[-1].data).all()
