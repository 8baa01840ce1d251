"""Tests of two arms in one bag: one state topic, a command topic per arm."""

import re

import numpy as np
import pytest
import yaml
from foreign_recordings import (
    BAGS,
    BEGIN,
    FLOATS,
    HAND,
    LEADER,
    SECOND_NS,
    STATES,
    TOP,
    entry,
    joints,
    loaded,
    make,
    merged,
    numbers,
    pose,
    recording,
    trajectory,
    twist,
    write_bag,
)
from synthetic_episodes import SIM_ARM, tiny_contract

from sf_policy_node.contract import ContractError, parse_contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_training.data.bag_files import BagError
from sf_training.data.episode_reader import EpisodeReader, find_episodes
from sf_training.lerobot.command import main as lerobot
from sf_training.lint.measure import measure_episode
from sf_training.lint.thresholds import Thresholds
from sf_training.recording import messages
from sf_training.recording.topics import episode_topics
from sf_training.view.episode import load as view_episode

ARMS = ("left", "right")
LEFT, RIGHT = "/left/target", "/right/target"
ARM = [f"joint{number}" for number in range(1, 7)]
NAMES = [f"{arm}_{name}" for arm in ARMS for name in [*ARM, "gripper"]]
ARM_COLUMNS = {"left": slice(0, 6), "right": slice(7, 13)}
AHEAD_S = 0.04  # from a state to what commands it


def pair_contract(**bags):
    """Return a contract of two simulated arms side by side, with the cameras of one."""
    one = tiny_contract()
    data = one.model_dump(mode="json")
    body = re.search(r"<robot[^>]*>(.*)</robot>", one.urdf_xml, re.DOTALL)[1]
    parts = ['<robot name="pair"><link name="world"/>']
    arms = {}
    (arm,) = data["arms"].values()
    for name, y in zip(ARMS, (0.4, -0.4), strict=True):
        parts.append(re.sub(r'((?:name|link|joint)=")', rf"\1{name}_", body))
        parts.append(
            f'<joint name="{name}_stand" type="fixed"><parent link="world"/>'
            f'<child link="{name}_base_link"/><origin xyz="0 {y} 0"/></joint>'
        )
        arms[name] = arm | {
            "base_frame": f"{name}_base_link",
            "tool_frame": f"{name}_tool0",
            "joints": [each | {"name": f"{name}_{each['name']}"} for each in arm["joints"]],
            "gripper": arm["gripper"] | {"joint": f"{name}_gripper"},
            "command": arm["command"] | {"topic": f"{name}/commands"},
        }
    joint_names = [[f"{arm}_{name}" for name in ARM] for arm in ARMS]
    names = [*joint_names[0], "left/gripper", *joint_names[1], "right/gripper"]
    data |= {"robot": "pair", "urdf": "pair.urdf", "base_frame": "world", "arms": arms}
    data["action"] |= {"space": "joint_position", "names": names, "horizon": 4}
    data["action"]["tool_orientation"] = None
    data["bags"] = {
        "topics": BAGS["topics"] | {RIGHT: "/teleop/joint_command"},
        "commands": LEADER,
        "instruction": "fold the towel",
    } | bags
    return parse_contract(yaml.safe_dump(data), "".join([*parts, "</robot>"]), str(SIM_ARM))


ROBOT = pair_contract()


def both_at(t):
    """Return joints and grippers (14,) of both arms, all different."""
    rates = np.array([0.2, 0.1, 0, 0, -0.1, 0, -0.005, -0.15, 0.05, 0, 0.1, 0, 0.1, 0.004])
    start = np.array([0, 0.4, 1.4, 1.3, 0, 0, 0.03, 0.3, 0.5, 1.2, 1.1, 0, 0.1, 0.01])
    return start + rates * t


TWO_TOPICS = {LEFT: "/teleop/joint_command", RIGHT: "/teleop/joint_command"}
JAWS = {arm: f"/{arm}/jaw" for arm in ARMS}


def tool_contract(**bags):
    """The pair whose arms are commanded by tool poses or twists, and grippers by one number."""
    topics = BAGS["topics"] | TWO_TOPICS | dict.fromkeys(JAWS.values(), "/teleop/joint_command")
    columns = {JAWS[arm]: [f"{arm}_gripper"] for arm in ARMS}
    return pair_contract(**{"commands": None, "topics": topics, "columns": columns} | bags)


def tool_recording(left, right):
    """One second; ``left`` and ``right`` are message type and maker (stamp, time [s]) of a tool
    command.
    """
    others = [
        each for each in pair_recording(RIGHTS["numbers"]) if each.topic in (TOP, HAND, STATES)
    ]
    made = []
    for k in range(25):
        at, t = BEGIN + k * SECOND_NS // 25, k / 25
        made += [
            entry(topic, kind, t, message(at, t))
            for topic, (kind, message) in ((LEFT, left), (RIGHT, right))
        ]
        made += [
            entry(JAWS[arm], FLOATS, t, make(FLOATS, float(both_at(t + AHEAD_S)[column])))
            for arm, column in (("left", 6), ("right", 13))
        ]
    return merged(others, made)


