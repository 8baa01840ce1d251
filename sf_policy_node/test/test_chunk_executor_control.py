"""Tests over DDS of arbitration, pauses, the policy's state and diagnostics."""

import time

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from executor_cases import TOPICS, Executor
from motion_cases import CONTRACT_PATH, HOME, sim_arm, straight
from other_joint_cases import urdf_with_mast
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
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


def test_an_operator_takes_over_and_hands_back_and_the_topic_reports_the_source(executor):
    sources = executor.graph.listen(ControlSource, TOPICS.control_source, LATCHED)
    leader = executor.graph.publisher(JointState, TOPICS.teleop_command)

    def controlled_by(source):
        return lambda: sources and sources[-1].source == source

    def teleoperate(position=HOME + 0.03):
        stamp = to_stamp(executor.graph.now())
        leader.publish(
            JointState(
                header=Header(stamp=stamp),
                name=sim_arm().command_joints,
                position=position.tolist(),
            )
        )
        executor.arm()

    executor.until(
        lambda: sources and sources[-1].reason == "waiting for the first chunk",
        "nobody in charge, for a reason of now",
    )
    assert sources[-1].source == ControlSource.NOBODY
    executor.send(FAST)
    executor.until(controlled_by(ControlSource.POLICY), "the policy in charge")
    executor.graph.until(
        controlled_by(ControlSource.TELEOPERATION), "the person in charge", each=teleoperate
    )
    executor.graph.until(
        lambda: executor.status.state == ExecutorStatus.TELEOPERATION,
        "the status",
        each=teleoperate,
    )
    assert executor.status.control_source == ControlSource.TELEOPERATION
    executor.graph.until(
        lambda: "of the leader jumped by" in executor.status.reason,
        "the reason after its cable dropped",
        each=lambda: teleoperate(0.0 * HOME),
    )
    executor.until(controlled_by(ControlSource.NOBODY), "nobody in charge")
    assert "released" in sources[-1].reason


def test_a_pause_stops_the_arm_and_late_subscribers_receive_it(executor):
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


def test_the_arm_stops_as_soon_as_the_policy_reports_its_end(executor):
    policy = executor.graph.publisher(PolicyStatus, TOPICS.policy_status)
    executor.send(FAST)
    policy.publish(PolicyStatus(state=PolicyStatus.RUNNING, epoch=1))
    executor.move(FAST)
    policy.publish(PolicyStatus(state=PolicyStatus.IDLE, epoch=1, reason="cancelled by the client"))
    executor.until(lambda: len(executor.commands) >= 2, "the stop")
    executor.until(
        lambda: (
            executor.status.state == ExecutorStatus.HOLDING
            and "cancelled by the client" in executor.status.reason
        ),
        "the hold, and its reason",
    )


def test_diagnostics_report_the_executor_in_one_sentence(executor):
    received = executor.graph.listen(DiagnosticArray, "/diagnostics")
    executor.until(lambda: received, "diagnostics")
    status = received[-1].status[0]
    assert status.name.startswith("chunk_executor") and status.hardware_id == "sim_arm"
    assert status.level in (DiagnosticStatus.OK, DiagnosticStatus.WARN)
    assert {"queue depth", "clip rate"} <= {value.key for value in status.values}


def test_the_blending_mode_can_be_set_and_a_wrong_one_gives_one_sentence(graph):
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
    assert np.max(executor.status.shadow_error_max[:6]) > 0.05  # the operator's arm is stationary
    assert not executor.commands


def test_shadow_mode_compares_the_policy_with_teleoperation(graph):
    executor = Executor(graph, shadow=True)
    leader = executor.graph.publisher(JointState, TOPICS.teleop_command)

    def teleoperate():
        stamp = to_stamp(executor.graph.now())
        leader.publish(
            JointState(
                header=Header(stamp=stamp),
                name=sim_arm().command_joints,
                position=(HOME + 0.03).tolist(),
            )
        )
        executor.arm()

    executor.graph.until(leader.get_subscription_count, "the executor", each=teleoperate)
    executor.send(FAST)
    executor.graph.until(lambda: executor.status.shadow_rows >= 8, "scores", each=teleoperate)
    assert (
        executor.status.control_source != ControlSource.TELEOPERATION
        and executor.status.chunks_refused == 0
    )
    assert not executor.commands


def test_the_node_passes_measured_joints_without_commands_to_the_collision_check(graph, tmp_path):
    data = yaml.safe_load(CONTRACT_PATH.read_text()) | {"urdf": "mast.urdf"}
    (tmp_path / "mast.urdf").write_text(urdf_with_mast())
    (tmp_path / "mast.yaml").write_text(yaml.safe_dump(data))
    contract = Parameter("contract", value=str(tmp_path / "mast.yaml"))
    node = graph.add(ChunkExecutorNode(parameter_overrides=[contract]))
    statuses = graph.listen(ExecutorStatus, TOPICS.executor_status)
    states = graph.publisher(JointState, TOPICS.joint_states, qos_profile_sensor_data)
    others = node._motion.other_joints
    assert others.unmeasured == ["mast"]
    graph.until(
        lambda: any("joint states of mast so far" in each for each in node._problems), "a problem"
    )

    def report():
        header = Header(stamp=to_stamp(graph.now()))
        states.publish(JointState(header=header, name=["mast"], position=[-0.6]))

    graph.until(lambda: not others.unmeasured, "the mast", each=report)
    assert "post" in node._motion.workspace.explain_violation(HOME, HOME[None] + 1e-3)[1]
    graph.until(
        lambda: statuses and "no joint states of mast" in statuses[-1].reason, "the silent mast"
    )

    def report_arm():
        header, names = Header(stamp=to_stamp(graph.now())), sim_arm().command_joints
        states.publish(JointState(header=header, name=names, position=HOME.tolist()))

    def is_a_warning():
        found = node._describe()
        return found.level == DiagnosticStatus.WARN and "joint states of mast" in found.message

    graph.until(is_a_warning, "a warning about the mast", each=report_arm)


def test_a_reason_of_which_only_the_numbers_change_is_not_published_at_once(executor, monkeypatch):
    """Before, a leader held at a wall caused a status for each of its commands."""
    node, published, now = executor.node, [], [1000.0]
    monkeypatch.setattr(node, "_publish_status", lambda: published.append(node._reported[2]))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for count in range(50):  # of commands at 100 Hz
        now[0] += 0.01
        node._motion._log.report(f"hand would come within {count % 5} mm of link{count // 25}")
        node._report_change()
    assert 2 <= len(published) <= 6
    assert {"hand would come within 0 mm of link0", "hand would come within 0 mm of link1"} <= {
        *published
    }
