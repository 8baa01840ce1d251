"""Tests over DDS of the messages of each output of the executor, for given motions."""

import dataclasses
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from arm_pair import pair
from geometry_msgs.msg import PoseStamped, TwistStamped
from motion_cases import CONTRACT_PATH, HOME, sim_arm
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory

from sf_policy_node.contract import ContractError, parse_contract
from sf_policy_node.motion.arm.tool_motion import ToolMotion
from sf_policy_node.motion.types import Setpoint, Trajectory
from sf_policy_node.nodes import outputs
from sf_policy_node.nodes.chunk_executor import ChunkExecutorNode
from sf_policy_node.nodes.conversions import to_seconds, to_stamp
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.nodes.outputs import make_output

pytestmark = pytest.mark.ros
RATE = 100.0
NAMES = tuple(sim_arm().command_joints)
FORWARD_GRIPPER = {"output": "forward_command", "topic": "/gripper/commands"}
MOVING = np.array([0.3, -0.2, 0.1, 0.4, -0.5, 0.6, 0.0])  # velocities


def variant(output, gripper=None, topic="/arm/commands"):
    """Return the simulated arm's contract with another output."""
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["command"] = {"output": output, "topic": topic, "rate_hz": RATE, "gripper": gripper}
    return parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml)


def setpoint(stamp=0.0, positions=HOME, velocities=MOVING):
    return Setpoint(stamp, NAMES, np.array(positions), np.array(velocities))


def motion(stamp, seconds=0.3):
    """Return a motion from HOME along MOVING that slows to rest."""
    times = np.arange(1, round(seconds * RATE) + 1) / RATE
    rate = 1.0 - times / seconds
    return Trajectory(
        stamp,
        NAMES,
        times,
        HOME + MOVING * (times - 0.5 * times**2 / seconds)[:, None],
        MOVING * rate[:, None],
    )


class Rig:
    """A node with an output, and subscriptions to its topics."""

    def __init__(self, graph, contract, **topics):
        self.graph = graph
        self.node = graph.add(ManagedNode("executor"), activate=False)
        self.output = make_output(self.node, contract)
        for topic, kind in {"/arm/commands": topics["arm"], **topics.get("more", {})}.items():
            graph.listen(kind, topic, 200)
            graph.until(
                lambda topic=topic: (
                    self.node.count_subscribers(topic) and graph.peer.count_publishers(topic)
                ),
                topic,
            )

    def wait_for_messages(self, topic="/arm/commands", count=1):
        self.graph.until(
            lambda: len(self.graph.received[topic]) >= count,
            f"{count} messages on {topic}",
        )
        return self.graph.received[topic]

    def stream(self, setpoint, count, topic="/arm/commands"):
        """Stream a setpoint and wait until ``count`` messages in all have been received."""
        self.output.stream(setpoint)
        return self.wait_for_messages(topic, count)[-1]


def test_a_trajectory_is_published_at_once_without_streaming(graph):
    rig = Rig(graph, variant("joint_trajectory"), arm=JointTrajectory)
    assert not rig.output.streams
    sent = motion(rig.node.now())
    rig.output.send(sent)
    rig.output.flush()
    (message,) = rig.wait_for_messages()
    assert tuple(message.joint_names) == NAMES and to_seconds(
        message.header.stamp
    ) == pytest.approx(sent.stamp, abs=1e-6)
    np.testing.assert_array_equal([point.positions for point in message.points], sent.positions)
    np.testing.assert_array_equal([point.velocities for point in message.points], sent.velocities)


def pair_motion(stamp, seconds=0.3):
    one = motion(stamp, seconds)
    names = tuple(pair().command_joints)
    both = [np.hstack([part, -part]) for part in (one.positions, one.velocities)]
    return Trajectory(stamp, names, one.times, *both)


def test_each_controller_of_two_arms_receives_its_joints_with_the_same_stamps(graph):
    topics = [f"/{arm}_arm_controller/joint_trajectory" for arm in ("left", "right")]
    node = graph.add(ManagedNode("executor"), activate=False)
    output = make_output(node, pair())
    assert not output.streams
    for topic in topics:
        graph.listen(JointTrajectory, topic, 20)
        graph.until(lambda topic=topic: node.count_subscribers(topic), topic)
    sent = pair_motion(node.now())
    output.send(sent)
    output.flush()
    graph.until(lambda: all(graph.received[topic] for topic in topics), "both messages")
    left, right = (graph.received[topic][0] for topic in topics)
    assert left.header.stamp == right.header.stamp
    assert [*left.joint_names, *right.joint_names] == pair().command_joints
    np.testing.assert_array_equal(
        [point.positions for point in right.points], sent.positions[:, 7:]
    )
    # A lost controller receives no stop.
    output.send(dataclasses.replace(pair_motion(node.now()), left_out=tuple(range(7))))
    graph.until(lambda: len(graph.received[topics[1]]) == 2, "the stop of the other arm")
    assert len(graph.received[topics[0]]) == 1