def pose_of(arm, frame="world"):
    """Message type and maker of poses of an arm in ``frame``: the common base, or the arm's own."""
    kinematics, columns = Kinematics(ROBOT, arm), ARM_COLUMNS[arm]

    def message(at, t):
        tool = kinematics.forward(both_at(t + AHEAD_S)[columns])
        if frame != "world":
            stand = kinematics.fixed_links()[frame].inverse()
            tool = ToolPose(stand.act(tool.position), stand.rotation @ tool.rotation)
        return pose(at, tool, frame)

    return messages.POSE, message


def twist_of(arm):
    """Message type and maker of twists of an arm in its tool frame."""
    kinematics, columns = Kinematics(ROBOT, arm), ARM_COLUMNS[arm]

    def message(at, t):
        rates = (both_at(1.0) - both_at(0.0))[columns]
        speed = kinematics.jacobian(both_at(t + AHEAD_S / 2)[columns]) @ rates
        turn = kinematics.forward(both_at(t)[columns]).rotation.T
        return twist(at, turn @ speed[:3], turn @ speed[3:], f"{arm}_tool0")

    return messages.TWIST, message


def pair_recording(right):
    """Return one second of recording.

    ``right`` makes a command of the right arm from stamp and positions (7,).
    """
    cameras = [each for each in recording(1.0) if each.topic in (TOP, HAND)]
    states = [
        entry(
            *(STATES, messages.JOINT_STATE, k / 50),
            joints(BEGIN + k * SECOND_NS // 50, [*NAMES, "mast"], [*both_at(k / 50), 7.0]),
        )
        for k in range(50)
    ]
    left = [
        entry(
            *(LEADER, messages.JOINT_STATE, k / 25),
            joints(BEGIN + k * SECOND_NS // 25, NAMES[:7], both_at(k / 25 + 0.04)[:7]),
        )
        for k in range(25)
    ]
    others = [
        entry(
            *(RIGHT, right[0], k / 25),
            right[1](BEGIN + k * SECOND_NS // 25, both_at(k / 25 + 0.04)[7:]),
        )
        for k in range(25)
    ]
    return merged(cameras, states, left, others)


RIGHTS = {
    "joint states": (messages.JOINT_STATE, lambda at, q: joints(at, NAMES[7:], q)),
    "numbers": (messages.NUMBERS, lambda at, q: numbers(q)),
    "trajectories": (
        messages.JOINT_TRAJECTORY,
        lambda at, q: trajectory(at, NAMES[7:], [(0.0, q)]),
    ),
}


@pytest.mark.parametrize("kind", RIGHTS)
def test_each_arm_has_its_own_commands(tmp_path, kind):
    bag = write_bag(tmp_path / "take", pair_recording(RIGHTS[kind]))
    data = loaded([bag], ROBOT)
    assert len(data.pair_frame) == 10 and not data.notes
    step = ROBOT.action.step_s
    for row in range(4):
        times = data.stamps[data.pair_frame] - data.stamps[0] + (row + 1) * step
        # numbers have no stamp; their receipt time applies, 4 ms later
        sent = np.minimum(np.floor(times * 25 + 1e-3), 24) / 25 + 0.04
        expected = np.array([both_at(t) for t in sent])
        for column in (6, 13):
            expected[:, column] /= 0.035
        wrong = np.abs(data.pair_target[:, row] - expected)
        assert wrong[:, :7].max() < 1e-5
        assert wrong[:, 7:].max() < (1e-5 if kind != "numbers" else 7e-3)
    measure = measure_episode(bag, Thresholds(), 2, ROBOT)
    assert not measure.faults and not measure.broken
    assert len(measure.motion.opening) == 20, "both grippers"
    assert view_episode(EpisodeReader(bag, ROBOT)).commanded.positions.shape[1] == 14


TOOLS = {
    "poses in the base frame of each arm": (
        {},
        lambda: (pose_of("left", "left_base_link"), pose_of("right", "right_base_link")),
    ),
    "poses in the common frame": (
        {"arms": {LEFT: "left", RIGHT: "right"}},
        lambda: (pose_of("left"), pose_of("right")),
    ),
    "the arms say more than the names of the topics": (
        {"arms": {LEFT: "right", RIGHT: "left"}},
        lambda: (pose_of("right"), pose_of("left")),
    ),
    "twists in the tool frame and poses": (
        {},
        lambda: (pose_of("left", "left_base_link"), twist_of("right")),
    ),
}


@pytest.mark.parametrize("way", TOOLS)
def test_tools_of_several_arms_are_commanded(tmp_path, way):
    bags, kinds = TOOLS[way]
    robot = tool_contract(**bags)
    bag = write_bag(tmp_path / "take", tool_recording(*kinds()))
    data = loaded([bag], robot)
    assert len(data.pair_frame) == 10 and not data.notes
    for row in range(4):
        times = data.stamps[data.pair_frame] - data.stamps[0] + (row + 1) * robot.action.step_s
        sent = np.minimum(np.floor(times * 25 + 1e-3), 24) / 25 + AHEAD_S
        expected = np.array([both_at(t) for t in sent])
        wrong = np.abs(data.pair_target[:, row] - expected)
        # the joints of either arm move by 4 mrad or more between two commands
        assert max(wrong[:, columns].max() for columns in ARM_COLUMNS.values()) < 1.5e-3
    measure = measure_episode(bag, Thresholds(), 2, robot)
    assert not measure.faults and not measure.broken
    assert view_episode(EpisodeReader(bag, robot)).commanded.positions.shape[1] == 14


REFUSED = {
    "whose poses are these": (
        {},
        lambda: (pose_of("left"), pose_of("right")),
        (
            rf"{LEFT}: tool commands in frame 'world' can be for left or right; name the arm in the"
            rf" contract: bags.arms: {{{LEFT}: left}}"
        ),
    ),
    "the other arm's poses": (
        {"arms": {LEFT: "right", RIGHT: "left"}},
        lambda: (pose_of("left"), pose_of("right")),
        r"(out of the arm's reach|from its position)",
    ),
    "the other arm's tool frame": (
        {"arms": {LEFT: "left", RIGHT: "left"}},
        lambda: (pose_of("left"), twist_of("right")),
        r"in frame 'right_tool0', which is not fixed to 'world'",
    ),
    "two topics for one arm": (
        {"arms": {LEFT: "left", RIGHT: "left"}},
        lambda: (pose_of("left"), pose_of("left")),
        rf"joint left_joint1 is commanded on {LEFT} and on {RIGHT}; map only one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tool_commands_of_another_arm_are_refused(tmp_path, name):
    bags, kinds, sentence = REFUSED[name]
    bag = write_bag(tmp_path / "take", tool_recording(*kinds()))
    with pytest.raises(BagError, match=sentence):
        loaded([bag], tool_contract(**bags))


def test_an_arm_that_the_robot_does_not_have_is_refused():
    with pytest.raises(ContractError, match=r"bags\.arms: middle is not in this contract"):
        tool_contract(arms={LEFT: "middle"})


def test_an_arm_without_commands_is_named(tmp_path):
    entries = [each for each in pair_recording(RIGHTS["numbers"]) if each.topic != RIGHT]
    with pytest.raises(BagError, match=r"joint right_gripper, right_joint1, .* is never commanded"):
        loaded([write_bag(tmp_path / "take", entries)], ROBOT)


def test_units_of_one_arm_do_not_affect_the_other(tmp_path):
    turned = dict.fromkeys(NAMES[:6], 57.29578)
    factors = np.array([turned.get(name, 1.0) for name in NAMES])
    entries = [
        each
        if each.topic != STATES
        else entry(
            *(STATES, messages.JOINT_STATE, each.at),
            joints(BEGIN + round(each.at * SECOND_NS), NAMES, both_at(each.at) * factors),
        )
        for each in pair_recording(RIGHTS["joint states"])
    ]
    with pytest.raises(BagError, match=r"/ur/states: left_joint3 reaches 80.2.* 2.7 rad"):
        loaded([write_bag(tmp_path / "take", entries)], ROBOT)


def test_two_arms_survive_a_lerobot_round_trip(tmp_path, capsys):
    write_bag(tmp_path / "bags/take", pair_recording(RIGHTS["joint states"]))
    robot = tmp_path / "pair.yaml"
    robot.write_text(ROBOT.to_yaml())
    (tmp_path / "pair.urdf").write_text(ROBOT.urdf_xml)
    words = ["--contract", str(robot), "--out"]
    assert not lerobot(["export", str(tmp_path / "bags"), *words, str(tmp_path / "set")])
    assert not lerobot(["import", str(tmp_path / "set"), *words, str(tmp_path / "back")])
    before = loaded([tmp_path / "bags/take"], ROBOT)
    after = loaded(find_episodes(tmp_path / "back"), None)
    count = len(after.pair_frame)
    assert count >= 8
    np.testing.assert_allclose(after.pair_target[:, 0], before.pair_target[:count, 0], atol=1e-5)


def test_the_recorder_records_the_commands_of_every_arm():
    names = [topic.name for topic in episode_topics(ROBOT)]
    assert {"/left/commands", "/right/commands"} <= set(names) and len(set(names)) == len(names)
