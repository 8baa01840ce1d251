"""Tests of which goals a gripper's action receives, and when, with a stand-in for control_msgs and
its server: the package is not on PyPI.
"""

import sys
from contextlib import ExitStack
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import yaml
from motion_cases import CONTRACT_PATH, sim_arm
from rclpy.task import Future

from sf_policy_node.contract import ContractError, parse_contract
from sf_policy_node.motion.types import Setpoint
from sf_policy_node.nodes import gripper_action
from sf_policy_node.nodes.gripper_action import GripperActionOutput, action_type, type_fault

OPEN, CLOSED = sim_arm().gripper.open, sim_arm().gripper.closed
PARALLEL = "control_msgs/action/ParallelGripperCommand"
COMMAND = "control_msgs/action/GripperCommand"


class GripperCommand:
    class Goal:
        def __init__(self):
            self.command = SimpleNamespace(position=0.0, max_effort=0.0)


class ParallelGripperCommand:
    class Goal:
        def __init__(self, command):
            self.command = command


@pytest.fixture
def control_msgs(monkeypatch):
    module = ModuleType("control_msgs.action")
    module.GripperCommand, module.ParallelGripperCommand = GripperCommand, ParallelGripperCommand
    monkeypatch.setitem(sys.modules, "control_msgs", ModuleType("control_msgs"))
    monkeypatch.setitem(sys.modules, "control_msgs.action", module)


class Handle:
    """A goal of the server: accepted at once, and ended by the test."""

    def __init__(self, accepted):
        self.accepted, self.result, self.is_cancelled = accepted, Future(), False

    def get_result_async(self):
        return self.result

    def cancel_goal_async(self):
        self.is_cancelled = True

    def end(self):
        self.result.set_result(None)


class Client:
    """Stands for an action client with its server."""

    def __init__(self, node, kind, action):
        self.kind, self.is_ready, self.accepts = kind, True, True
        self.goals, self.handles = [], []
        node.client = self

    def server_is_ready(self):
        return self.is_ready

    def send_goal_async(self, goal):
        self.goals.append(goal.command)
        self.handles.append(Handle(self.accepts))
        answer = Future()
        answer.set_result(self.handles[-1])
        return answer

    def destroy(self):
        pass


class Rig:
    """An output with a stand-in server, and a clock of its own."""

    def __init__(self, monkeypatch, *, binary=True, **command):
        data = yaml.safe_load(CONTRACT_PATH.read_text())
        data["gripper"]["binary"] = binary
        data["command"]["gripper"] = {"topic": "jaw/cmd", **command}
        (arm,) = parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml).arms.values()
        self.warnings, self.clock, self.stamp = [], 0.0, 0.0
        node = SimpleNamespace(
            resources=ExitStack(),
            resolve_service_name=lambda name: f"/{name}",
            get_logger=lambda: SimpleNamespace(
                warning=lambda text, **_: self.warnings.append(text)
            ),
        )
        monkeypatch.setattr(gripper_action, "ActionClient", Client)
        monkeypatch.setattr(gripper_action, "time", SimpleNamespace(monotonic=lambda: self.clock))
        self.output, self.client = GripperActionOutput(node, arm), node.client

    def move(self, begin, end, steps=20):
        """Stream a move; stationary at both ends."""
        positions = np.linspace(begin, end, steps + 1)
        speed = np.sign(end - begin) * 0.3
        for position, velocity in zip(positions, [0.0, *[speed] * (steps - 1), 0.0], strict=True):
            self.at(position, velocity)

    def at(self, position, velocity):
        """Stream one command."""
        self.stamp += 0.1
        self.output.stream(
            Setpoint(self.stamp, ("gripper",), np.array([position]), np.array([velocity]))
        )

    @property
    def positions(self):
        return [goal.position for goal in self.client.goals]


def test_each_output_sends_the_goal_of_its_action(monkeypatch, control_msgs):
    rig = Rig(monkeypatch, output="parallel_gripper", max_effort=15.0)
    rig.move(OPEN, CLOSED)
    (goal,) = rig.client.goals
    assert rig.client.kind is ParallelGripperCommand
    assert (list(goal.name), list(goal.position), list(goal.effort)) == (
        ["gripper"],
        [CLOSED],
        [15.0],
    )
    rig = Rig(monkeypatch, output="gripper_command", max_effort=15.0)
    rig.move(CLOSED, OPEN)
    (goal,) = rig.client.goals
    assert rig.client.kind is GripperCommand
    assert (goal.position, goal.max_effort) == (OPEN, 15.0)