def test_one_controller_of_two_arms_receives_one_message(graph):
    node = graph.add(ManagedNode("executor"), activate=False)
    contract = pair(topics="common")
    output = make_output(node, contract)
    (topic,) = contract.command_groups
    graph.listen(JointTrajectory, f"/{topic}", 20)
    graph.until(lambda: node.count_subscribers(topic), topic)
    output.send(pair_motion(node.now()))
    graph.until(lambda: graph.received[f"/{topic}"], "the message")
    assert list(graph.received[f"/{topic}"][0].joint_names) == contract.command_joints


def test_joint_positions_are_streamed_in_contract_order_and_not_while_holding(graph):
    rig = Rig(graph, variant("forward_command"), arm=Float64MultiArray)
    assert rig.output.streams
    rig.output.send(motion(rig.node.now()))
    assert list(rig.stream(setpoint(), 1).data) == HOME.tolist()
    rig.output.stream(None)
    assert list(rig.stream(setpoint(positions=HOME + 0.01), 2).data) == (HOME + 0.01).tolist()
    assert len(rig.wait_for_messages()) == 2


@pytest.mark.parametrize("gripper", [None, FORWARD_GRIPPER], ids=["in the arm's command", "apart"])
def test_the_last_stop_is_streamed_to_its_end_before_the_node_ends(graph, gripper):
    more = {"/gripper/commands": Float64MultiArray} if gripper else {}
    rig = Rig(graph, variant("forward_command", gripper), arm=Float64MultiArray, more=more)
    stop = motion(rig.node.now() - 0.1)  # a third of it has passed
    rig.output.send(stop)
    begin = time.monotonic()
    rig.output.flush()
    assert time.monotonic() - begin > 0.18
    width = 6 if gripper else 7
    end = stop.positions[-1][:width].tolist()
    graph.until(
        lambda: (
            graph.received["/arm/commands"]
            and list(graph.received["/arm/commands"][-1].data) == end
        ),
        "the end of the stop",
    )
    played = np.array([message.data for message in rig.wait_for_messages()])
    assert (
        np.abs(np.diff(played, axis=0)).max() < 0.0065
    )  # at most the motion of the fastest joint in one period: no jump
    if gripper:
        assert list(rig.wait_for_messages("/gripper/commands")[-1].data) == [HOME[-1]]


def test_a_stop_that_is_flushed_late_starts_where_it_was_handed_over(graph):
    rig = Rig(graph, variant("forward_command"), arm=Float64MultiArray)
    stop = motion(rig.node.now())
    rig.output.send(stop)
    time.sleep(0.1)  # without the cure, the first ten points are left out
    rig.output.flush()
    first = rig.wait_for_messages(count=30)[0]
    np.testing.assert_array_equal(first.data, stop.positions[0])


class Recorder(outputs.StreamingOutput):
    """An output that records its commands, and a clock that is late by ``late_s`` once."""

    def __init__(self, late_s):
        super().__init__(SimpleNamespace(now=lambda: self.clock))
        self.clock, self._late, self.sent = 0.0, late_s, []

    def monotonic(self):
        return self.clock

    def sleep(self, seconds):
        self.clock += seconds
        if len(self.sent) == 10:
            self.clock, self._late = self.clock + self._late, 0.0

    def publish(self, setpoint):
        if setpoint is not None:
            self.sent.append((self.clock, setpoint.positions))

    def wait(self):
        """Do nothing."""


@pytest.mark.parametrize("late_s", [0.05, 0.3])
def test_a_stall_while_a_stop_is_flushed_sends_no_burst(monkeypatch, late_s):
    recorder = Recorder(late_s)
    monkeypatch.setattr(outputs, "time", recorder)
    stop = motion(0.0)
    recorder.send(stop)
    recorder.flush()
    times, positions = zip(*recorder.sent, strict=True)
    assert np.diff(times).min() > 0.99 / RATE
    whole = late_s < 0.06
    np.testing.assert_array_equal(positions, stop.positions[: None if whole else 10])


