"""Tests over DDS of start, stop, pause, action feedback, frozen cameras and /diagnostics."""

import math
import time
from array import array

import pytest
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from motion_cases import HOME, sim_arm
from node_cases import ScriptedPolicy
from policy_node_cases import TOPICS, Policy
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Header
from std_srvs.srv import SetBool, Trigger

from sf_msgs.action import RunInstruction
from sf_msgs.msg import ExecutorStatus, PolicyStatus
from sf_policy_node.nodes.conversions import to_stamp
from sf_policy_node.nodes.lifecycle import LATCHED

pytestmark = pytest.mark.ros
Result = RunInstruction.Result


def test_a_pause_keeps_the_instruction_and_a_resume_starts_a_new_epoch(policy):
    policy.say("pick the red cube")
    policy.until(lambda: policy.chunks, "a chunk")
    response = policy.call(SetBool, "pause", data=True)
    assert response.success and response.message == "paused 'pick the red cube'"
    policy.until(lambda: policy.status.state == PolicyStatus.PAUSED, "the status")
    first, received = policy.chunks[0].epoch, len(policy.chunks)
    assert (policy.status.instruction, policy.status.epoch) == ("pick the red cube", first)
    policy.say("pick the red cube")  # `ros2 topic pub` repeats once a second: no resume
    seen = len(policy.arm.stamps)
    policy.until(lambda: len(policy.arm.stamps) > seen + 40, "0.8 s of images")
    assert len(policy.chunks) == received and policy.status.state == PolicyStatus.PAUSED
    assert policy.call(SetBool, "pause", data=False).success
    policy.until(lambda: len(policy.chunks) > received + 1, "chunks again")
    assert {chunk.epoch for chunk in policy.chunks[received:]} == {
        policy.status.epoch
    } and policy.status.epoch > first
    assert policy.chunks[-1].instruction == "pick the red cube"


def test_an_action_continues_after_a_pause_without_losing_time(policy):
    handle, feedback = policy.start("pick the red cube", timeout_s=1.5)
    policy.until(lambda: feedback and feedback[-1].chunks > 0, "feedback")
    policy.call(SetBool, "pause", data=True)
    policy.until(lambda: feedback[-1].state == "paused", "the feedback")
    paused = feedback[-1]
    until = policy.graph.now() + 2.0
    policy.until(lambda: policy.graph.now() > until, "2 s")
    assert handle.status == GoalStatus.STATUS_ACCEPTED
    assert feedback[-1].progress == pytest.approx(paused.progress) and 0.0 < paused.progress < 1.0
    policy.call(Trigger, "start")
    result = policy.result(handle).result
    assert result.termination_reason == Result.TIMEOUT and result.duration_s == pytest.approx(
        1.5, abs=0.4
    )
    assert result.worst_cycle_s < 1.5, "the pause is no cycle"


def test_without_an_instruction_start_and_pause_are_refused_with_the_reason(policy):
    for kind, name, request in (
        (Trigger, "start", {}),
        (SetBool, "pause", {"data": True}),
        (SetBool, "pause", {"data": False}),
    ):
        response = policy.call(kind, name, **request)
        assert not response.success and "there is no instruction to" in response.message
    assert not policy.call(Trigger, "stop").success


def test_start_repeats_the_last_instruction_except_during_an_emergency_stop(
    policy,
):
    policy.say("pick the red cube")
    policy.until(lambda: policy.chunks, "a chunk")
    assert policy.call(Trigger, "stop").success
    policy.until(lambda: policy.status.state == PolicyStatus.IDLE, "idle")
    assert policy.call(Trigger, "start").message == "follows 'pick the red cube'"
    policy.until(
        lambda: policy.chunks[-1].epoch > policy.chunks[0].epoch, "a chunk of the new start"
    )
    button = policy.graph.publisher(Bool, TOPICS.emergency_stop)
    button.publish(Bool(data=True))
    policy.until(lambda: policy.status.reason == "emergency stop", "the stop")
    response = policy.call(Trigger, "start")
    assert not response.success and "emergency stop is pressed" in response.message
    policy.node.trigger_deactivate()
    assert "not active" in policy.call(Trigger, "start").message


def test_a_button_that_ended_while_pressed_counts_until_the_executor_is_reset(policy):
    executor = policy.graph.publisher(ExecutorStatus, TOPICS.executor_status, LATCHED)
    button = policy.graph.publisher(Bool, TOPICS.emergency_stop)
    button.publish(Bool(data=True))
    stop = policy.node._emergency_stop
    policy.until(lambda: stop.pressed, "the press")
    policy.graph.peer.destroy_publisher(button)
    policy.until(lambda: not stop._present(), "the end of the button's program")
    policy.graph.publisher(Bool, TOPICS.emergency_stop).publish(Bool(data=False))
    over = time.monotonic() + 1.2

    def send(state):
        policy.arm()
        executor.publish(ExecutorStatus(state=state))

    policy.graph.until(
        lambda: time.monotonic() > over, "a second", each=lambda: send(ExecutorStatus.STOPPED)
    )
    assert stop.pressed
    policy.graph.until(
        lambda: not stop.pressed, "the reset", each=lambda: send(ExecutorStatus.HOLDING)
    )


def test_the_emergency_stop_ends_a_paused_instruction(policy):
    policy.say("pick the red cube")
    policy.until(lambda: policy.chunks, "a chunk")
    policy.call(SetBool, "pause", data=True)
    policy.graph.publisher(Bool, TOPICS.emergency_stop).publish(Bool(data=True))
    policy.until(lambda: policy.status.state == PolicyStatus.IDLE, "idle")
    assert not policy.call(SetBool, "pause", data=False).success