def test_a_goal_has_no_effort_where_the_contract_has_none(monkeypatch, control_msgs):
    for output, effort in (("parallel_gripper", "effort"), ("gripper_command", "max_effort")):
        rig = Rig(monkeypatch, output=output)
        rig.move(OPEN, CLOSED)
        assert not getattr(rig.client.goals[0], effort)


def test_the_ends_of_the_goals_replace_those_of_the_joint(monkeypatch, control_msgs):
    # The whole gap in place of the position of one finger, and a gripper that closes upwards.
    for ends in ({"open": 0.085, "closed": 0.0}, {"open": 0.0, "closed": 1.0}):
        rig = Rig(monkeypatch, output="gripper_command", binary=False, **ends)
        middle = 0.5 * (OPEN + CLOSED)
        rig.move(OPEN, middle)
        assert rig.positions[-1] == pytest.approx(0.5 * (ends["open"] + ends["closed"]))
        rig.move(middle, CLOSED)
        assert rig.positions[-1] == pytest.approx(ends["closed"])
    only_open = Rig(monkeypatch, output="gripper_command", open=0.03)
    only_open.move(CLOSED, OPEN)
    only_open.move(OPEN, CLOSED)
    assert only_open.positions == pytest.approx([0.03, CLOSED])


@pytest.mark.parametrize("ends", [{}, {"open": 0.085}, {"open": 0.0, "closed": 850.0}])
def test_a_goal_gives_the_joint_position_again(ends):
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["command"]["gripper"] = {"output": "gripper_command", "topic": "jaw/cmd", **ends}
    (arm,) = parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml).arms.values()
    command, gripper = arm.command.gripper, arm.gripper
    assert command.to_goal(gripper, OPEN) == pytest.approx(ends.get("open", OPEN))
    for position in np.linspace(CLOSED, OPEN, 5):
        goal = command.to_goal(gripper, position)
        assert command.from_goal(gripper, goal) == pytest.approx(position)


# ---- a server whose new goal does not end the active one ----


def test_a_new_goal_replaces_the_active_one_unless_the_contract_says_otherwise(
    monkeypatch, control_msgs
):
    rig = Rig(monkeypatch, output="gripper_command")
    rig.move(OPEN, CLOSED)
    rig.move(CLOSED, OPEN)
    assert rig.positions == [CLOSED, OPEN]
    assert not any(handle.is_cancelled for handle in rig.client.handles)


def test_a_gripper_that_turns_round_cancels_and_waits_for_the_end(monkeypatch, control_msgs):
    rig = Rig(monkeypatch, output="gripper_command", replaces_goals=False)
    rig.move(OPEN, CLOSED)
    rig.move(CLOSED, OPEN, steps=3)
    rig.output.stream(None)
    assert rig.positions == [CLOSED], "the first goal has not ended"
    rig.client.handles[0].end()
    assert rig.positions == [CLOSED, OPEN]
    rig.client.handles[1].end()
    rig.at(OPEN, 0.0)
    rig.at(0.6 * OPEN, -0.3)
    assert len(rig.client.goals) == 3 and not rig.client.handles[2].is_cancelled
    rig.at(0.7 * OPEN, 0.3)
    assert rig.client.handles[2].is_cancelled and len(rig.client.goals) == 3
    rig.client.handles[2].end()
    assert rig.positions == [CLOSED, OPEN, CLOSED, OPEN]


def test_a_continuous_gripper_sends_the_newest_goal_when_the_last_one_ends(
    monkeypatch, control_msgs
):
    rig = Rig(monkeypatch, output="gripper_command", binary=False, replaces_goals=False)
    rig.move(OPEN, CLOSED)
    assert len(rig.client.goals) == 1 and not rig.client.handles[0].is_cancelled
    rig.output.stream(None)
    rig.client.handles[0].end()
    assert len(rig.client.goals) == 2 and rig.positions[-1] == pytest.approx(CLOSED)
    rig.client.handles[1].end()
    assert len(rig.client.goals) == 2


def test_a_refused_goal_does_not_block_the_next(monkeypatch, control_msgs):
    rig = Rig(monkeypatch, output="gripper_command", replaces_goals=False)
    rig.client.accepts = False
    rig.move(OPEN, CLOSED, steps=2)
    rig.client.accepts = True
    rig.move(OPEN, CLOSED, steps=2)
    assert rig.positions[-2:] == [CLOSED, CLOSED]
    assert any("refused a goal" in text for text in rig.warnings)


