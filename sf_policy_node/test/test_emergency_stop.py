"""Tests of emergency stop buttons: any QoS, several buttons, with and without heartbeat."""

import time

import pytest
import yaml
from executor_cases import TOPICS, Executor
from motion_cases import CONTRACT_PATH, sim_arm, straight
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from sf_msgs.msg import ExecutorStatus
from sf_policy_node.contract import load_contract
from sf_policy_node.nodes import any_qos
from sf_policy_node.nodes.any_qos import UNKNOWN
from sf_policy_node.nodes.chunk_executor import ChunkExecutorNode
from sf_policy_node.nodes.emergency_stop import Buttons, EmergencyStop
from sf_policy_node.nodes.lifecycle import ManagedNode

A, B = "a", "b"
EVERY_QOS = [
    QoSProfile(depth=1, reliability=reliability, durability=durability)
    for reliability in ReliabilityPolicy
    for durability in DurabilityPolicy
    if reliability in (1, 2) and durability in (1, 2)
]


def test_every_button_must_be_released():
    buttons = Buttons()
    buttons.receive(A, True, 1.0, set())
    buttons.receive(B, False, 1.1, {A, B})
    assert buttons.pressed
    buttons.receive(A, False, 1.2, {A, B})
    assert not buttons.pressed


def test_a_button_that_ended_while_pressed_is_only_released_by_a_reset():
    """Before, the next release of any other button released it."""
    buttons = Buttons()
    buttons.receive(A, True, 1.0, {A, B})
    assert buttons.receive(B, False, 5.0, {B}) and buttons.pressed == {A}
    assert not buttons.held({B})
    buttons.release_all_but(buttons.held({A, B}))
    assert buttons.pressed == {A}, "its program has not ended"
    buttons.release_all_but(buttons.held({B}))
    assert not buttons.pressed


def test_an_unknown_publisher_may_be_any_that_is_present():
    buttons = Buttons()
    buttons.receive(UNKNOWN, True, 1.0, set())
    assert buttons.held({A}) == {UNKNOWN} and not buttons.held(set())


def test_a_missing_button_with_a_heartbeat_is_a_stop():
    buttons = Buttons(age_s=0.5)
    assert buttons.silence(1.0) is None
    buttons.receive(A, False, 1.0, {A, B})
    buttons.receive(B, False, 1.4, {A, B})
    assert buttons.silence(1.45) == pytest.approx(0.45), "of the one that was silent for longest"
    assert not buttons.receive(B, False, 1.46, {B})
    assert buttons.receive(B, False, 1.5, {B}) and buttons.silence(1.5) == 0.0


class Listener(ManagedNode):
    """A node with only an emergency stop."""

    def __init__(self, contract=CONTRACT_PATH, **options):
        super().__init__(
            "listener",
            parameter_overrides=[Parameter("contract", value=str(contract))],
            **options,
        )
        self.changes = []

    def set_up(self, contract):
        self.emergency_stop = EmergencyStop(self, contract, self.changes.append)


@pytest.mark.ros
def test_buttons_of_every_qos_are_received_without_warnings(graph):
    warned = []
    events = PublisherEventCallbacks(incompatible_qos=lambda event: warned.append(event))
    for qos in EVERY_QOS:
        listener = graph.add(Listener())
        button = graph.peer.create_publisher(
            Bool, TOPICS.emergency_stop, qos, event_callbacks=events
        )
        graph.until(button.get_subscription_count, "the listener")
        button.publish(Bool(data=True))
        graph.until(lambda one=listener: one.emergency_stop.pressed, f"the press with {qos}")
        button.publish(Bool(data=False))
        graph.until(lambda one=listener: not one.emergency_stop.pressed, f"the release with {qos}")
        graph.peer.destroy_publisher(button)
        listener.trigger_deactivate()
        listener.trigger_cleanup()
    assert warned == []


@pytest.mark.ros
def test_the_shared_button_stops_the_arms_of_all_namespaces_and_their_own_only_one(graph):
    """Before, an executor in a namespace was deaf to /emergency_stop."""
    left, right, root = (
        graph.add(Listener(namespace=each)).emergency_stop for each in ("left", "right", "/")
    )
    shared = graph.publisher(Bool, "/emergency_stop")
    own = graph.publisher(Bool, f"/left/{TOPICS.emergency_stop}")
    press = Bool(data=True)
    graph.until(
        lambda: left.pressed, "the press of the own button", each=lambda: own.publish(press)
    )
    assert not (right.pressed or root.pressed)
    stopped = lambda: left.pressed and right.pressed and root.pressed  # noqa: E731
    graph.until(stopped, "the press of the shared button", each=lambda: shared.publish(press))
    shared.publish(Bool(data=False))
    graph.until(lambda: not (right.pressed or root.pressed), "the release")
    assert left.pressed, "by its own button"
    own.publish(Bool(data=False))
    graph.until(lambda: not left.pressed, "the release of the own button")