def test_start_uses_the_parameter_without_an_instruction(graph):
    policy = Policy(graph, None, Parameter("instruction", value="pick the red cube"))
    policy.until(lambda: policy.chunks, "a chunk: the parameter is followed from activation on")
    policy.call(Trigger, "stop")
    assert policy.call(Trigger, "start").success


def test_the_first_instruction_waits_for_an_executor_that_comes_up(graph):
    """One that is activated later does not follow an instruction from before."""
    executor = graph.peer.create_publisher(ExecutorStatus, TOPICS.executor_status, LATCHED)
    executor.publish(ExecutorStatus(state=ExecutorStatus.INACTIVE))
    policy = Policy(graph, None, Parameter("instruction", value="pick the red cube"))
    over = graph.now() + 2.5
    policy.until(lambda: graph.now() > over, "time in which a policy without executor begins")
    assert not policy.chunks
    executor.publish(ExecutorStatus(state=ExecutorStatus.HOLDING))
    policy.until(lambda: policy.chunks, "a chunk")


def test_an_action_reports_progress_clips_latency_and_cadence(policy):
    executor = policy.graph.publisher(ExecutorStatus, TOPICS.executor_status, LATCHED)
    executor.publish(ExecutorStatus(workspace_clips=100))
    handle, feedback = policy.start("pick the red cube", timeout_s=2.0)
    policy.until(lambda: feedback and feedback[-1].chunks > 0, "feedback")
    assert feedback[-1].clips == 0, "what was cut before is not of this instruction"
    executor.publish(
        ExecutorStatus(
            workspace_clips=101,
            velocity_clips=array("Q", [2, 0, 0, 0, 0, 0, 1]),
            tool_speed_clips=3,
        )
    )
    result = policy.result(handle).result
    shares = [each.progress for each in feedback]
    assert shares == sorted(shares) and 0.0 < shares[0] < shares[-1] <= 1.0
    assert shares[-1] == pytest.approx(feedback[-1].elapsed_s / 2.0, abs=0.01)
    assert feedback[-1].chunk_latency_p95_s >= feedback[-1].chunk_latency_p50_s > 0
    assert feedback[-1].clips == 7 == result.clips
    assert result.rate_wanted_hz == pytest.approx(1 / 0.3) and 1.0 < result.rate_hz < 4.0
    assert result.worst_cycle_s > 0.25 and result.cycles_over_budget < result.chunks
    policy.until(lambda: policy.status.state == PolicyStatus.IDLE, "idle")
    status = policy.status
    assert (status.rate_hz, status.cycles_over_budget) == (
        pytest.approx(result.rate_hz),
        result.cycles_over_budget,
    )


def test_a_policy_that_is_too_slow_is_counted_and_the_warm_up_is_not(graph):
    class Slow(ScriptedPolicy):
        def warm_up(self):
            super().warm_up()
            time.sleep(1.0)

    policy = Policy(graph, Slow())
    policy.policy.delay_s, policy.policy.clock = 0.5, graph.now
    handle, _ = policy.start("pick the red cube", timeout_s=3.0)
    result = policy.result(handle).result
    assert policy.policy.warm_ups == 1
    assert (
        result.cycles_over_budget >= 3
        and result.rate_hz < 2.1
        and 0.49 < result.worst_cycle_s < 1.0
    )
    policy.until(lambda: policy.status.inference_latency_p99_s > 0, "the latency")
    assert policy.status.inference_latency_p99_s >= 0.5
    policy.policy.clock = lambda: math.inf  # so that a running prediction ends


def test_a_camera_that_repeats_its_image_while_the_arm_moves_is_refused(policy):
    move = policy.arm

    def moving():
        move.joints[:6] += 0.0005
        move()

    policy.arm = moving
    policy.say("pick the red cube")
    policy.until(lambda: "the image has not changed for" in policy.status.reason, "the refusal")
    assert policy.status.state == PolicyStatus.WAITING and policy.status.reason.startswith(
        "camera "
    )
    assert "restart the camera's driver" in policy.status.reason


def test_the_node_publishes_diagnostics(policy):
    received = policy.graph.listen(DiagnosticArray, "/diagnostics")
    policy.say("pick the red cube")
    policy.until(
        lambda: received and received[-1].status[0].message == "follows: pick the red cube",
        "the diagnostics",
    )
    status = received[-1].status[0]
    assert (status.name, status.hardware_id, status.level) == (
        "policy_node: policy",
        sim_arm().robot,
        DiagnosticStatus.OK,
    )
    assert {"camera to chunk p50 / p95 / p99", "camera scene age", "camera skew"} <= {
        item.key for item in status.values
    }
    policy.arm.silent.add("wrist")
    policy.until(lambda: received[-1].status[0].level == DiagnosticStatus.WARN, "the warning")
    assert received[-1].status[0].message.startswith("camera wrist: the newest image is")


def test_joint_states_that_the_node_lost_are_counted(policy):
    """A burst overflows its queue, as on a busy machine; best effort reports no loss."""
    received, states = policy.graph.listen(DiagnosticArray, "/diagnostics"), policy.arm.joint_states
    policy.until(lambda: policy.status.joint_state_age_s >= 0.0, "a joint state")
    for _ in range(500):
        states.publish(
            JointState(
                header=Header(stamp=to_stamp(policy.graph.now())),
                name=sim_arm().command_joints,
                position=HOME.tolist(),
            )
        )
    policy.until(
        lambda: (
            received and "joint states on joint_states were lost" in received[-1].status[0].message
        ),
        "the warning",
    )
    assert received[-1].status[0].level == DiagnosticStatus.WARN
    assert (
        int(
            {item.key: item.value for item in received[-1].status[0].values}[
                "joint states lost"
            ].split()[0]
        )
        > 300
    )
