"""Over DDS: who moves the arm, pauses, the policy's own state, diagnostics."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from executor_cases import TOPICS, Executor
from motion_cases import CONTRACT_PATH, HOME, sim_arm, straight
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from sf_msgs.msg import ControlSource, ExecutorStatus, PolicyStatus
from sf_policy_node.nodes.chunk_executor import ChunkExecutorNode
from sf_policy_node.nodes.conversions import to_stamp

pytestmark = pytest.mark.ros
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
FAST = straight(sim_arm(), (0.03, 0.0, 0.0))


@pytest.fixture
def executor(graph):
    return Executor(graph)


def test_a_person_takes_over_and_hands_back_and_the_topic_says_who_is_in_charge(executor):
    sources = executor.graph.listen(ControlSource, TOPICS.control_source, LATCHED)
    leader = executor.graph.publisher(JointState, TOPICS.teleop_command)

    def said(source):
        return lambda: sources and sources[-1].source == source

    def lead():
        stamp = to_stamp(executor.graph.now())
        leader.publish(
            JointState(
                header=Header(stamp=stamp),
                name=sim_arm().command_joints,
                position=(HOME + 0.03).tolist(),
            )
        )
        executor.arm()

    executor.until(
        lambda: sources and sources[-1].reason == "waiting for the first chunk",
        "nobody in charge, for a reason of now",
    )
    assert sources[-1].source == ControlSource.NOBODY
    executor.send(FAST)
    executor.until(said(ControlSource.POLICY), "the policy in charge")
    executor.graph.until(said(ControlSource.TELEOPERATION), "the person in charge", each=lead)
    executor.graph.until(
        lambda: executor.status.state == ExecutorStatus.TELEOPERATION, "the status", each=lead
    )
    assert executor.status.control_source == ControlSource.TELEOPERATION
    executor.until(said(ControlSource.NOBODY), "nobody in charge")
    assert "released" in sources[-1].reason


def test_a_pause_stops_the_arm_and_a_late_joiner_learns_of_it(executor):
    client = executor.graph.peer.create_client(SetBool, "/chunk_executor/pause")
    executor.until(client.service_is_ready, "the pause service")
    executor.send(FAST)
    executor.until(lambda: executor.commands, "motion")
    future = client.call_async(SetBool.Request(data=True))
    executor.until(lambda: future.done() and len(executor.commands) >= 2, "the stop")
    assert future.result().success
    assert list(executor.commands[1].points[-1].velocities) == [0.0] * 7
    executor.until(lambda: executor.status.state == ExecutorStatus.PAUSED, "the status")
    future = client.call_async(SetBool.Request(data=False))
    executor.until(lambda: executor.status.state == ExecutorStatus.HOLDING, "the hold")


def test_the_arm_stops_as_soon_as_the_policy_says_that_it_has_ended(executor):
    policy = executor.graph.publisher(PolicyStatus, TOPICS.policy_status)
    executor.send(FAST)
    executor.until(lambda: executor.commands, "motion")
    policy.publish(PolicyStatus(state=PolicyStatus.RUNNING, epoch=1))
    policy.publish(PolicyStatus(state=PolicyStatus.IDLE, epoch=1, reason="cancelled by the client"))
    executor.until(lambda: len(executor.commands) >= 2, "the stop")
    executor.until(lambda: executor.status.state == ExecutorStatus.HOLDING, "the hold")
    assert "cancelled by the client" in executor.status.reason


def test_diagnostics_say_in_a_sentence_what_the_executor_does(executor):
    heard = executor.graph.listen(DiagnosticArray, "/diagnostics")
    executor.until(lambda: heard, "diagnostics")
    status = heard[-1].status[0]
    assert status.name.startswith("chunk_executor") and status.hardware_id == "sim_arm"
    assert status.level in (DiagnosticStatus.OK, DiagnosticStatus.WARN)
    assert {"queue depth", "clip rate"} <= {value.key for value in status.values}


def test_the_way_of_joining_can_be_set_and_a_wrong_one_is_one_sentence(graph):
    executor = Executor(graph, join="ensemble")
    executor.send()
    executor.until(lambda: executor.status.join == "ensemble", "the status")
    overrides = [Parameter("contract", value=str(CONTRACT_PATH)), Parameter("join", value="mix")]
    with pytest.raises(ValueError, match="join: 'mix' is not one of policy, blend, ensemble, rtc"):
        ChunkExecutorNode(parameter_overrides=overrides)


def test_shadow_mode_publishes_the_error_against_the_operator(graph):
    executor = Executor(graph, shadow=True)
    executor.send(FAST)
    executor.until(lambda: executor.status.shadow_rows >= 8, "scores")
    assert len(executor.status.shadow_error_rms) == 7
    assert np.max(executor.status.shadow_error_max[:6]) > 0.05  # the operator stood still
    assert not executor.commands


def test_in_shadow_mode_an_operator_who_leads_is_what_the_policy_is_compared_with(graph):
    executor = Executor(graph, shadow=True)
    leader = executor.graph.publisher(JointState, TOPICS.teleop_command)

    def lead():
        stamp = to_stamp(executor.graph.now())
        leader.publish(
            JointState(
                header=Header(stamp=stamp),
                name=sim_arm().command_joints,
                position=(HOME + 0.03).tolist(),
            )
        )
        executor.arm()

    executor.graph.until(leader.get_subscription_count, "the executor", each=lead)
    executor.send(FAST)
    executor.graph.until(lambda: executor.status.shadow_rows >= 8, "scores", each=lead)
    assert (
        executor.status.control_source != ControlSource.TELEOPERATION
        and executor.status.chunks_refused == 0
    )
    assert not executor.commands
