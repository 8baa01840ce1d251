"""Tests over DDS of another node that commands a topic on which the executor streams."""

import numpy as np
import pytest
import yaml
from executor_cases import Executor
from geometry_msgs.msg import TwistStamped
from motion_cases import CONTRACT_PATH, FORWARD, sim_arm
from std_msgs.msg import Float64MultiArray

from sf_msgs.msg import ExecutorStatus
from sf_policy_node.contract import parse_contract
from sf_policy_node.motion.types import Trajectory
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.nodes.outputs import sampled, streamed_topics

ARM, GRIPPER = "/arm/commands", "/gripper/commands"
OF_OTHER = 0.123  # a value that the executor does not command


def commands(output, gripper=True):
    """Return the section command of a contract with another output."""
    own = {"output": "forward_command", "topic": GRIPPER} if gripper else None
    return {"output": output, "topic": ARM, "rate_hz": 100.0, "gripper": own}


def contract_text(command):
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["command"] = command
    return yaml.safe_dump(data)


@pytest.mark.parametrize(
    ("command", "topics"),
    [
        (commands("joint_trajectory"), [(Float64MultiArray, GRIPPER, [6])]),
        (commands("joint_trajectory", gripper=False), []),
        (
            commands("forward_command"),
            [
                (Float64MultiArray, ARM, [0, 1, 2, 3, 4, 5]),
                (Float64MultiArray, GRIPPER, [6]),
            ],
        ),
        (
            commands("servo_twist"),
            [(TwistStamped, ARM, [0, 1, 2, 3, 4, 5]), (Float64MultiArray, GRIPPER, [6])],
        ),
    ],
)
def test_every_streamed_topic_is_listed_with_its_joints(command, topics):
    contract = parse_contract(contract_text(command), sim_arm().urdf_xml)
    assert list(streamed_topics(contract)) == topics


def test_a_stop_is_sampled_up_to_its_last_point():
    points = np.array([[0.0], [0.2], [0.3]])
    stop = Trajectory(5.0, ("joint1",), np.array([0.1, 0.2, 0.3]), points, 2.0 * points[::-1])
    middle = sampled(stop, 5.15)
    assert middle.positions == pytest.approx(0.1) and middle.velocities == pytest.approx(0.5)
    assert sampled(stop, 5.35).positions == pytest.approx(0.3)
    assert not sampled(stop, 5.35).velocities.any() and sampled(stop, 5.5) is None


class Streaming:
    """An executor that streams to an arm and a gripper, and another node with both topics."""

    def __init__(self, graph, folder):
        path = folder / "arm.yaml"
        path.write_text(contract_text(commands("forward_command")))
        (folder / "sim_arm.urdf").write_text(sim_arm().urdf_xml)
        self.executor = Executor(graph, contract=str(path))
        self.received = {
            topic: graph.listen(Float64MultiArray, topic, 500) for topic in (ARM, GRIPPER)
        }
        other = graph.add(ManagedNode("rqt_commands"), activate=False)
        self.publishers = {
            topic: other.create_publisher(Float64MultiArray, topic, 10) for topic in self.received
        }
        remark = f"/rqt_commands publishes on {GRIPPER} too: only one node may command it"
        self.executor.until(lambda: remark in self.executor.status.reason, "the remark")
        self.move()

    def move(self):
        """Send chunks until the arm has moved for a while; those before its status are refused."""
        due = 0.0

        def each():
            nonlocal due
            self.executor.arm()
            if self.executor.graph.now() >= due:
                due = self.executor.graph.now() + 0.3
                self.executor.send(FORWARD)

        self.executor.graph.until(lambda: len(self.own(ARM)) > 20, "a motion", each=each)

    def own(self, topic):
        return [each for each in self.received[topic] if OF_OTHER not in each.data]

    def take(self, topic):
        """Command a topic until the executor has noticed it."""
        self.executor.graph.until(
            lambda: f"/rqt_commands sent a command on {topic}" in self.executor.status.reason,
            "the reason",
            each=lambda: self.publish(topic),
        )
        assert self.executor.status.state != ExecutorStatus.EXECUTING
        assert "give an instruction again" in self.executor.status.reason

    def publish(self, topic):
        self.executor.arm()
        self.publishers[topic].publish(Float64MultiArray(data=[OF_OTHER]))


@pytest.mark.ros
def test_a_streamed_topic_that_another_node_commands_gets_nothing_more(graph, tmp_path):
    streaming = Streaming(graph, tmp_path)
    streaming.take(ARM)
    sent, over = len(streaming.own(ARM)), graph.now() + 0.8

    def each():
        streaming.publish(ARM)
        streaming.executor.send(FORWARD, epoch=2)  # a new instruction

    graph.until(lambda: graph.now() > over, "most of a second", each=each)
    assert len(streaming.own(ARM)) <= sent + 2, "two may have been on their way"
    assert "sent a command on" in streaming.executor.status.reason


@pytest.mark.ros
def test_the_arm_brakes_along_its_path_when_its_gripper_is_taken(graph, tmp_path):
    streaming = Streaming(graph, tmp_path)
    streaming.take(GRIPPER)
    gripper = len(streaming.own(GRIPPER))
    over = graph.now() + 1.0
    graph.until(lambda: graph.now() > over, "the stop", each=streaming.executor.arm)
    steps = np.abs(np.diff([each.data for each in streaming.own(ARM)], axis=0)).max(axis=1)
    assert steps[-1] < 0.1 * steps.max(), "it slows down"
    last = np.flatnonzero(steps > 0.5 * steps.max())[-1]
    assert len(steps) - last > 3, "over several commands"
    assert len(streaming.own(GRIPPER)) <= gripper + 2
