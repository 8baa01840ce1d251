"""Tests of the policy node over DDS with repeated instructions and an executor that stops."""

import pytest
from policy_node_cases import TOPICS, Policy
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sf_msgs.action import RunInstruction
from sf_msgs.msg import ExecutorStatus, PolicyStatus
from sf_policy_node.nodes.lifecycle import LATCHED
from sf_policy_node.nodes.policy_node import PolicyNode

pytestmark = pytest.mark.ros
TEXT = "pick the red cube"


class Repeater:
    """`ros2 topic pub -r 5 /instruction ...` as long as it is called."""

    def __init__(self, policy, text):
        self._policy, self._text, self._at = policy, text, 0.0
        self._publisher = policy.graph.publisher(String, TOPICS.instruction)
        self.sent = 0

    def __call__(self):
        self._policy.arm()
        if self._policy.graph.now() >= self._at:
            self._at = self._policy.graph.now() + 0.2
            self._publisher.publish(String(data=self._text))
            self.sent += 1


def test_stop_holds_although_a_publisher_repeats_the_text(policy):
    repeater = Repeater(policy, TEXT)
    policy.graph.until(
        lambda: policy.status.instruction == TEXT and repeater.sent > 3,
        "the instruction",
        each=repeater,
    )
    assert policy.call(Trigger, "stop").success
    policy.graph.until(lambda: policy.status.state == PolicyStatus.IDLE, "the stop", each=repeater)
    before = repeater.sent
    policy.graph.until(lambda: repeater.sent > before + 5, "more messages", each=repeater)
    assert (
        policy.status.state == PolicyStatus.IDLE
        and "was stopped; send another instruction" in policy.status.reason
    )
    policy.say("push the green cube")
    policy.until(lambda: policy.status.instruction == "push the green cube", "another instruction")
    policy.call(Trigger, "stop")
    policy.say(TEXT)
    policy.until(lambda: policy.status.instruction == TEXT, "the same text from somebody else")


def test_a_stop_outlasts_a_deactivation_and_a_configuration(policy):
    """Before, the node forgot what was stopped, and the repeated text moved the arm again."""
    repeater = Repeater(policy, TEXT)
    policy.graph.until(lambda: policy.status.instruction == TEXT, "the instruction", each=repeater)
    for transitions in (("deactivate", "activate"), ("deactivate", "cleanup", "configure")):
        for name in transitions:
            assert getattr(policy.node, f"trigger_{name}")().name == "SUCCESS", policy.node.failure
    assert policy.node.trigger_activate().name == "SUCCESS"
    policy.graph.until(
        lambda: "was stopped; send another instruction" in policy.status.reason,
        "the refusal",
        each=repeater,
    )
    assert policy.status.state == PolicyStatus.IDLE
    policy.say(TEXT)
    policy.until(lambda: policy.status.instruction == TEXT, "the same text from somebody else")


def test_stop_also_withdraws_the_first_instruction_that_waits_for_an_executor(graph, monkeypatch):
    """Before, `instruction:=...` began later, although ~/stop had been called."""
    may_begin = [False]  # an executor is coming up
    monkeypatch.setattr(PolicyNode, "_may_begin", lambda node: may_begin[0])
    policy = Policy(graph, None, Parameter("instruction", value=TEXT))
    answer = policy.call(Trigger, "stop")
    assert answer.success and TEXT in answer.message
    may_begin[0] = True
    begun = policy.graph.now() + 1.0
    policy.until(lambda: policy.graph.now() > begun, "the time in which it would begin")
    assert policy.status.state == PolicyStatus.IDLE and not policy.status.instruction


def test_an_instruction_stopped_by_the_executor_ends_with_its_reason_and_may_be_repeated(
    policy,
):
    executor = policy.graph.publisher(ExecutorStatus, TOPICS.executor_status, LATCHED)
    person = policy.graph.publisher(String, TOPICS.instruction)
    handle, feedback = policy.start(TEXT)
    policy.until(lambda: policy.chunks, "a chunk")
    executor.publish(
        ExecutorStatus(
            state=ExecutorStatus.HOLDING, reason="joint2 is outside its limits; move it back"
        )
    )
    policy.until(
        lambda: feedback and "executor: joint2 is outside" in feedback[-1].state, "the feedback"
    )
    reason = (
        "stopped: joint3 is 0.31 from its commanded position; clear it and give an instruction"
        " again"
    )
    epoch = policy.status.epoch
    executor.publish(ExecutorStatus(state=ExecutorStatus.HOLDING, reason=reason, epoch=epoch))
    result = policy.result(handle).result
    assert (
        result.termination_reason == RunInstruction.Result.STOPPED
        and "joint3 is 0.31 from" in result.message
    )
    person.publish(String(data=TEXT))
    policy.until(
        lambda: policy.status.instruction == TEXT and policy.status.epoch > epoch,
        "the same text again",
    )


def test_an_instruction_ends_if_all_its_chunks_are_refused(policy):
    """This happens after a reactivation of the executor."""
    executor = policy.graph.publisher(ExecutorStatus, TOPICS.executor_status, LATCHED)
    reason = (
        "refused chunk 3: the executor was activated after its instruction began; give an"
        " instruction again"
    )
    executor.publish(ExecutorStatus(state=ExecutorStatus.HOLDING, reason=reason, chunks_refused=7))
    handle, _ = policy.start(TEXT)
    policy.until(
        lambda: len(policy.chunks) > 1, "chunks, since that was about an instruction before"
    )
    executor.publish(ExecutorStatus(state=ExecutorStatus.HOLDING, reason=reason, chunks_refused=7))
    policy.until(lambda: len(policy.chunks) > 3, "more chunks")
    executor.publish(ExecutorStatus(state=ExecutorStatus.HOLDING, reason=reason, chunks_refused=8))
    before = len(policy.chunks)
    policy.until(lambda: len(policy.chunks) > before, "a chunk: that one was on its way before")
    executor.publish(ExecutorStatus(state=ExecutorStatus.HOLDING, reason=reason, chunks_refused=9))
    result = policy.result(handle).result
    assert (
        result.termination_reason == RunInstruction.Result.STOPPED
        and "was activated after" in result.message
    )
