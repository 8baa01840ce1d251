"""Tests of the policy node over DDS with a scripted policy: observations, chunks, instructions."""

import os
import subprocess
import sys

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from motion_cases import CONTRACT_PATH, HOME, sim_arm
from node_cases import CONTRACT_PARAMETER, PATIENCE_S, ScriptedPolicy
from policy_node_cases import TOPICS, Policy
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from sf_msgs.action import RunInstruction
from sf_msgs.msg import ActionChunk, ExecutorStatus, PolicyStatus
from sf_policy_node.motion.types import Join
from sf_policy_node.nodes.policy_node import PolicyNode

pytestmark = pytest.mark.ros
Result = RunInstruction.Result


def test_an_instruction_on_the_topic_becomes_chunks_stamped_with_the_observation(policy):
    assert policy.policy.warm_ups == 1 and policy.status.state == PolicyStatus.IDLE
    policy.say("pick the red cube")
    chunk = policy.until(lambda: policy.chunks, "a chunk")[0]
    assert chunk.header.stamp.sec * 10**9 + chunk.header.stamp.nanosec in policy.arm.stamps
    assert chunk.header.frame_id == "base_link" and chunk.instruction == "pick the red cube"
    assert (chunk.rows, chunk.columns, list(chunk.names)) == (8, 4, ["x", "y", "z", "gripper"])
    assert np.allclose(np.array(chunk.data).reshape(8, 4)[:, 0], 0.005 * np.arange(1, 9))
    assert (
        np.allclose(chunk.reference, HOME)
        and list(chunk.reference_names) == sim_arm().command_joints
    )
    assert chunk.action_space == ActionChunk.EE_DELTA and chunk.contract_hash == sim_arm().hash
    images, joints, _ = policy.policy.calls[0]
    assert images["scene"].shape == images["wrist"].shape == (240, 320, 3) and joints.shape == (7,)
    policy.until(
        lambda: policy.status.state == PolicyStatus.RUNNING and policy.status.chunks > 2,
        "the status",
    )
    assert policy.status.chunk_latency_p50_s > 0 and policy.status.policy_id == "scripted"


def test_an_earlier_latched_instruction_is_received(graph):
    publisher = graph.peer.create_publisher(
        String, TOPICS.instruction, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )
    publisher.publish(String(data="pick the red cube"))
    policy = Policy(graph)
    policy.until(lambda: policy.chunks, "a chunk")


def test_a_repeated_text_continues_with_the_same_epoch(policy):
    policy.say("pick the red cube")
    policy.until(lambda: policy.chunks, "a chunk")
    policy.say("pick the red cube")
    policy.until(lambda: len(policy.chunks) > 4, "more chunks")
    assert len({chunk.epoch for chunk in policy.chunks}) == 1
    policy.say("pick the blue cube")
    policy.until(
        lambda: policy.chunks[-1].instruction == "pick the blue cube", "the new instruction"
    )
    assert policy.chunks[-1].epoch > policy.chunks[0].epoch


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "the instruction is empty"), ("x" * 10_000, "has 10000 characters, at most 500")],
)
def test_an_unusable_instruction_is_refused_with_one_sentence(policy, text, reason):
    policy.say(text)
    policy.until(lambda: reason in policy.status.reason, "the refusal")
    handle, _ = policy.start(text)
    response = policy.result(handle)
    assert response.status == GoalStatus.STATUS_ABORTED
    assert (
        response.result.termination_reason == Result.REFUSED and reason in response.result.message
    )
    assert not policy.chunks


def test_a_wrong_encoding_is_named_with_its_topic(policy):
    policy.arm.encoding = "32FC1"
    policy.say("pick the red cube")
    reason = "scene_camera/image_raw: encoding '32FC1' is not a colour image"
    policy.until(lambda: reason in policy.status.reason, "the reason")
    policy.arm.encoding = "bgr8"
    policy.until(lambda: policy.chunks, "a chunk")


def test_a_silent_camera_is_named(policy):
    policy.arm.silent.add("wrist")
    policy.say("pick the red cube")
    policy.until(
        lambda: policy.status.reason.startswith("camera wrist: the newest image is"), "the reason"
    )
    assert policy.status.state == PolicyStatus.WAITING


def test_an_action_sends_feedback_and_ends_with_its_timeout(policy):
    handle, feedback = policy.start("pick the red cube", timeout_s=1.5)
    assert handle.accepted
    response = policy.result(handle)
    assert response.status == GoalStatus.STATUS_SUCCEEDED
    assert response.result.termination_reason == Result.TIMEOUT
    assert response.result.chunks >= 3 and 1.4 < response.result.duration_s < 3.0
    assert response.result.chunk_latency_p95_s >= response.result.chunk_latency_p50_s > 0
    assert len(feedback) >= 2 and feedback[-1].state == "running" and feedback[-1].chunks > 0


def test_an_action_can_be_cancelled(policy):
    handle, _ = policy.start("pick the red cube")
    policy.until(lambda: policy.chunks, "a chunk")
    future = handle.cancel_goal_async()
    policy.until(future.done, "the cancellation")
    response = policy.result(handle)
    assert (
        response.status == GoalStatus.STATUS_CANCELED
        and response.result.termination_reason == Result.CANCELLED
    )
    policy.until(
        lambda: policy.status.state == PolicyStatus.IDLE and not policy.status.instruction, "idle"
    )


