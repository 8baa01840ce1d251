"""Tests of the goals of a gripper motion.

A real action server is tested too if control_msgs is installed.
"""

import numpy as np
import pytest
from motion_cases import HOME, sim_arm

from sf_policy_node.nodes.gripper_action import STOP, GripperGoals, served_types

GRIPPER = sim_arm().gripper
OPEN, CLOSED = GRIPPER.open, GRIPPER.closed
PERIOD = 0.01


def ramp(begin, end, speed=0.3):
    """Return positions and velocities of a move, one per period, stationary at both ends."""
    count = max(2, round(abs(end - begin) / speed / PERIOD))
    moving = np.full(count - 1, np.copysign(speed, end - begin))
    return list(zip(np.linspace(begin, end, count + 1), [0.0, *moving, 0.0], strict=True))


def goals_of(samples, gripper=GRIPPER, goals=None, start=0.0):
    goals = goals or GripperGoals(gripper)
    message = [
        goals.next(position, velocity, start + index * PERIOD)
        for index, (position, velocity) in enumerate(samples)
    ]
    return [goal for goal in message if goal is not None]


def test_a_binary_gripper_receives_one_goal_for_each_change():
    there, back = ramp(OPEN, CLOSED), ramp(CLOSED, OPEN)
    assert goals_of([(OPEN, 0.0)] * 20 + there + [(CLOSED, 0.0)] * 20 + back) == [CLOSED, OPEN]


def test_the_goal_is_sent_at_the_beginning_of_the_move():
    goals = GripperGoals(GRIPPER)
    assert goals.next(OPEN, 0.0, 0.0) is None
    assert goals.next(OPEN - 0.001, -0.1, 0.01) == CLOSED


@pytest.mark.parametrize("point", [OPEN, CLOSED, 0.012])
def test_a_gripper_at_its_target_receives_no_goal(point):
    assert goals_of([(point, 0.0)] * 50) == []


def test_a_gripper_with_an_object_receives_the_closing_goal_again():
    assert goals_of(ramp(0.012, CLOSED)) == [CLOSED]


def test_a_stop_during_the_move_stops_the_gripper_and_it_can_continue():
    goals = GripperGoals(GRIPPER)
    halt = 0.02
    assert goals_of(ramp(OPEN, halt), goals=goals) == [CLOSED, STOP]
    assert goals_of([(halt, 0.0)] * 10, goals=goals) == []
    assert goals_of(ramp(halt, CLOSED), goals=goals) == [CLOSED]


def test_open_may_be_the_smaller_position():
    gripper = GRIPPER.model_copy(update={"open": 0.0, "closed": 0.8})
    assert goals_of(ramp(0.0, 0.8), gripper) == [0.8]


def test_a_continuous_gripper_receives_few_goals_and_reaches_the_last():
    gripper = GRIPPER.model_copy(update={"binary": False})
    slow = ramp(OPEN, 0.01, speed=0.025)  # s
    goals = goals_of(slow + [(0.01, 0.0)] * 5, gripper)
    assert 5 <= len(goals) <= 12 and goals == sorted(goals, reverse=True)
    assert goals[-1] == pytest.approx(0.01, abs=0.02 * OPEN)


def test_a_cleared_goal_is_sent_again():
    goals = GripperGoals(GRIPPER)
    assert goals_of(ramp(OPEN, CLOSED), goals=goals) == [CLOSED]
    goals.forget()
    assert goals_of(ramp(OPEN, CLOSED), goals=goals) == [CLOSED]


# ---- against an action server ----


class Server:
    """A server like parallel_gripper_action_controller and gripper_controllers.

    The newest goal replaces others, and a cancelled one ends at the current position.
    """

    def __init__(self, node, action, kind):
        from rclpy.action import ActionServer, CancelResponse, GoalResponse
        from rclpy.task import Future

        self.goals, self.cancelled, self.accepts = [], [], True
        self._future, self._accept, self._reject = Future, GoalResponse.ACCEPT, GoalResponse.REJECT
        self._kind, self._running = kind, None
        self.server = ActionServer(
            node,
            kind,
            action,
            self._follow,
            goal_callback=self._on_goal,
            cancel_callback=lambda handle: self._on_cancel(handle, CancelResponse),
        )

    def _on_goal(self, request):
        self.goals.append(request.command)
        return self._accept if self.accepts else self._reject

    def _on_cancel(self, handle, answers):
        self.cancelled.append(handle.request.command)
        self._running.set_result("cancelled")
        return answers.ACCEPT

    async def _follow(self, handle):
        if self._running is not None and not self._running.done():
            self._running.set_result("replaced")
        self._running = running = self._future()
        how = await running
        (handle.canceled if how == "cancelled" else handle.abort)()
        return self._kind.Result()