@pytest.mark.ros
def test_an_executor_in_a_namespace_stops_on_the_shared_button(graph):
    statuses = graph.listen(ExecutorStatus, f"/left/{TOPICS.executor_status}")
    parameters = [Parameter("contract", value=str(CONTRACT_PATH))]
    node = graph.add(ChunkExecutorNode(namespace="left", parameter_overrides=parameters))
    topics = [each.topic for each in node.inputs if each.topic.endswith("emergency_stop")]
    assert topics == [f"/left/{TOPICS.emergency_stop}", "/emergency_stop"]
    button = graph.publisher(Bool, "/emergency_stop")
    graph.until(lambda: statuses, "the status")
    button.publish(Bool(data=True))
    graph.until(lambda: statuses[-1].state == ExecutorStatus.STOPPED, "the stop")


@pytest.mark.ros
def test_an_earlier_latched_press_is_received_beside_a_volatile_button(graph):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    first = graph.peer.create_publisher(Bool, TOPICS.emergency_stop, latched)
    first.publish(Bool(data=True))
    second = graph.peer.create_publisher(Bool, TOPICS.emergency_stop, 10)
    listener = graph.add(Listener())
    graph.until(lambda: listener.emergency_stop.pressed, "the press")
    second.publish(Bool(data=False))
    first.publish(Bool(data=True))
    graph.until(lambda: len(listener.changes) > 1, "the next message")
    assert listener.emergency_stop.pressed and False not in listener.changes


def reset_of(graph):
    """Return a function that calls the reset service of the executor and returns its answer."""
    client = graph.peer.create_client(Trigger, "chunk_executor/reset_emergency_stop")
    graph.until(client.service_is_ready, "the service")

    def reset():
        response = client.call_async(Trigger.Request())
        graph.until(response.done, "the answer")
        return response.result()

    return reset


def panel_of(graph, name="estop_panel"):
    """Return a node of its own with a button."""
    panel = graph.add(ManagedNode(name), activate=False)
    return panel, panel.create_publisher(Bool, TOPICS.emergency_stop, 10)


@pytest.mark.ros
def test_a_button_that_ended_while_pressed_is_named_by_the_reset(graph):
    executor = Executor(graph)
    panel, button = panel_of(graph)
    other = graph.publisher(Bool, TOPICS.emergency_stop)
    stopped = lambda: executor.status.state == ExecutorStatus.STOPPED  # noqa: E731
    graph.until(stopped, "the stop", each=lambda: button.publish(Bool(data=True)))
    reset = reset_of(graph)
    assert "still pressed by /estop_panel; release it first" in reset().message
    panel.destroy_publisher(button)
    buttons = executor.node._emergency_stop
    graph.until(lambda: len(buttons._present()) == 1, "the end of the panel")
    other.publish(Bool(data=True))
    graph.until(lambda: len(buttons._buttons.pressed) == 2, "the press of the other one")
    assert "still pressed by /test_peer; release" in reset().message
    other.publish(Bool(data=False))
    graph.until(lambda: len(buttons._buttons.pressed) == 1, "its release")
    assert executor.node._motion.status.state.value == ExecutorStatus.STOPPED
    answer = reset()
    assert answer.success and "was pressed by /estop_panel, whose program has" in answer.message
    assert not buttons.pressed


@pytest.mark.ros
def test_a_pressed_button_outlasts_a_configuration_of_the_executor(graph):
    """Before, the release of another button counted for all of them after a configuration."""
    executor = Executor(graph)
    _, button = panel_of(graph)
    other = graph.publisher(Bool, TOPICS.emergency_stop)
    pressed = lambda: executor.node._emergency_stop.pressed  # noqa: E731
    graph.until(pressed, "the press", each=lambda: button.publish(Bool(data=True)))
    for name in ("deactivate", "cleanup", "configure", "activate"):
        assert getattr(executor.node, f"trigger_{name}")().name == "SUCCESS", executor.node.failure
    seen = lambda: len(executor.node._emergency_stop._buttons._received)  # noqa: E731
    graph.until(seen, "the release of the other", each=lambda: other.publish(Bool(data=False)))
    assert "still pressed by /estop_panel" in reset_of(graph)().message
    graph.until(lambda: not pressed(), "release", each=lambda: button.publish(Bool(data=False)))
    assert reset_of(graph)().success