def test_a_stop_discards_the_waiting_goal(monkeypatch, control_msgs):
    rig = Rig(monkeypatch, output="gripper_command", replaces_goals=False)
    rig.move(OPEN, CLOSED)
    rig.move(CLOSED, 0.5 * OPEN)  # stopped half way
    assert rig.client.handles[0].is_cancelled
    rig.client.handles[0].end()
    assert rig.positions == [CLOSED]


@pytest.mark.parametrize("ended_first", [True, False])
def test_a_goal_does_not_wait_for_ever(monkeypatch, control_msgs, ended_first):
    rig = Rig(monkeypatch, output="gripper_command", replaces_goals=False)
    rig.move(OPEN, CLOSED)
    rig.move(CLOSED, OPEN)
    rig.clock += 3.1
    if ended_first:
        rig.client.handles[0].end()
    rig.output.stream(None)
    if not ended_first:
        rig.client.handles[0].end()
    assert rig.positions == [CLOSED], "the gripper would move long after its motion"
    rig.move(OPEN, CLOSED)
    assert rig.positions == [CLOSED, CLOSED]


def test_a_server_that_never_ends_a_goal_does_not_block_the_gripper(monkeypatch, control_msgs):
    rig = Rig(monkeypatch, output="gripper_command", replaces_goals=False)
    rig.move(OPEN, CLOSED)
    rig.move(CLOSED, OPEN)
    rig.clock += 3.1
    rig.at(OPEN, 0.0)
    assert rig.positions == [CLOSED, OPEN]
    assert any("has not ended its last goal for 3 s" in text for text in rig.warnings)


# ---- a server that is absent, or of the other type ----


def test_a_server_of_the_other_type_is_named_with_the_cure(monkeypatch, control_msgs):
    rig = Rig(monkeypatch, output="parallel_gripper")
    monkeypatch.setattr(gripper_action, "served_types", lambda node, name: {COMMAND})
    rig.client.is_ready = False
    rig.move(OPEN, CLOSED)
    (text,) = rig.warnings
    assert text == (
        f"action jaw/cmd is served as {COMMAND}, and parallel_gripper sends {PARALLEL}, so the"
        " gripper does not move; set command.gripper.output: gripper_command"
    )


def test_an_absent_server_is_reported_once_in_five_seconds(monkeypatch, control_msgs):
    rig = Rig(monkeypatch, output="gripper_command")
    asked = []
    monkeypatch.setattr(gripper_action, "served_types", lambda node, name: asked.append(name) or ())
    rig.client.is_ready = False
    rig.move(OPEN, CLOSED)
    assert asked == ["/jaw/cmd"] and len(rig.warnings) == 1
    assert "is not available, so the gripper does not move" in rig.warnings[0]
    rig.clock += 5.1
    rig.move(CLOSED, OPEN)
    assert len(asked) == 2


def test_only_a_wrong_type_is_a_fault():
    rig = {}
    for output in ("parallel_gripper", "gripper_command"):
        data = yaml.safe_load(CONTRACT_PATH.read_text())
        data["command"]["gripper"] = {"output": output, "topic": "jaw/cmd"}
        contract = parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml)
        rig[output] = contract.command.gripper
    assert type_fault(rig["parallel_gripper"], {PARALLEL}, "k") is None
    assert type_fault(rig["gripper_command"], {COMMAND, PARALLEL}, "k") is None
    assert type_fault(rig["gripper_command"], set(), "k") is None
    problem, cure = type_fault(rig["gripper_command"], {PARALLEL}, "k")
    assert PARALLEL in problem and COMMAND in problem and cure == "set k.output: parallel_gripper"
    problem, cure = type_fault(rig["gripper_command"], {"franka_msgs/action/Grasp"}, "k")
    assert "franka_msgs/action/Grasp" in problem and cure.startswith("set k.topic to the action")


@pytest.mark.parametrize("output", ["parallel_gripper", "gripper_command"])
def test_a_missing_package_is_refused_with_the_cure(monkeypatch, output):
    monkeypatch.setitem(sys.modules, "control_msgs.action", None)
    command = SimpleNamespace(
        output=output, action={"gripper_command": COMMAND}.get(output, PARALLEL)
    )
    with pytest.raises(
        ContractError,
        match=rf"command\.gripper\.output: {output} needs the ROS package control_msgs.*"
        "ros-.ROS_DISTRO-control-msgs",
    ):
        action_type(command)