def test_an_action_ends_when_its_client_disappears(policy):
    """Before, the arm continued for the rest of the time limit, up to a minute."""
    client = ActionClient(policy.graph.peer, RunInstruction, "run_instruction")
    policy.until(client.server_is_ready, "the action server")
    received = []
    goal = RunInstruction.Goal(instruction="pick the red cube", timeout_s=500.0)
    client.send_goal_async(
        goal, feedback_callback=lambda message: received.append(message.feedback)
    )
    policy.until(lambda: received and policy.chunks, "a chunk")
    client.destroy()
    policy.until(
        lambda: policy.status.state == PolicyStatus.IDLE and not policy.status.instruction, "idle"
    )


def test_another_instruction_replaces_an_action(policy):
    first, _ = policy.start("pick the red cube")
    second, _ = policy.start("pick the blue cube")
    assert policy.result(first).result.termination_reason == Result.REPLACED
    policy.until(lambda: policy.status.instruction == "pick the blue cube", "the new one")
    assert second.accepted


def test_the_stop_service_and_the_emergency_stop_end_an_action(policy):
    stop = policy.graph.peer.create_client(Trigger, "/policy_node/stop")
    policy.until(stop.service_is_ready, "the stop service")
    handle, _ = policy.start("pick the red cube")
    future = stop.call_async(Trigger.Request())
    policy.until(future.done, "the stop")
    assert future.result().success
    assert policy.result(handle).result.termination_reason == Result.STOPPED
    handle, _ = policy.start("pick the red cube")
    policy.graph.publisher(Bool, TOPICS.emergency_stop).publish(Bool(data=True))
    assert policy.result(handle).result.message == "emergency stop"
    handle, _ = policy.start("pick the red cube")
    assert "emergency stop is pressed" in policy.result(handle).result.message


def test_a_failing_policy_ends_the_action_with_its_reason(policy):
    policy.policy.result = RuntimeError("out of memory")
    handle, _ = policy.start("pick the red cube")
    response = policy.result(handle).result
    assert response.termination_reason == Result.ERROR and "out of memory" in response.message
    policy.until(lambda: policy.status.state == PolicyStatus.ERROR, "the status")


def test_deactivation_ends_the_action_and_refuses_new_ones(policy):
    handle, _ = policy.start("pick the red cube")
    policy.node.trigger_deactivate()
    assert policy.result(handle).result.termination_reason == Result.STOPPED
    handle, _ = policy.start("pick the red cube")
    assert not handle.accepted


def test_the_node_can_be_cleaned_up_and_reconfigured(policy):
    policy.node.trigger_deactivate()
    policy.node.trigger_cleanup()
    assert (
        policy.node.trigger_configure().name == "SUCCESS"
        and policy.node.trigger_activate().name == "SUCCESS"
    )
    policy.say("pick the red cube")
    policy.until(lambda: policy.chunks, "a chunk")


def test_a_policy_that_cannot_be_loaded_fails_the_transition_with_one_sentence(graph):
    def broken(checkpoint, contract, device):
        raise ValueError("/nowhere: no such checkpoint")

    node = graph.add(PolicyNode(broken, parameter_overrides=[CONTRACT_PARAMETER]), activate=False)
    assert node.trigger_configure().name == "FAILURE"
    assert node.failure == "/nowhere: no such checkpoint"


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ([f"contract:={CONTRACT_PATH}"], "checkpoint: no policy given"),
        ([f"contract:={CONTRACT_PATH}", "replan_steps:=9"], "replan_steps: give 1 to 8"),
        ([f"contract:={CONTRACT_PATH}", "checkpoint:=/nowhere/policy"], "/nowhere/policy"),
    ],
)
def test_unusable_parameters_end_the_process_with_one_sentence(ros_domain, parameters, sentence):
    options = [word for parameter in parameters for word in ("-p", parameter)]
    command = [sys.executable, "-m", "sf_policy_node.nodes.policy_node", "--ros-args", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ
    )
    assert done.returncode == 1
    assert sentence in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


class Continuing(ScriptedPolicy):
    """A policy with real-time chunking that records what it continues."""

    join = Join.RTC

    def __init__(self):
        super().__init__()
        self.continued = []

    def predict(self, images, joints, instruction, *, continuation):
        self.continued.append(continuation is not None)
        return super().predict(images, joints, instruction)


@pytest.mark.parametrize(
    "message",
    [
        ExecutorStatus(state=ExecutorStatus.EXECUTING, chunks_refused=7),
        ExecutorStatus(state=ExecutorStatus.TELEOPERATION),
    ],
)
def test_a_chunk_that_the_arm_does_not_follow_is_not_continued(graph, message):
    continues = Parameter("real_time_chunking", value=True)
    policy = Policy(graph, Continuing(), continues)
    executor = graph.publisher(
        ExecutorStatus,
        TOPICS.executor_status,
        QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
    )
    continued = policy.policy.continued
    policy.say("pick the red cube")
    executor.publish(ExecutorStatus(state=ExecutorStatus.EXECUTING))
    policy.until(lambda: len(continued) > 4, "chunks")
    assert continued[0] is False and all(continued[2:])
    executor.publish(message)
    policy.until(lambda: continued[-1] is False, "a chunk that begins anew")
    executor.publish(
        ExecutorStatus(state=ExecutorStatus.EXECUTING, chunks_refused=message.chunks_refused)
    )
    policy.until(lambda: continued[-1] is True, "chunks that continue each other again")
