"""Runs the chunk executor as a node in this process, with a simulated stationary arm."""

import dataclasses

from motion_cases import make_chunk, sim_arm, straight
from node_cases import CONTRACT_PARAMETER, FakeArm
from rclpy.parameter import Parameter
from trajectory_msgs.msg import JointTrajectory

from sf_msgs.msg import ActionChunk, ExecutorStatus
from sf_policy_node.nodes.chunk_executor import ChunkExecutorNode
from sf_policy_node.nodes.conversions import chunk_to_message

TOPICS, COMMANDS = sim_arm().topics, sim_arm().command.topic


class Executor:
    """The node under test; ``parameters`` are its own."""

    def __init__(self, graph, **parameters):
        self.graph = graph
        overrides = [
            CONTRACT_PARAMETER,
            *(Parameter(name, value=value) for name, value in parameters.items()),
        ]
        self.node = graph.add(ChunkExecutorNode(parameter_overrides=overrides))
        self.commands = graph.listen(JointTrajectory, COMMANDS)
        self.statuses = graph.listen(ExecutorStatus, TOPICS.executor_status)
        self.chunks = graph.publisher(ActionChunk, TOPICS.action_chunk)
        self.arm = FakeArm(graph, images=False)
        self.sequence = 0
        self.until(
            lambda: self.statuses and 0.0 <= self.status.joint_state_age_s < 0.1, "joint states"
        )
        seen = (
            graph.now() + 0.3
        )  # the executor takes over an arm that has been stationary for a while
        self.until(lambda: graph.now() > seen, "joint states of a while")

    @property
    def status(self):
        return self.statuses[-1]

    def until(self, condition, what):
        return self.graph.until(condition, what, each=self.arm)

    def move(self, data=None):
        """Send chunks until one is executed. Those before the policy's status are refused."""
        before, due = len(self.commands), 0.0

        def each():
            nonlocal due
            self.arm()
            if self.graph.now() >= due:
                due = self.graph.now() + 0.3
                self.send(data)

        self.graph.until(lambda: len(self.commands) > before, "motion", each=each)

    def send(self, data=None, **changes):
        self.sequence += 1
        data = straight(sim_arm()) if data is None else data
        chunk = make_chunk(sim_arm(), data, stamp=self.graph.now(), sequence=self.sequence)
        self.chunks.publish(chunk_to_message(dataclasses.replace(chunk, **changes)))