@pytest.mark.ros
def test_the_released_button_does_not_allow_the_reset_of_the_pressed_one(graph):
    executor = Executor(graph)
    executor.send(straight(sim_arm(), (0.03, 0.0, 0.0)))
    one, other = (graph.publisher(Bool, TOPICS.emergency_stop) for _ in range(2))
    infos = []
    graph.peer.create_subscription(
        Bool, TOPICS.emergency_stop, lambda message, info: infos.append(info), 10
    )
    one.publish(Bool(data=True))
    executor.until(lambda: infos and executor.status.state == ExecutorStatus.STOPPED, "the stop")
    other.publish(Bool(data=False))
    client = graph.peer.create_client(Trigger, "chunk_executor/reset_emergency_stop")
    graph.until(client.service_is_ready, "the service")

    def reset():
        response = client.call_async(Trigger.Request())
        executor.until(response.done, "the answer")
        return response.result().success

    assert not reset()
    one.publish(Bool(data=False))
    if not infos[0].get(
        "publisher_gid"
    ):  # Jazzy: releases are ignored while there is another button
        graph.peer.destroy_publisher(other)
        executor.until(lambda: one.publish(Bool(data=False)) or reset(), "a reset of the one left")
        return
    executor.until(reset, "a reset after both were released")


def with_heartbeat(folder, age_s):
    """Write a contract that requires a heartbeat, and return its path."""
    values = yaml.safe_load(CONTRACT_PATH.read_text())
    values["budgets"]["emergency_stop_age_s"] = age_s
    path = folder / "arm.yaml"
    path.write_text(yaml.safe_dump(values))
    (folder / "sim_arm.urdf").write_text(load_contract(CONTRACT_PATH).urdf_xml)
    return path


@pytest.mark.ros
def test_several_buttons_with_a_heartbeat_that_cannot_be_told_apart_are_a_stop(
    graph, tmp_path, monkeypatch
):
    """rclpy of Jazzy does not say who sent a message: one button would mask the other's silence."""
    monkeypatch.setattr(any_qos, "publisher_of", lambda info: UNKNOWN)
    listener = Listener(contract=with_heartbeat(tmp_path, 9.0))
    graph.add(listener)
    buttons = [graph.publisher(Bool, TOPICS.emergency_stop)]

    def send():
        for button in buttons:
            button.publish(Bool(data=False))

    graph.until(lambda: listener.changes, "the first button", each=send)
    assert not listener.emergency_stop.pressed
    buttons.append(graph.publisher(Bool, TOPICS.emergency_stop))
    graph.until(lambda: listener.emergency_stop.pressed, "the stop", each=send)
    silence = listener.emergency_stop._buttons.silence(time.monotonic())
    assert silence < 9.0, "the buttons are not silent: they are too many"
    assert "use only one publisher, or ROS 2 Kilted" in listener.emergency_stop.problem
    with pytest.raises(ValueError, match="several publishers"):
        listener.emergency_stop.reset()
    graph.peer.destroy_publisher(buttons.pop())
    graph.until(lambda: not listener.emergency_stop.pressed, "one button", each=send)


@pytest.mark.ros
def test_a_missing_heartbeat_is_a_stop(graph, tmp_path):
    path = with_heartbeat(tmp_path, 0.4)
    statuses = graph.listen(ExecutorStatus, TOPICS.executor_status)
    graph.add(ChunkExecutorNode(parameter_overrides=[Parameter("contract", value=str(path))]))
    button = graph.publisher(Bool, TOPICS.emergency_stop)
    graph.until(lambda: statuses and statuses[-1].state != ExecutorStatus.INACTIVE, "activation")
    graph.until(lambda: "emergency_stop_age_s allows (0.4 s)" in statuses[-1].reason, "the stop")
    assert statuses[-1].state == ExecutorStatus.STOPPED
    graph.until(
        lambda: "emergency_stop_age_s" not in statuses[-1].reason,
        "the heartbeat",
        each=lambda: button.publish(Bool(data=False)),
    )
    assert statuses[-1].state == ExecutorStatus.STOPPED, "until a person resets it"
