"""Tests over DDS of monitoring a controller, with nodes that have a controller's names."""

import pytest
from arm_pair import pair
from executor_cases import Executor
from motion_cases import sim_arm
from rclpy.qos import DurabilityPolicy, QoSProfile
from trajectory_msgs.msg import JointTrajectory

from sf_msgs.msg import ExecutorStatus
from sf_policy_node.nodes.controller_watch import ControllerWatch
from sf_policy_node.nodes.lifecycle import ManagedNode

pytestmark = pytest.mark.ros

TOPIC = "/" + sim_arm().command.topic.lstrip("/")
NAME = TOPIC.rpartition("/")[0]

UNFIT = {"allow_trajectory_replacement": True, "positions_upsampling.enable": False}


class Controller(ManagedNode):
    """A node with the name, the topic and the parameters of a controller."""

    def __init__(self, **parameters) -> None:
        super().__init__(NAME.strip("/"))
        joints = list(sim_arm().command_joints)
        self.load(**{"joints": joints, "interpolation_method": "splines", **parameters})

    def load(self, **parameters) -> None:
        for name, value in parameters.items():
            self.declare_parameter(name, value)
        take = lambda message: None  # noqa: E731
        self._taking = self.create_subscription(JointTrajectory, "~/joint_trajectory", take, 10)

    def unload(self) -> None:
        self.destroy_subscription(self._taking)


class Watched:
    """A monitor in its own node, with its reports."""

    def __init__(self, graph) -> None:
        self.graph, self.lost = graph, []
        self.node = ManagedNode("watcher")
        graph.add(self.node, activate=False)
        self.references = []
        self.watch = ControllerWatch(
            self.node,
            self.node.resources,
            sim_arm(),
            own=self.node.own_publishers,
            on_reference=lambda *reference: self.references.append(reference),
            on_lost=self.lost.append,
        )

    def until(self, condition, what):
        self.graph.until(condition, what, each=self.watch.look)


@pytest.fixture
def watched(graph):
    return Watched(graph)


def test_a_controller_is_missing_then_fit_then_restarted_and_unfit(graph, watched):
    assert "load and activate the controller" in watched.watch.refusal
    controller = graph.add(Controller(), activate=False)
    watched.until(lambda: not watched.watch.refusal, "the controller to be seen")
    watched.until(lambda: "controller version" in watched.watch.summary, "its parameters")
    assert watched.watch.summary["controller"] == NAME and not watched.watch.refusal
    assert not watched.lost

    controller.unload()
    controller.load(**UNFIT)
    watched.until(lambda: "set it to false" in watched.watch.refusal, "the unfit controller")
    assert "allow_trajectory_replacement" in watched.watch.refusal
    assert watched.lost


def test_a_limiter_is_compared_with_the_joints_of_its_controller(graph):
    contract, node = pair(), ManagedNode("watcher")
    graph.add(node, activate=False)
    left, right = contract.command_groups
    watches = {
        topic: ControllerWatch(node, node.resources, contract, topic, on_lost=lambda reason: None)
        for topic in (left, right)
    }
    fast = contract.command_joints[contract.command_groups[left][0]]
    for watch in watches.values():
        watch._manager = {"enforce_command_limits": True}
        watch._urdf_xml = f'<robot><joint name="{fast}"><limit velocity="0.1"/></joint></robot>'
    assert any("enforce_command_limits is on" in text for text in watches[left].remarks)
    assert not any("enforce_command_limits" in text for text in watches[right].remarks)


def test_another_publisher_on_the_topic_is_named(graph, watched):
    graph.add(Controller(), activate=False)
    other = graph.add(ManagedNode("rqt_joint_trajectory_controller"), activate=False)
    other.create_publisher(JointTrajectory, TOPIC, 10)
    watched.until(lambda: watched.watch.remarks, "the other publisher")
    assert "/rqt_joint_trajectory_controller publishes on" in watched.watch.remarks[0]


