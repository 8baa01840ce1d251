"""Tests of parameters: type and range, refusals in one sentence, locked while configured."""

import pytest
from motion_cases import CONTRACT_PATH
from rclpy.parameter import Parameter

from sf_policy_node.nodes.chunk_executor import ChunkExecutorNode
from sf_policy_node.nodes.parameters import Declared
from sf_policy_node.nodes.policy_node import PolicyNode

SECONDS = Declared("age_s", float, 0.1, 60.0, (), False)
STEPS = Declared("steps", int, 1, None, (), False)


@pytest.mark.parametrize(
    ("declared", "value", "fault"),
    [
        (SECONDS, 10, ""),
        (SECONDS, 0.5, ""),
        (SECONDS, True, "age_s: True is not a number"),
        (SECONDS, "10", "age_s: '10' is not a number"),
        (SECONDS, float("nan"), "age_s: nan is not finite"),
        (SECONDS, 0.05, "age_s: 0.05 is below 0.1; give 0.1 to 60"),
        (SECONDS, 61, "age_s: 61 is above 60; give 0.1 to 60"),
        (STEPS, 3.0, "steps: 3.0 is not a whole number"),
        (STEPS, 0, "steps: 0 is below 1; give 1 or more"),
        (Declared("on", bool, None, None, (), False), "yes", "on: 'yes' is not true or false"),
        (
            Declared("way", str, None, None, ("up", "down"), False),
            "left",
            "way: 'left' is not one of up, down",
        ),
    ],
)
def test_values_are_converted_or_refused(declared, value, fault):
    assert declared.fault(value) == fault


def overrides(**values):
    return [
        Parameter("contract", value=str(CONTRACT_PATH)),
        *(Parameter(name, value=value) for name, value in values.items()),
    ]


@pytest.mark.ros
def test_integers_are_accepted_and_wrong_values_refused_in_one_sentence(graph):
    node = graph.add(
        PolicyNode(parameter_overrides=overrides(observation_timeout_s=10)), activate=False
    )
    assert node.value("observation_timeout_s") == 10.0 and isinstance(
        node.value("observation_timeout_s"), float
    )
    (described,) = node.describe_parameters(["observation_timeout_s"])
    assert (
        described.floating_point_range[0].from_value == 0.1
        and "configured" in described.additional_constraints
    )
    for values, words in (
        ({"replan_steps": 0}, "replan_steps: 0 is below 1"),
        ({"observation_timeout_s": -1}, "is below 0.1"),
    ):
        with pytest.raises(ValueError, match=words):
            PolicyNode(parameter_overrides=overrides(**values))
    gpu = graph.add(PolicyNode(parameter_overrides=overrides(device="gpu")), activate=False)
    assert (
        gpu.trigger_configure().name == "FAILURE"
        and "'gpu' is not one of auto, cpu, cuda or cuda:N" in gpu.failure
    )


@pytest.mark.ros
def test_configuration_parameters_are_locked_while_configured(graph):
    node = graph.add(ChunkExecutorNode(parameter_overrides=overrides()))

    def set_shadow():
        return node.set_parameters([Parameter("shadow", value=True)])[0]

    refused = set_shadow()
    assert (
        not refused.successful
        and "clean up the node first" in refused.reason
        and node.value("shadow") is False
    )
    assert not node.set_parameters([Parameter("autostart", value=False)])[0].successful
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert set_shadow().successful and node.value("shadow") is True
