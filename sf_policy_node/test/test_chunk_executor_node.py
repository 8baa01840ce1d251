"""Tests of the chunk executor over DDS: commands, refusals, reports."""

import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml
from executor_cases import COMMANDS, TOPICS, Executor
from motion_cases import CONTRACT_PATH, HOME, make_chunk, sim_arm, straight
from node_cases import PATIENCE_S, FakeArm
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from sf_msgs.msg import ActionChunk, ExecutorStatus
from sf_policy_node.contract import load_contract
from sf_policy_node.nodes.conversions import chunk_to_message, to_seconds

pytestmark = pytest.mark.ros


@pytest.fixture
def executor(graph):
    return Executor(graph)


def test_a_chunk_becomes_a_stamped_trajectory_with_velocities(executor):
    executor.send()
    trajectory = executor.until(lambda: executor.commands, "a trajectory")[0]
    assert trajectory.joint_names == sim_arm().command_joints
    assert 0.0 <= executor.graph.now() - to_seconds(trajectory.header.stamp) < 1.0
    times = [to_seconds(point.time_from_start) for point in trajectory.points]
    assert len(times) > 20 and min(np.diff(times)) > 0.0
    assert all(len(point.positions) == len(point.velocities) == 7 for point in trajectory.points)
    assert max(max(map(abs, point.velocities)) for point in trajectory.points) > 0.05
    assert list(trajectory.points[-1].velocities) == [0.0] * 7
    executor.until(
        lambda: (
            executor.status.state == ExecutorStatus.EXECUTING
            and executor.status.chunks_accepted == 1
        ),
        "the status",
    )
    assert executor.status.executor_latency_p50_s > 0.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": np.full((8, 4), np.nan)}, "step 0, column x is nan"),
        ({"contract_hash": "other"}, "made for contract other"),
        ({"stamp": 1.0}, "budgets.chunk_age_s"),
        ({"data": np.zeros((3, 4))}, "size is 3 x 4"),
    ],
)
def test_a_bad_chunk_moves_nothing_and_the_status_gives_the_reason(executor, changes, reason):
    executor.send(**changes)
    executor.until(lambda: executor.status.chunks_refused == 1, "the refusal")
    assert reason in executor.status.reason
    assert executor.status.state == ExecutorStatus.HOLDING and not executor.commands


def test_a_refusal_is_reported_although_a_good_chunk_follows_at_once(executor):
    executor.send(data=np.full((8, 4), np.nan))
    executor.send()
    executor.until(
        lambda: (
            executor.status.state == ExecutorStatus.EXECUTING
            and executor.status.chunks_accepted == 1
        ),
        "motion",
    )
    assert any("step 0, column x is nan" in status.reason for status in executor.statuses)


def test_a_message_whose_size_and_data_disagree_is_refused(executor):
    message = chunk_to_message(
        make_chunk(sim_arm(), straight(sim_arm()), stamp=executor.graph.now())
    )
    message.rows = 5
    message.action_space = 77
    executor.chunks.publish(message)
    executor.until(lambda: executor.status.chunks_refused == 1, "the refusal")
    assert "action space is number 77" in executor.status.reason


def test_the_executor_holds_and_reports_it_when_chunks_stop(executor):
    executor.send()
    executor.until(lambda: executor.status.state == ExecutorStatus.EXECUTING, "motion")
    executor.arm.joints = np.array(
        executor.commands[0].points[-1].positions
    )  # not a real arm: it arrives at once
    executor.until(lambda: executor.status.state == ExecutorStatus.HOLDING, "the hold")
    assert executor.status.reason.startswith(("no new chunk for", "stopped: "))
    assert executor.status.queue_depth == 0 and executor.status.chunk_age_s == -1.0


def test_an_emergency_stop_brakes_latches_and_needs_a_reset_and_a_new_instruction(executor):
    button = executor.graph.publisher(Bool, TOPICS.emergency_stop)
    reset = executor.graph.peer.create_client(Trigger, "/chunk_executor/reset_emergency_stop")
    executor.until(reset.service_is_ready, "the reset service")

    def call_reset():
        future = reset.call_async(Trigger.Request())
        executor.until(future.done, "the reset")
        return future.result()

    executor.send(straight(sim_arm(), (0.03, 0.0, 0.0)))
    executor.until(lambda: executor.commands, "motion")
    button.publish(Bool(data=True))
    executor.until(lambda: len(executor.commands) >= 2, "the stop")
    stop = executor.commands[1]
    assert list(stop.points[-1].velocities) == [0.0] * 7
    at_rest = next(point for point in stop.points if not any(point.velocities))
    assert to_seconds(at_rest.time_from_start) < 0.5
    assert to_seconds(stop.points[-1].time_from_start) > 0.9, (
        "valid for a while, however late it arrives"
    )
    executor.send()
    executor.until(lambda: executor.status.chunks_refused == 1, "the refusal")
    assert executor.status.state == ExecutorStatus.STOPPED
    assert all(
        list(command.points[-1].velocities) == [0.0] * 7 for command in executor.commands[1:]
    )
    response = call_reset()
    assert not response.success and "still pressed" in response.message
    button.publish(Bool(data=False))
    executor.until(lambda: call_reset().success, "the reset to be taken")
    executor.until(lambda: executor.status.state == ExecutorStatus.HOLDING, "the hold")
    executor.arm.joints = np.array(stop.points[-1].positions)
    executor.send(reference=executor.arm.joints)
    executor.until(lambda: "give an instruction again" in executor.status.reason, "the refusal")
    executor.until(
        lambda: (
            executor.send(reference=executor.arm.joints, epoch=9)
            or executor.status.state == ExecutorStatus.EXECUTING
        ),
        "motion",
    )