@pytest.mark.parametrize("name", ["rqt_joint_trajectory_controller", "watcher"])
def test_a_trajectory_of_another_node_takes_the_controller_away(graph, watched, name):
    """Also of one with the same name: a second executor counted as the first one."""
    graph.add(Controller(), activate=False)
    own = watched.node.publisher(JointTrajectory, TOPIC, QoSProfile(depth=10))
    other = graph.add(ManagedNode(name), activate=False)
    publisher = other.create_publisher(JointTrajectory, TOPIC, 10)
    infos = []
    take = lambda message, info: infos.append(info)  # noqa: E731
    graph.peer.create_subscription(JointTrajectory, TOPIC, take, 10)
    # The controller, the peer, and the monitor while there is another publisher.
    watched.until(lambda: own.get_subscription_count() == 3, "the subscriptions")
    own.publish(JointTrajectory())
    watched.until(lambda: infos, "the own trajectory")
    assert watched.watch.summary["controller"] == NAME and not watched.watch.refusal
    publisher.publish(JointTrajectory())
    watched.until(lambda: len(infos) == 2, "the trajectory of the other node")
    if not infos[0].get("publisher_gid"):
        return  # Jazzy does not report who sent a message
    watched.until(lambda: watched.lost, "the loss")
    assert watched.watch.refusal == f"/{name} sent a command on {TOPIC}; stop it"
    other.destroy_publisher(publisher)
    watched.until(lambda: own.get_subscription_count() == 2, "the end of the monitoring")
    watched.until(lambda: not watched.watch.refusal, "the controller to be free again")
    assert len(watched.lost) == 1


def test_incompatible_topics_are_in_the_diagnostics(watched):
    reports = watched.watch.summary.get("controller reports", "")
    try:
        import control_msgs.msg  # noqa: F401
        import controller_manager_msgs.msg  # noqa: F401
    except ImportError:
        assert "not installed" in reports
    else:
        assert not reports


def test_the_executor_refuses_an_unfit_controller_and_names_the_parameter(graph):
    graph.add(Controller(**UNFIT), activate=False)
    executor = Executor(graph)
    reason = "allow_trajectory_replacement is true"
    executor.until(lambda: reason in executor.status.reason, "the reason in the status")
    executor.send()
    assert executor.node.trigger_deactivate().name == "SUCCESS"
    assert executor.node.trigger_activate().name == "FAILURE"
    assert reason in executor.node.failure and "set it to false" in executor.node.failure
    assert not executor.commands


def test_the_controllers_reference_is_forwarded_and_missing_reports_are_a_loss(graph, watched):
    kind = pytest.importorskip("control_msgs.msg").JointTrajectoryControllerState
    controller = graph.add(Controller(), activate=False)
    reports = controller.create_publisher(kind, "~/controller_state", 10)
    joints = list(sim_arm().command_joints)
    report = kind(joint_names=joints[::-1])
    report.header.stamp.sec = 7
    report.reference.positions = [float(row) for row in range(len(joints))]

    def look():
        reports.publish(report)
        watched.watch.look()

    graph.until(lambda: watched.references, "a report", each=look)
    stamp, positions, velocities, joints = watched.references[-1]
    assert joints.tolist() == list(range(7))
    assert stamp == 7.0 and positions.tolist() == report.reference.positions[::-1].tolist()
    assert not velocities.any() and watched.watch.summary["controller state"] == "active"
    watched.until(lambda: watched.lost, "the silence")
    assert (
        "no longer reports its state" in watched.lost[0] and "activate it" in watched.watch.refusal
    )


def test_a_deactivation_that_the_controller_manager_reports_is_a_loss(graph, watched):
    messages = pytest.importorskip("controller_manager_msgs.msg")
    graph.add(Controller(), activate=False)
    manager = graph.add(ManagedNode("controller_manager"), activate=False)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    activity = manager.create_publisher(messages.ControllerManagerActivity, "~/activity", latched)

    def report(state):
        entry = messages.NamedLifecycleState(name=NAME.strip("/"))
        entry.state.label = state
        activity.publish(messages.ControllerManagerActivity(controllers=[entry]))

    report("active")
    summary = "controller state"
    watched.until(lambda: watched.watch.summary[summary] == "active", "the active controller")
    report("inactive")
    watched.until(lambda: watched.lost, "the deactivation")
    assert watched.lost == [f"{NAME} was deactivated"]
    assert watched.watch.refusal == f"{NAME} is inactive: activate it"


def test_a_controller_that_disappears_during_a_motion_ends_it_and_is_named(graph):
    controller = graph.add(Controller(), activate=False)
    executor = Executor(graph)
    executor.send()
    moving = ExecutorStatus.EXECUTING
    executor.until(lambda: executor.status.state == moving, "a motion")
    controller.unload()
    executor.until(lambda: executor.status.state != moving, "the end of the motion")
    executor.until(lambda: f"{NAME} has left" in executor.status.reason, "the reason")
    assert "give an instruction again" in executor.status.reason