@pytest.mark.parametrize("shadow", [False, True])
def test_a_deactivation_without_a_stop_ends_the_stream(shadow):
    """After a stall there is no stop to flush, but the last twist must not continue."""
    streamed = []
    node = SimpleNamespace(
        now=lambda: 0.0,
        _motion=SimpleNamespace(deactivate=lambda now: None),
        _output=SimpleNamespace(stream=streamed.append),
        _send=lambda stop: None,
        _report_change=lambda: None,
        _shadow=shadow,
    )
    ChunkExecutorNode.stop(node)
    assert streamed == ([] if shadow else [None])


def test_after_the_last_stop_nothing_is_streamed_until_the_next_motion(graph):
    rig = Rig(graph, variant("forward_command"), arm=Float64MultiArray)
    stop = motion(rig.node.now())
    rig.output.send(stop)
    rig.output.flush()
    rig.output.stream(setpoint(rig.node.now(), positions=HOME))  # position before the stop
    graph.until(
        lambda: list(rig.wait_for_messages()[-1].data) == stop.positions[-1].tolist(),
        "the end of the stop",
    )
    count = len(rig.wait_for_messages())
    rig.output.send(motion(rig.node.now()))
    assert list(rig.stream(setpoint(positions=HOME + 0.1), count + 1).data) == (HOME + 0.1).tolist()


def test_a_stationary_arm_is_not_pulled_back_when_the_node_ends(graph):
    rig = Rig(graph, variant("forward_command"), arm=Float64MultiArray)
    rig.output.send(motion(rig.node.now() - 5.0))
    rig.output.flush()
    rig.output.send(motion(rig.node.now()))
    rig.stream(
        setpoint(positions=HOME + 0.2), 1
    )  # a sentinel: earlier messages would have arrived before it
    assert len(rig.wait_for_messages()) == 1


def test_a_separate_gripper_controller_is_not_in_the_arms_trajectory(graph):
    more = {"/gripper/commands": Float64MultiArray}
    rig = Rig(graph, variant("joint_trajectory", FORWARD_GRIPPER), arm=JointTrajectory, more=more)
    assert rig.output.streams
    rig.output.send(motion(rig.node.now()))
    message = rig.wait_for_messages()[0]
    assert tuple(message.joint_names) == NAMES[:-1]
    assert (
        {len(point.positions) for point in message.points}
        == {len(point.velocities) for point in message.points}
        == {6}
    )
    assert list(rig.stream(setpoint(), 1, "/gripper/commands").data) == [HOME[-1]]


def test_the_tool_twist_is_in_the_base_frame_and_ends_with_zeros(graph):
    contract = variant("servo_twist", FORWARD_GRIPPER)
    rig = Rig(graph, contract, arm=TwistStamped)
    message = rig.stream(setpoint(), 1)
    linear, angular = message.twist.linear, message.twist.angular
    text = [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]
    np.testing.assert_allclose(text, ToolMotion(contract).twist(HOME[:6], MOVING[:6]), atol=1e-12)
    assert message.header.frame_id == "base_link"
    assert (
        abs(graph.now() - to_seconds(message.header.stamp)) < 1.0
    )  # Servo drops messages older than 0.1 s, and stamps of 0
    for _ in range(10):
        rig.output.stream(None)
    last = rig.stream(setpoint(), 6)
    assert last.twist.linear.x == linear.x
    zeros = rig.wait_for_messages()[1:5]
    assert all(
        zero.twist.linear.x == zero.twist.linear.y == zero.twist.angular.z == 0.0 for zero in zeros
    )
    assert len(rig.wait_for_messages()) == 6


def test_the_twist_moves_a_tool_back_to_its_path(graph):
    rig = Rig(graph, variant("servo_twist", FORWARD_GRIPPER), arm=TwistStamped)
    states = graph.publisher(JointState, sim_arm().topics.joint_states, qos_profile_sensor_data)
    tool = ToolMotion(sim_arm())
    straight = rig.stream(setpoint(rig.node.now()), 1).twist.linear
    away = HOME - [0.03, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0]

    def says_so():
        stamp = to_stamp(rig.node.now())
        states.publish(
            JointState(
                header=Header(stamp=stamp),
                name=list(NAMES),
                position=away.tolist(),
                velocity=[0.0] * 7,
            )
        )
        rig.output.stream(setpoint(rig.node.now()))
        return rig.wait_for_messages()[-1].twist.linear != straight

    graph.until(says_so, "a correction")
    text = rig.wait_for_messages()[-1].twist.linear
    back = np.array([text.x - straight.x, text.y - straight.y, text.z - straight.z])
    offset = tool.pose(HOME[:6]).position - tool.pose(away[:6]).position
    assert back @ offset > 0.99 * np.linalg.norm(back) * np.linalg.norm(offset)  # towards the path
    assert np.linalg.norm(back) <= 0.1 + 1e-9


