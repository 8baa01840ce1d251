"""Tests of QoS overrides of a managed node by parameters, and after a reconfiguration."""

import pytest
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from std_msgs.msg import String

from sf_policy_node.contract import load_contract
from sf_policy_node.nodes.lifecycle import LATCHED, ManagedNode

pytestmark = pytest.mark.ros


class Relay(ManagedNode):
    """A node with two topics."""

    def set_up(self, contract) -> None:
        self.subscribe(String, "heard", lambda message: None, qos_profile_sensor_data)
        self.said = self.publisher(String, "said", QoSProfile(depth=5))
        self.state = self.publisher(String, "state", LATCHED)


def test_parameters_change_the_qos(graph):
    from motion_cases import CONTRACT_PATH

    assert load_contract(CONTRACT_PATH)
    overrides = {
        "/left/heard.subscription.reliability": "reliable",
        "/left/said.publisher.depth": 7,
    }
    parameters = [
        Parameter(f"qos_overrides.{name}", value=value) for name, value in overrides.items()
    ]
    parameters.append(Parameter("contract", value=str(CONTRACT_PATH)))
    node = graph.add(Relay("relay", namespace="left", parameter_overrides=parameters))
    for _ in range(2):
        (received,) = node.get_subscriptions_info_by_topic("/left/heard")
        assert received.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert node.get_parameter("qos_overrides./left/said.publisher.depth").value == 7
        assert node.inputs[0].qos.reliability == ReliabilityPolicy.RELIABLE
        node.trigger_deactivate()
        node.trigger_cleanup()
        node.trigger_configure()
        node.trigger_activate()
    assert (
        LATCHED.depth == 1 and qos_profile_sensor_data.reliability == ReliabilityPolicy.BEST_EFFORT
    )  # shared profiles are unchanged