def test_an_emergency_stop_remains_latched_when_the_node_is_reconfigured(executor):
    button = executor.graph.publisher(Bool, TOPICS.emergency_stop)
    button.publish(Bool(data=True))
    executor.until(lambda: executor.status.state == ExecutorStatus.STOPPED, "the stop")
    button.publish(Bool(data=False))
    for change in ("deactivate", "cleanup", "configure", "activate"):
        assert getattr(executor.node, f"trigger_{change}")().name == "SUCCESS"
    executor.send()
    executor.until(lambda: executor.status.chunks_refused == 1, "the refusal")
    assert executor.status.state == ExecutorStatus.STOPPED and not executor.commands


def test_an_emergency_stop_pressed_before_the_node_started_is_in_force(graph):
    button = graph.peer.create_publisher(
        Bool,
        TOPICS.emergency_stop,
        QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
    )
    button.publish(Bool(data=True))
    executor = Executor(graph)
    executor.until(lambda: executor.status.state == ExecutorStatus.STOPPED, "the latch")


def test_shadow_mode_sends_nothing(graph):
    executor = Executor(graph, shadow=True)
    executor.send()
    executor.until(lambda: executor.status.state == ExecutorStatus.SHADOW, "shadow")
    executor.until(lambda: executor.status.state == ExecutorStatus.HOLDING, "its end")
    assert not executor.commands


def test_deactivation_stops_a_moving_arm_and_cleanup_leaves_nothing(executor):
    executor.send(straight(sim_arm(), (0.03, 0.0, 0.0)))
    executor.until(lambda: executor.commands, "motion")
    executor.node.trigger_deactivate()
    executor.until(lambda: len(executor.commands) >= 2, "the stop")
    executor.until(lambda: executor.status.state == ExecutorStatus.INACTIVE, "the status")
    executor.node.trigger_cleanup()
    names = {
        name
        for name, _ in executor.node.get_publisher_names_and_types_by_node("chunk_executor", "/")
    }
    assert COMMANDS not in names
    assert executor.node.trigger_configure().name == "SUCCESS"


# ---- as a process ----


def start(*parameters):
    options = [word for parameter in parameters for word in ("-p", parameter)]
    command = [sys.executable, "-m", "sf_policy_node.nodes.chunk_executor", "--ros-args", *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def test_an_unknown_contract_ends_the_process_with_one_sentence(ros_domain):
    process = start("contract:=/nowhere/robot.yaml")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "/nowhere/robot.yaml: cannot be read" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_a_missing_contract_names_the_parameter(ros_domain):
    process = start()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1 and "-p contract:=" in errors.splitlines()[-1]


@pytest.fixture
def patient_contract(tmp_path):
    """Write a contract for a process that may get no processor time for seconds."""
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    (tmp_path / data["urdf"]).write_text(CONTRACT_PATH.with_name(data["urdf"]).read_text())
    data["budgets"] |= {"joint_state_age_s": 5.0, "chunk_age_s": 20.0, "hold_s": 60.0}
    path = tmp_path / "patient.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_cleanly_after_stopping_the_arm(
    processes_graph, patient_contract, number
):
    graph, contract = processes_graph, load_contract(patient_contract)
    process = start(f"contract:={patient_contract}")
    try:
        statuses, commands = (
            graph.listen(ExecutorStatus, TOPICS.executor_status),
            graph.listen(JointTrajectory, COMMANDS),
        )
        chunks, arm = (
            graph.publisher(ActionChunk, TOPICS.action_chunk),
            FakeArm(graph, images=False),
        )
        graph.until(
            lambda: statuses and statuses[-1].joint_state_age_s >= 0, "joint states", each=arm
        )
        sequence = itertools.count(1)

        def moves():
            # repeat: a busy machine may delay a chunk until it is refused
            if not commands:
                chunk = make_chunk(
                    contract,
                    straight(contract, (0.03, 0, 0)),
                    stamp=graph.now(),
                    reference=HOME,
                    sequence=next(sequence),
                )
                chunks.publish(chunk_to_message(chunk))
            return bool(commands)

        graph.until(moves, "motion", each=arm)
        before = len(commands)
        process.send_signal(number)
        graph.until(lambda: process.poll() is not None, "the end of the process", each=arm)
        graph.until(lambda: len(commands) > before, "the stop", each=arm)
        _, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert list(commands[-1].points[-1].velocities) == [0.0] * 7


def test_without_autostart_the_node_waits_for_lifecycle_calls(processes_graph):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    graph = processes_graph
    process = start(f"contract:={CONTRACT_PATH}", "autostart:=false")
    try:
        client = graph.peer.create_client(ChangeState, "/chunk_executor/change_state")
        graph.until(client.service_is_ready, "the lifecycle services")
        statuses = graph.listen(ExecutorStatus, TOPICS.executor_status)
        for transition, state in (
            (Transition.TRANSITION_CONFIGURE, ExecutorStatus.INACTIVE),
            (Transition.TRANSITION_ACTIVATE, ExecutorStatus.HOLDING),
        ):
            future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
            graph.until(future.done, "the transition")
            assert future.result().success
            graph.until(lambda state=state: statuses and statuses[-1].state == state, "the state")
    finally:
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0