@pytest.fixture(params=["parallel_gripper", "gripper_command"])
def rig(graph, request):
    action = pytest.importorskip(
        "control_msgs.action", reason="control_msgs is not on PyPI; it comes with ROS 2"
    )
    from std_msgs.msg import Float64MultiArray
    from test_outputs import Rig, variant

    from sf_policy_node.nodes.gripper_action import GripperActionOutput

    gripper = {"output": request.param, "topic": "/gripper/gripper_cmd", "max_effort": 15.0}
    rig = Rig(graph, variant("forward_command", gripper), arm=Float64MultiArray)
    (rig.gripper,) = (
        output for output, _ in rig.output._parts if isinstance(output, GripperActionOutput)
    )
    kinds = [action.ParallelGripperCommand, action.GripperCommand]
    own, other = kinds if request.param == "parallel_gripper" else kinds[::-1]
    rig.serve = lambda kind=own: Server(graph.peer, "/gripper/gripper_cmd", kind)
    rig.other = other
    rig.clock = 0.0

    def play(samples):
        from test_outputs import setpoint

        for position, velocity in samples:
            rig.clock += PERIOD
            rig.output.stream(setpoint(rig.clock, [*HOME[:6], position], [0.0] * 6 + [velocity]))

    rig.play = play
    return rig


def position_of(goal):
    """Return the position of a goal of either action."""
    return goal.position if isinstance(goal.position, float) else goal.position[0]


@pytest.mark.ros
def test_goals_arrive_with_joint_position_and_effort(graph, rig):
    server = rig.serve()
    graph.until(lambda: rig.gripper._client.server_is_ready(), "the action server")
    rig.play(ramp(OPEN, CLOSED))
    graph.until(lambda: len(server.goals) == 1, "the goal to close")
    rig.play([(CLOSED, 0.0)] * 20 + ramp(CLOSED, OPEN))
    graph.until(lambda: len(server.goals) == 2, "the goal to open")
    assert [position_of(goal) for goal in server.goals] == [CLOSED, OPEN]
    if hasattr(server.goals[0], "name"):
        assert {tuple(goal.name) for goal in server.goals} == {("gripper",)}
        assert list(server.goals[0].effort) == [15.0]
    else:
        assert server.goals[0].max_effort == 15.0
    assert not server.cancelled


@pytest.mark.ros
@pytest.mark.parametrize("answered", [True, False], ids=["after the answer", "before the answer"])
def test_a_stop_cancels_the_goal(graph, rig, answered):
    server = rig.serve()
    graph.until(lambda: rig.gripper._client.server_is_ready(), "the action server")
    way = ramp(OPEN, 0.02)
    rig.play(way[:-1])
    if answered:
        graph.until(lambda: rig.gripper._answer.done(), "the answer")
    rig.play(way[-1:])
    graph.until(lambda: server.cancelled, "the cancel")
    assert [position_of(goal) for goal in server.cancelled] == [CLOSED]


@pytest.mark.ros
def test_a_refused_goal_is_sent_again_with_the_next_motion(graph, rig):
    server = rig.serve()
    server.accepts = False
    graph.until(lambda: rig.gripper._client.server_is_ready(), "the action server")
    rig.play(ramp(OPEN, CLOSED)[:-1])
    graph.until(lambda: rig.gripper._goals._goal is None, "the refusal")
    server.accepts = True
    rig.play(ramp(OPEN, CLOSED)[1:-1])
    graph.until(lambda: len(server.goals) == 2, "the goal again")


@pytest.mark.ros
def test_a_gripper_server_that_starts_after_the_motion_does_not_move(graph, rig):
    rig.play(ramp(OPEN, CLOSED))  # no server
    rig.output.stream(None)
    server = rig.serve()
    graph.until(lambda: rig.gripper._client.server_is_ready(), "the action server")
    rig.output.stream(None)
    rig.play(ramp(CLOSED, OPEN))
    graph.until(lambda: server.goals, "a goal")
    assert [position_of(goal) for goal in server.goals] == [OPEN]


@pytest.mark.ros
def test_a_server_of_the_other_type_receives_nothing_and_is_found(graph, rig):
    import rclpy

    # In a participant of its own: within one, a topic has one type.
    context = rclpy.Context()
    rclpy.init(context=context)
    driver, node = rclpy.create_node("driver", context=context), rig.node
    server = Server(driver, "/gripper/gripper_cmd", rig.other)
    graph.until(lambda: served_types(node, "/gripper/gripper_cmd"), "the action server")
    assert served_types(node, "/gripper/gripper_cmd") == {
        f"control_msgs/action/{rig.other.__name__}"
    }
    rig.play(ramp(OPEN, CLOSED))
    assert not rig.gripper._client.server_is_ready() and not server.goals
    server.server.destroy()
    driver.destroy_node()
    rclpy.shutdown(context=context)
