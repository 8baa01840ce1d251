"""Tests over DDS of what the executor reports while its controller starts."""

import shutil

import pytest
import yaml
from motion_cases import CONTRACT_PATH
from node_cases import CONTRACT_PARAMETER
from rclpy.parameter import Parameter
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from sf_msgs.msg import ExecutorStatus
from sf_policy_node.nodes.chunk_executor import ChunkExecutorNode

pytestmark = pytest.mark.ros

STARTS_S, WAITS_S = 1.0, 2.5  # of a slow controller; as long as the executor waits for one


class RecordingLogger:
    """Takes the place of a node's logger. /rosout has no messages of a node whose name another node
    of this process had before.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.info = self.warning = self.error = self._log

    def get_child(self, name: str) -> "RecordingLogger":
        return self

    def _log(self, message: str, **options) -> None:
        self.messages.append(message)


class Start:
    """An executor that was just activated, without a controller and joint states."""

    def __init__(self, graph, contract=CONTRACT_PARAMETER) -> None:
        self.graph, logger = graph, RecordingLogger()
        self._logs = logger.messages
        self.node = ChunkExecutorNode(parameter_overrides=[contract])
        self.node.get_logger = lambda: logger
        graph.add(self.node)
        self._statuses = graph.listen(ExecutorStatus, self.node._contract.topics.executor_status)
        self._at = graph.now()

    def wait(self, seconds: float) -> None:
        """Spin until the executor has been active for that long."""
        self.graph.until(lambda: self.graph.now() > self._at + seconds, f"{seconds} s")

    def until(self, text: str) -> None:
        self.graph.until(lambda: self.statuses(text), f"{text} in the status")
        self.graph.until(lambda: self.logs(text), f"{text} in the log")

    def statuses(self, text: str) -> list[str]:
        return [each.reason for each in self._statuses if text in each.reason]

    def logs(self, text: str) -> list[str]:
        return [each for each in self._logs if text in each]


@pytest.fixture
def forward_command(tmp_path):
    """Return the parameter of a contract whose commands go to a forward_command_controller."""
    shutil.copy(CONTRACT_PATH.with_suffix(".urdf"), tmp_path)
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["command"].update(output="forward_command", topic="/forward/commands")
    path = tmp_path / "contract.yaml"
    path.write_text(yaml.safe_dump(data))
    return Parameter("contract", value=str(path))


def test_a_controller_that_starts_later_is_no_warning(graph):
    start = Start(graph)
    start.wait(STARTS_S)
    graph.listen(JointTrajectory, start.node._contract.command.topic)
    start.wait(WAITS_S + 1.0)
    assert start.logs("active") and not start.logs("subscribes to")
    assert not start.statuses("subscribes to")


def test_a_missing_controller_is_reported_once_the_wait_is_over(graph):
    start = Start(graph)
    start.wait(STARTS_S)
    assert not start.logs("subscribes to") and not start.statuses("subscribes to")
    start.until("no controller subscribes to /joint_trajectory_controller/joint_trajectory")
    start.wait(WAITS_S + 1.0)
    assert len(start.logs("no controller subscribes")) == 1


def test_other_outputs_wait_for_their_subscriber_too(graph, forward_command):
    start = Start(graph, forward_command)
    start.wait(STARTS_S)
    assert not start.logs("subscribes to") and not start.statuses("subscribes to")
    start.until("no node subscribes to /forward/commands: start the controller")
    graph.listen(Float64MultiArray, "/forward/commands")
    graph.until(lambda: "subscribes" not in start._statuses[-1].reason, "the subscriber")


def test_an_inactive_executor_is_reported_with_one_word(graph):
    start = Start(graph)
    assert start.node.trigger_deactivate().name == "SUCCESS"
    graph.until(lambda: "inactive" in start.logs("inactive"), "inactive in the log")
    assert not start.logs("not active")
