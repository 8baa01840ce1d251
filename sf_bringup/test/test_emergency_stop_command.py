"""Tests of ``python3 -m sf_bringup.emergency_stop`` with the executor's own node."""

import sys
import threading

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_msgs.msg import Bool

from sf_bringup import arm_client, emergency_stop
from sf_bringup.graph import find_robot
from sf_msgs.msg import ExecutorStatus
from sf_policy_node.contract import load_contract
from sf_policy_node.nodes.chunk_executor import ChunkExecutorNode

pytestmark = pytest.mark.ros


@pytest.fixture
def executor(ros_domain):
    rclpy.init()
    contract = Parameter("contract", value=str(find_robot("so101")))
    node = ChunkExecutorNode(parameter_overrides=[contract], namespace="left")
    assert node.trigger_configure().name == "SUCCESS", node.failure
    assert node.trigger_activate().name == "SUCCESS", node.failure
    spinner = SingleThreadedExecutor()
    spinner.add_node(node)
    thread = threading.Thread(target=spinner.spin, daemon=True)
    thread.start()
    yield node
    spinner.shutdown()
    thread.join()
    node.halt()
    node.destroy_node()
    rclpy.try_shutdown()


def run(capfd, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["emergency_stop", *words, "robot:=so101", "namespace:=left"])
    code = emergency_stop.main()
    output = capfd.readouterr()
    return code, output.out.strip(), output.err.strip()


def state(executor):
    return executor._motion.status.state.value


def test_a_pressed_stop_outlives_its_program_until_it_is_reset(executor, capfd, monkeypatch):
    code, out, _ = run(capfd, monkeypatch)
    assert (code, out) == (0, "stopped and latched; to allow motion again: emergency_stop reset")
    assert state(executor) == ExecutorStatus.STOPPED
    code, out, _ = run(capfd, monkeypatch, "reset")
    assert code == 0
    assert out.startswith("the emergency stop was reset; waiting for a new instruction")
    assert "it was pressed by /left/arm_client, whose program has ended" in out
    assert state(executor) == ExecutorStatus.HOLDING


def test_a_button_that_is_still_pressed_is_not_released(executor, capfd, monkeypatch):
    topic = load_contract(find_robot("so101")).topics.emergency_stop
    button = executor.create_publisher(Bool, topic, arm_client._BUTTON)
    button.publish(Bool(data=True))
    assert run(capfd, monkeypatch)[0] == 0
    monkeypatch.setattr(emergency_stop, "_RELEASED_S", 0.5)
    code, _, err = run(capfd, monkeypatch, "reset")
    assert code == 1 and "still pressed by /left/chunk_executor; release it first" in err
    assert state(executor) == ExecutorStatus.STOPPED


def test_without_an_executor_a_sentence_names_the_hardware(ros_domain, capfd, monkeypatch):
    monkeypatch.setattr(arm_client, "ANSWER_S", 0.3)
    code, _, err = run(capfd, monkeypatch)
    assert code == 1 and "nobody listened on emergency_stop within 0.3 s; use the hard" in err
