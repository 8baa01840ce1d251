"""Tests of ``python3 -m sf_bringup.home``: one sentence for each end of the motion."""

import sys
import threading
import time

import pytest
import rclpy
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.executors import MultiThreadedExecutor
from rich.console import Console

from sf_bringup import arm_client, home
from sf_bringup.graph import find_robot
from sf_msgs.action import GoHome
from sf_msgs.msg import ExecutorStatus
from sf_policy_node.contract import load_contract

pytestmark = pytest.mark.ros


class Executor:
    """Mock of the chunk executor: reports its state while ``is_alive``, and answers goals.

    Attributes:
        accepts: whether goals are accepted.
        message: of the result of a goal that fails; empty: the arm arrives.
        moves: the motion only ends when it is cancelled.
    """

    def __init__(self, context):
        self.is_alive, self.accepts, self.message, self.moves = True, True, "", False
        self.node = rclpy.create_node("chunk_executor", namespace="left", context=context)
        topic = load_contract(find_robot("so101")).topics.executor_status
        self.status = self.node.create_publisher(ExecutorStatus, topic, 10)
        self.node.create_timer(0.05, self.report)
        self.arms = []
        self.server = ActionServer(
            self.node,
            GoHome,
            "~/go_home",
            self.execute,
            goal_callback=lambda _: GoalResponse.ACCEPT if self.accepts else GoalResponse.REJECT,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def report(self):
        if self.is_alive:
            self.status.publish(ExecutorStatus(state=ExecutorStatus.HOLDING))

    def execute(self, goal):
        self.arms.append(list(goal.request.arms))
        while self.moves and not goal.is_cancel_requested and self.node.context.ok():
            goal.publish_feedback(GoHome.Feedback(distance=0.5))
            time.sleep(0.02)
        if goal.is_cancel_requested:
            goal.canceled()
            return GoHome.Result(message="cancelled")
        (goal.abort if self.message else goal.succeed)()
        return GoHome.Result(
            success=not self.message, message=self.message or "at home", duration_s=1.5
        )


@pytest.fixture
def executor(ros_domain):
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = Executor(context)
    spinner = MultiThreadedExecutor(2, context=context)
    spinner.add_node(executor.node)
    thread = threading.Thread(target=spinner.spin, daemon=True)
    thread.start()
    yield executor
    executor.moves = False
    spinner.shutdown()  # waits for the running goal
    rclpy.shutdown(context=context)
    thread.join()
    executor.server.destroy()
    executor.node.destroy_node()


def run(capfd, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["home", "robot:=so101", "namespace:=left", *words])
    code = home.main()
    output = capfd.readouterr()
    return code, (output.out + output.err).strip()


def test_every_end_gives_one_sentence(executor, capfd, monkeypatch):
    assert run(capfd, monkeypatch) == (0, "at home (1.5 s)")
    executor.message = "arms: there is no right; name one of arm"
    assert run(capfd, monkeypatch, "right") == (1, f"home: {executor.message}")
    assert executor.arms == [[], ["right"]]
    executor.accepts = False
    assert run(capfd, monkeypatch) == (
        1,
        "home: chunk_executor refused to move: it is not active; read the output of the graph",
    )


def test_ctrl_c_cancels_the_motion(executor, capfd, monkeypatch):
    executor.moves = True
    monkeypatch.setattr(Console, "status", InterruptedStatus)
    assert run(capfd, monkeypatch) == (1, "home: cancelled")


class InterruptedStatus:
    """Stands for an operator who presses Ctrl-C at the first reported distance."""

    def __init__(self, *_):
        self.is_pressed = False

    def update(self, text):
        assert text == "0.50 rad or m from home"
        if not self.is_pressed:
            self.is_pressed = True
            raise KeyboardInterrupt

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_an_executor_that_falls_silent_is_named(executor, capfd, monkeypatch):
    executor.moves = True
    monkeypatch.setattr(arm_client, "ANSWER_S", 0.5)
    execute = executor.execute

    def execute_silently(goal):
        executor.is_alive = False
        return execute(goal)

    executor.server.register_execute_callback(execute_silently)
    code, text = run(capfd, monkeypatch)
    assert code == 1
    assert text == (
        "home: chunk_executor did not report its state within 0.5 s; read the output of the graph"
    )
