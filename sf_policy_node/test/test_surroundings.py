"""Tests of reports about other nodes on a node's topics."""

import pytest
from executor_cases import TOPICS, Executor
from motion_cases import CONTRACT_PATH, FORWARD, HOME, make_chunk, sim_arm
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sf_msgs.msg import ActionChunk, ExecutorStatus, PolicyStatus
from sf_policy_node.nodes.any_qos import UNKNOWN
from sf_policy_node.nodes.chunk_executor import ChunkExecutorNode
from sf_policy_node.nodes.conversions import chunk_to_message
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.nodes.surroundings import Input, JointSources, Unmatched

pytestmark = pytest.mark.ros


def test_publishers_of_another_type_or_qos_are_named_with_the_cure(graph):
    peer = graph.peer
    inputs = [
        Input(Image, "camera/image", qos_profile_sensor_data),
        Input(CompressedImage, "packed/image", qos_profile_sensor_data),
        Input(ActionChunk, "chunks", QoSProfile(depth=5)),
        Input(JointState, "states", qos_profile_sensor_data),
        Input(String, "anything", None),
    ]
    for kind, topic in (
        (CompressedImage, "camera/image"),
        (Image, "packed/image"),
        (String, "states"),
    ):
        peer.create_publisher(kind, topic, 10)
    peer.create_publisher(ActionChunk, "chunks", qos_profile_sensor_data)
    peer.create_publisher(String, "anything", qos_profile_sensor_data)
    unmatched = Unmatched(peer, inputs)
    graph.until(lambda: len(unmatched.problems) == 4, "four problems", each=unmatched.look)
    text = "\n".join(unmatched.problems)
    assert (
        "/camera/image: /test_peer publishes sensor_msgs/msg/CompressedImage" in text
        and "transport: compressed" in text
    )
    assert "transport: raw" in text and "/states: /test_peer publishes std_msgs/msg/String" in text
    assert (
        "/chunks: /test_peer publishes best effort and reliable is needed" in text
        and "/anything" not in text
    )


def test_a_second_executor_is_refused_and_the_first_continues(graph):
    first = Executor(graph)
    second = graph.add(
        ChunkExecutorNode(parameter_overrides=[Parameter("contract", value=str(CONTRACT_PATH))]),
        activate=False,
    )
    assert second.trigger_configure().name == "SUCCESS" and second.settle() > 0.0
    first.until(lambda: second._rival, "the first one's status")
    assert second.trigger_activate().name == "FAILURE"
    assert "another executor is active on executor/status (/chunk_executor)" in second.failure
    assert first.node.running and not first.node.has_given_up


@pytest.mark.parametrize("is_executor", [True, False], ids=["executor", "player of a recording"])
def test_an_executor_on_another_clock_is_told_from_the_player_of_a_recording(graph, is_executor):
    """Before, two executors commanded one arm silently if one of them ran in simulated time."""
    other = graph.add(ManagedNode("other"), activate=False)
    if is_executor:
        other.create_service(Trigger, "~/reset_emergency_stop", lambda request, answer: answer)
    statuses = other.create_publisher(ExecutorStatus, TOPICS.executor_status, 10)
    executor = ChunkExecutorNode(
        parameter_overrides=[Parameter("contract", value=str(CONTRACT_PATH))]
    )
    graph.add(executor, activate=False)
    assert executor.trigger_configure().name == "SUCCESS" and executor.settle() > 0.0
    message = ExecutorStatus(state=ExecutorStatus.HOLDING)
    message.header.stamp.sec = 12  # of a simulation
    received = []
    graph.peer.create_subscription(ExecutorStatus, TOPICS.executor_status, received.append, 10)

    def done():
        others = [each for each in received if each.header.stamp.sec == 12]
        return executor._rival if is_executor else len(others) > 20

    graph.until(done, "the messages", each=lambda: statuses.publish(message))
    assert executor.trigger_activate().name == ("FAILURE" if is_executor else "SUCCESS")
    assert ("another executor is active" in executor.failure) == is_executor


def test_another_policy_node_that_is_idle_does_not_stop_the_arm(graph):
    executor = Executor(graph)

    def accepted():
        executor.send(FORWARD)
        return executor.status.chunks_accepted

    executor.until(accepted, "a chunk that is accepted")
    message = PolicyStatus(state=PolicyStatus.IDLE, epoch=99)
    executor.node._on_policy_status(message, {"publisher_gid": {"data": bytes(16)}})
    assert "instruction" not in executor.node._motion.status.reason
    executor.node._on_policy_status(
        message, {"publisher_gid": {"data": bytes.fromhex(executor.node._chunks_from)}}
    )
    assert "the policy follows no instruction" in executor.node._motion.status.reason


