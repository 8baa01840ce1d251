"""The chunk executor with two arms over DDS, each with its own driver and controller."""

import numpy as np
import pytest
import yaml
from arm_pair import PAIR_HOME, pair, pair_data, pair_urdf
from motion_cases import make_chunk
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from sf_msgs.msg import ActionChunk, ExecutorStatus
from sf_policy_node.nodes import chunk_executor, controller_watch
from sf_policy_node.nodes.chunk_executor import ChunkExecutorNode
from sf_policy_node.nodes.conversions import chunk_to_message, to_stamp

pytestmark = pytest.mark.ros
ARMS = ("left", "right")
COMMANDS = {arm: f"/{arm}_arm_controller/joint_trajectory" for arm in ARMS}


class PairNode:
    """The node, two drivers that report the home pose, and subscriptions to both controllers."""

    def __init__(self, graph, folder, monkeypatch):
        for module in (chunk_executor, controller_watch):
            monkeypatch.setattr(module, "time", graph.stopwatch())
        path = folder / "pair.yaml"
        path.write_text(yaml.safe_dump(pair_data()))
        (folder / "pair.urdf").write_text(pair_urdf())
        self.graph, self.statuses = graph, []
        self.commands = {arm: graph.listen(JointTrajectory, COMMANDS[arm]) for arm in ARMS}
        parameters = [Parameter("contract", value=str(path))]
        self.node = graph.add(ChunkExecutorNode(parameter_overrides=parameters), activate=False)
        assert self.node.trigger_configure().name == "SUCCESS", self.node.failure
        states, chunks = pair().topics.joint_states, pair().topics.action_chunk
        drivers = [graph.publisher(JointState, states, qos_profile_sensor_data) for _ in ARMS]
        self.drivers = dict(zip(ARMS, drivers, strict=True))
        self.silent, self._next = set(), 0.0
        self.chunks = graph.publisher(ActionChunk, chunks, QoSProfile(depth=5))
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        graph.peer.create_subscription(
            ExecutorStatus, pair().topics.executor_status, self.statuses.append, latched
        )
        assert self.node.trigger_activate().name == "SUCCESS", self.node.failure

    def report(self):
        """Publish each driver's own joints in separate messages."""
        if self.graph.now() < self._next:
            return
        self._next = self.graph.now() + 0.01
        for arm, joints in zip(ARMS, (slice(0, 7), slice(7, 14)), strict=True):
            if arm not in self.silent:
                message = JointState(header=Header(stamp=to_stamp(self.graph.now())))
                message.name = pair().command_joints[joints]
                message.position = PAIR_HOME[joints].tolist()
                self.drivers[arm].publish(message)

    def until(self, condition, what):
        return self.graph.until(condition, what, each=self.report)

    def until_commanded(self):
        """Send chunks until both arms are commanded: a busy computer refuses some as too old."""
        sent_at, sequence = 0.0, 0

        def each():
            nonlocal sent_at, sequence
            self.report()
            if self.graph.now() > sent_at + 0.5:
                sent_at, sequence = self.graph.now(), sequence + 1
                self.send(sequence)

        self.graph.until(lambda: all(self.commands.values()), "trajectories", each=each)

    @property
    def status(self):
        return self.statuses[-1]

    def send(self, sequence=1, turn=0.02):
        data = np.tile(PAIR_HOME, (8, 1))
        data[:, [0, 7]] += turn * np.arange(1, 9)[:, None]
        data[:, [6, 13]] = 1.0
        chunk = make_chunk(
            pair(), data, stamp=self.graph.now(), sequence=sequence, reference=PAIR_HOME.copy()
        )
        self.chunks.publish(chunk_to_message(chunk))


@pytest.fixture
def robot(graph, tmp_path, monkeypatch):
    one = PairNode(graph, tmp_path, monkeypatch)
    seen = graph.now() + 0.3  # the executor takes over arms that have been stationary for a while
    one.until(lambda: one.statuses and graph.now() > seen, "joint states of a while")
    return one


def test_both_controllers_receive_their_joints_and_one_lost_driver_stops_both(robot):
    robot.until_commanded()
    left, right = (robot.commands[arm][0] for arm in ARMS)
    assert left.header.stamp == right.header.stamp
    assert left.joint_names == pair().command_joints[:7]
    assert right.joint_names == pair().command_joints[7:]
    counts = {arm: len(robot.commands[arm]) for arm in ARMS}
    robot.silent.add("right")
    robot.until(
        lambda: all(len(robot.commands[arm]) > counts[arm] for arm in ARMS), "a stop for each arm"
    )
    stops = [robot.commands[arm][counts[arm]] for arm in ARMS]
    assert stops[0].header.stamp == stops[1].header.stamp
    for stop in stops:
        assert list(stop.points[-1].velocities) == [0.0] * 7
    robot.until(lambda: robot.status.state == ExecutorStatus.HOLDING, "the hold")
    assert "right_joint" in robot.status.reason or "joint state" in robot.status.reason