def test_a_correction_of_the_drift_moves_no_tool_through_a_wall(graph):
    """Before, only its speed was limited: 0.06 m/s out of the box."""
    contract, tool = variant("servo_twist", FORWARD_GRIPPER), ToolMotion(sim_arm())
    away = np.append(tool.joint_velocities(HOME[:6], [-0.03, 0, 0, 0, 0, 0]), 0.0) + HOME
    wall = float(tool.pose(away[:6]).position[0])  # between the tool and its path
    box = contract.workspace.model_copy(update={"upper": [wall, *contract.workspace.upper[1:]]})
    ((name, arm),) = contract.arms.items()
    arm = arm.model_copy(update={"workspace": box})
    rig = Rig(graph, contract.model_copy(update={"arms": {name: arm}}), arm=TwistStamped)
    states = graph.publisher(JointState, sim_arm().topics.joint_states, qos_profile_sensor_data)
    rig.stream(setpoint(rig.node.now(), velocities=0.0 * MOVING), 1)

    def is_measured_for_a_while():
        header = Header(stamp=to_stamp(rig.node.now()))
        states.publish(JointState(header=header, name=list(NAMES), position=away.tolist()))
        rig.output.stream(setpoint(rig.node.now(), velocities=0.0 * MOVING))
        return len(rig.wait_for_messages()) > 60

    graph.until(is_measured_for_a_while, "60 twists")
    twists = [message.twist.linear for message in rig.wait_for_messages()]
    assert max(twist.x for twist in twists) < 0.012  # 1 mm, the tolerance of the box, in 0.1 s
    assert any(twist.x for twist in twists), "a part of the correction"


def test_the_last_pose_is_repeated_until_servo_reaches_it(graph):
    contract = variant("servo_pose", FORWARD_GRIPPER)
    rig = Rig(graph, contract, arm=PoseStamped)
    message = rig.stream(setpoint(), 1)
    tool = ToolMotion(contract).pose(HOME[:6])
    position, turn = message.pose.position, message.pose.orientation
    np.testing.assert_allclose([position.x, position.y, position.z], tool.position, atol=1e-12)
    np.testing.assert_allclose([turn.x, turn.y, turn.z, turn.w], tool.quaternion, atol=1e-12)
    assert message.header.frame_id == "base_link"
    for count in range(20):  # 0.2 s
        assert rig.stream(None, count + 2).pose == message.pose
    assert to_seconds(rig.wait_for_messages()[-1].header.stamp) > to_seconds(message.header.stamp)
    for _ in range(20):
        rig.output.stream(None)
    rig.stream(setpoint(positions=HOME + 0.1), 22)
    assert len(rig.wait_for_messages()) == 22


def test_nothing_is_published_before_the_first_motion(graph):
    rig = Rig(graph, variant("servo_twist", FORWARD_GRIPPER), arm=TwistStamped)
    rig.output.stream(None)
    rig.output.flush()
    rig.output.send(motion(rig.node.now()))
    rig.stream(setpoint(), 1)
    assert len(rig.wait_for_messages()) == 1


def test_a_missing_action_package_is_refused_with_the_cure(graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "control_msgs.action", None)
    node = graph.add(ManagedNode("executor"), activate=False)
    gripper = {"output": "parallel_gripper", "topic": "/gripper/gripper_cmd"}
    with pytest.raises(
        ContractError,
        match=r"command\.gripper\.output: parallel_gripper needs the ROS package control_msgs",
    ):
        make_output(node, variant("joint_trajectory", gripper))


def test_cleanup_removes_what_an_output_created(graph):
    rig = Rig(graph, variant("servo_pose", FORWARD_GRIPPER), arm=PoseStamped)
    rig.node.resources.close()
    topics = {name for name, _ in rig.node.get_publisher_names_and_types_by_node("executor", "/")}
    assert not topics & {"/arm/commands", "/gripper/commands"}