def test_a_refused_chunk_of_a_second_policy_does_not_hide_the_stop_of_the_first(graph):
    """Before, the executor listened to the policy whose chunk it had refused."""
    executor = Executor(graph)
    executor.move(FORWARD)
    moving = ExecutorStatus.EXECUTING
    executor.until(lambda: executor.status.state == moving, "a motion")
    followed = bytes.fromhex(executor.node._chunks_from)
    old = make_chunk(sim_arm(), FORWARD, stamp=graph.now() - 60.0, sequence=1)
    executor.node._on_chunk(chunk_to_message(old), {"publisher_gid": {"data": bytes(16)}})
    assert executor.node._motion.status.chunks_refused
    executor.node._on_policy_status(
        PolicyStatus(state=PolicyStatus.IDLE, epoch=99, reason="stopped by the stop service"),
        {"publisher_gid": {"data": followed}},
    )
    assert "stopped by the stop service" in executor.node._motion.status.reason


def test_a_command_topic_without_subscribers_is_named(graph):
    executor = Executor(graph)
    executor.graph.peer.destroy_subscription(
        next(
            each
            for each in graph.peer.subscriptions
            if each.topic_name.endswith("joint_trajectory")
        )
    )
    executor.until(
        lambda: (
            "subscribes to /joint_trajectory_controller/joint_trajectory" in executor.status.reason
        ),
        "the reason",
    )


def test_joint_states_of_another_arm_are_named_while_the_executor_waits(graph):
    statuses = graph.listen(ExecutorStatus, TOPICS.executor_status)
    graph.add(
        ChunkExecutorNode(parameter_overrides=[Parameter("contract", value=str(CONTRACT_PATH))])
    )
    driver = graph.publisher(JointState, TOPICS.joint_states)
    message = JointState(name=["right/shoulder", "right/elbow"], position=[0.1, 0.2])

    def publish():
        message.header.stamp = graph.peer.get_clock().now().to_msg()
        driver.publish(message)

    graph.until(
        lambda: statuses and "they name right/shoulder, right/elbow" in statuses[-1].reason,
        "the reason",
        each=publish,
    )


def test_a_leader_whose_messages_cannot_be_used_is_reported_with_topic_and_cause(graph):
    executor = Executor(graph)
    leader = graph.publisher(JointState, TOPICS.teleop_command, qos_profile_sensor_data)
    names = sim_arm().command_joints
    stamp = graph.peer.get_clock().now().to_msg()
    for message, words in (
        (
            JointState(name=[f"leader_{name}" for name in names], position=HOME),
            "lack joint1, joint2, joint3, joint4, joint5, joint6, gripper; they name leader_joint1",
        ),
        (JointState(name=names, position=HOME), "they have no time stamp; set header.stamp"),
        (JointState(name=names, position=HOME[:6]), "they have 7 names, 6 positions"),
    ):
        if "stamp" not in words:
            message.header.stamp = stamp
        executor.node._unused.clear()

        def publish(message=message):
            executor.arm()
            leader.publish(message)

        reason = f"teleoperation commands on {TOPICS.teleop_command} are not used: "
        graph.until(
            lambda reason=reason, words=words: (
                reason in executor.status.reason and words in executor.status.reason
            ),
            words,
            each=publish,
        )


def test_two_drivers_of_the_same_joints_are_counted_and_named(graph):
    executor = Executor(graph)
    other = graph.publisher(JointState, TOPICS.joint_states, qos_profile_sensor_data)
    message = JointState(name=["joint2", "wheel"], position=[0.4, 0.0])

    def publish():
        executor.arm()
        message.header.stamp = graph.peer.get_clock().now().to_msg()
        other.publish(message)

    graph.until(
        lambda: (
            "/joint_states: 2 publishers (/test_peer, /test_peer) report joint2; stop all but one"
            in executor.status.reason
        ),
        "the reason",
        each=publish,
    )
    message.name = ["other", "wheel"]  # its own joints on the common topic
    graph.until(lambda: "publishers" not in executor.status.reason, "no reason", each=publish)


def test_a_driver_of_other_joints_is_not_named_while_joint_states_are_suspected(graph):
    """Before, all publishers were named, and the gripper's own driver was to be stopped."""
    drivers = [graph.peer.create_publisher(JointState, "states", 10) for _ in range(3)]
    sources, known = JointSources(graph.peer, "states", ["joint1", "gripper"]), []

    def are_known():
        infos = graph.peer.get_publishers_info_by_topic("/states")
        known[:] = [bytes(each.endpoint_gid).hex() for each in infos]
        return len(known) == len(drivers)

    graph.until(are_known, "three publishers")
    for names, publisher in zip((["joint1"], ["joint1"], ["gripper"]), known, strict=True):
        sources.receive(names, publisher)
    for suspected in (False, True):
        problem = sources.problem(suspected=suspected)
        assert "2 publishers (/test_peer, /test_peer) report joint1;" in problem


def test_without_publishers_of_messages_all_of_a_suspected_topic_are_named(graph):
    for _ in range(2):
        graph.peer.create_publisher(JointState, "states", 10)
    sources = JointSources(graph.peer, "states", ["joint1"])
    sources.receive(["joint1"], UNKNOWN)
    assert not sources.problem()
    graph.until(lambda: "2 publishers" in sources.problem(suspected=True), "both publishers")
