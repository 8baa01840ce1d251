"""Tests of ``~/go_home`` over DDS: arrival, cancelling, stops."""

import numpy as np
import pytest
import yaml
from executor_cases import TOPICS, Executor
from motion_cases import CONTRACT_PATH, HOME, sim_arm
from rclpy.action import ActionClient
from std_msgs.msg import Bool

from sf_msgs.action import GoHome
from sf_msgs.msg import ControlSource, ExecutorStatus
from sf_policy_node.nodes.conversions import to_seconds

pytestmark = pytest.mark.ros
AWAY = np.array([0.2, 0.5, 1.5, 1.2, 0.0, 0.1, 0.035])


class HomeClient:
    """An action client beside an arm that follows its trajectories."""

    def __init__(self, graph, contract) -> None:
        self.executor, self.graph = Executor(graph, contract=str(contract)), graph
        self.executor.arm.joints = AWAY.copy()
        self.client = ActionClient(graph.peer, GoHome, "/chunk_executor/go_home")
        self.distances = []
        self.stop = graph.publisher(Bool, TOPICS.emergency_stop)
        self.executor.until(self.client.server_is_ready, "the action server")
        self.wait(1.2)  # the arm was moved from HOME, and has been stationary since

    def wait(self, seconds):
        end = self.graph.now() + seconds
        self.until(lambda: self.graph.now() > end, "time")

    def until(self, condition, what):
        self.follow()

        def both():
            self.follow()
            return condition()

        return self.executor.until(both, what)

    def follow(self):
        """Move the joints to the current point of the newest trajectory."""
        if not self.executor.commands:
            return
        newest = self.executor.commands[-1]
        stamp = to_seconds(newest.header.stamp)
        times = [stamp + to_seconds(point.time_from_start) for point in newest.points]
        positions = np.array([point.positions for point in newest.points])
        now = self.graph.now()
        self.executor.arm.joints = np.array([np.interp(now, times, each) for each in positions.T])

    def send(self, *arms):
        goal = GoHome.Goal(arms=list(arms))
        received = self.distances.append
        sent = self.client.send_goal_async(
            goal, lambda message: received(message.feedback.distance)
        )
        self.until(sent.done, "the goal")
        return sent.result()

    def result(self, handle):
        response = handle.get_result_async()
        self.until(response.done, "the result")
        return response.result().result


@pytest.fixture
def home_client(graph, tmp_path):
    """Return a client of the simulated arm, whose contract has a home pose."""
    path = tmp_path / "robot.yaml"
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["budgets"]["joint_state_age_s"] = 0.6  # timing on a busy machine is not tested here
    path.write_text(yaml.safe_dump({**data, "home": HOME[:6].tolist()}))
    (tmp_path / data["urdf"]).write_text(sim_arm().urdf_xml)
    return HomeClient(graph, path)


def test_the_arm_moves_home_and_the_client_receives_the_result(home_client):
    handle = home_client.send()
    home_client.until(
        lambda: home_client.executor.status.state == ExecutorStatus.HOMING, "that it is on its way"
    )
    assert home_client.executor.status.control_source == ControlSource.HOME
    result = home_client.result(handle)
    assert result.success and result.message == "at home" and result.duration_s > 0.3
    assert home_client.executor.arm.joints[:6] == pytest.approx(HOME[:6], abs=5e-3)
    assert home_client.distances and max(home_client.distances) < 0.3


@pytest.mark.parametrize("ended_by", ["client", "emergency stop"])
def test_a_client_or_a_stop_ends_the_motion(home_client, ended_by):
    handle = home_client.send()
    home_client.until(
        lambda: abs(home_client.executor.arm.joints[0] - AWAY[0]) > 0.03, "that the arm has left"
    )
    if ended_by == "client":
        handle.cancel_goal_async()
    else:
        home_client.stop.publish(Bool(data=True))
    result = home_client.result(handle)
    assert not result.success
    assert ("cancelled" if ended_by == "client" else "emergency stop") in result.message
    home_client.wait(0.8)
    position = home_client.executor.arm.joints.copy()
    home_client.wait(0.2)
    assert (home_client.executor.arm.joints == position).all() and abs(position[0]) > 0.02


@pytest.mark.parametrize("others", [0, 1], ids=["no other client", "another client"])
def test_the_arm_stops_when_no_client_of_the_goal_is_left(home_client, others):
    feedback = "/chunk_executor/go_home/_action/feedback"
    kept = [
        ActionClient(home_client.graph.peer, GoHome, "/chunk_executor/go_home")
        for _ in range(others)
    ]
    home_client.send()
    home_client.until(
        lambda: home_client.executor.node.count_subscribers(feedback) == 1 + others, "the clients"
    )
    home_client.until(lambda: home_client.distances, "a first report of the distance")
    home_client.client.destroy()
    if others:
        home_client.until(
            lambda: home_client.executor.status.state == ExecutorStatus.HOMING, "the way home"
        )
        home_client.until(
            lambda: home_client.executor.status.state != ExecutorStatus.HOMING, "the end"
        )
        assert home_client.executor.arm.joints[:6] == pytest.approx(HOME[:6], abs=5e-3)
    else:
        home_client.until(
            lambda: "the client of the action is gone" in home_client.executor.status.reason,
            "that it stops",
        )
        home_client.wait(0.8)
        position = home_client.executor.arm.joints.copy()
        home_client.wait(0.2)
        assert (home_client.executor.arm.joints == position).all() and abs(position[0]) > 0.02
    for each in kept:
        each.destroy()


def test_an_unknown_arm_and_a_second_goal_are_refused(home_client):
    assert "there is no left" in home_client.result(home_client.send("left")).message
    first = home_client.send()
    assert "already" in home_client.result(home_client.send()).message
    assert home_client.result(first).success
