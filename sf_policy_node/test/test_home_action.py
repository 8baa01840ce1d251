"""``~/go_home`` over DDS: the arm arrives, a client may cancel, and a stop ends the goal."""

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


class Person:
    """An action client beside an arm that follows its trajectories."""

    def __init__(self, graph, contract) -> None:
        self.executor, self.graph = Executor(graph, contract=str(contract)), graph
        self.executor.arm.joints = AWAY.copy()
        self.client = ActionClient(graph.peer, GoHome, "/chunk_executor/go_home")
        self.distances = []
        self.stop = graph.publisher(Bool, TOPICS.emergency_stop)
        self.executor.until(self.client.server_is_ready, "the action server")
        self.wait(0.4)  # the arm has been measured where it is

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
        """Be where the newest trajectory has the joints now."""
        if not self.executor.commands:
            return
        newest = self.executor.commands[-1]
        stamp = to_seconds(newest.header.stamp)
        times = [stamp + to_seconds(point.time_from_start) for point in newest.points]
        places = np.array([point.positions for point in newest.points])
        now = self.graph.now()
        self.executor.arm.joints = np.array([np.interp(now, times, each) for each in places.T])

    def send(self, *arms):
        goal = GoHome.Goal(arms=list(arms))
        heard = self.distances.append
        sent = self.client.send_goal_async(goal, lambda message: heard(message.feedback.distance))
        self.until(sent.done, "the goal")
        return sent.result()

    def result(self, handle):
        answer = handle.get_result_async()
        self.until(answer.done, "the result")
        return answer.result().result


@pytest.fixture
def person(graph, tmp_path):
    """Beside the simulated arm, whose contract names a home pose."""
    path = tmp_path / "robot.yaml"
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["budgets"]["joint_state_age_s"] = 0.6  # a busy machine is not what is tested here
    path.write_text(yaml.safe_dump({**data, "home": HOME[:6].tolist()}))
    (tmp_path / data["urdf"]).write_text(sim_arm().urdf_xml)
    return Person(graph, path)


def test_the_arm_goes_home_and_the_client_is_told(person):
    handle = person.send()
    person.until(
        lambda: person.executor.status.state == ExecutorStatus.HOMING, "that it is on its way"
    )
    assert person.executor.status.control_source == ControlSource.HOME
    result = person.result(handle)
    assert result.success and result.message == "at home" and result.duration_s > 0.3
    assert person.executor.arm.joints[:6] == pytest.approx(HOME[:6], abs=5e-3)
    assert person.distances and max(person.distances) < 0.3


@pytest.mark.parametrize("ended_by", ["client", "emergency stop"])
def test_a_client_or_a_stop_ends_it_on_the_way(person, ended_by):
    handle = person.send()
    person.until(
        lambda: abs(person.executor.arm.joints[0] - AWAY[0]) > 0.03, "that the arm has left"
    )
    if ended_by == "client":
        handle.cancel_goal_async()
    else:
        person.stop.publish(Bool(data=True))
    result = person.result(handle)
    assert not result.success
    assert ("cancelled" if ended_by == "client" else "emergency stop") in result.message
    person.wait(0.8)
    place = person.executor.arm.joints.copy()
    person.wait(0.2)
    assert (person.executor.arm.joints == place).all() and abs(place[0]) > 0.02


def test_an_arm_that_does_not_exist_and_a_second_goal_are_refused(person):
    assert "there is no left" in person.result(person.send("left")).message
    first = person.send()
    assert "already" in person.result(person.send()).message
    assert person.result(first).success
