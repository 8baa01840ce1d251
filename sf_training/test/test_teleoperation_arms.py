"""Teleoperation and replay of two arms: a stick moves one of them, leaders move both, and a replay
keeps the limits of both.
"""

import numpy as np
import pytest
from synthetic_episodes import START, STEP, open_writer, write_cameras, write_joints
from teleoperation_cases import Hand, Pad, robot, shipped
from test_teleoperation_replay import write_trajectory

from sf_policy_node.contract import ColumnKind
from sf_policy_node.contract.sections import Finger
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.types import Trajectory
from sf_training.data.episode_reader import EpisodeReader
from sf_training.teleoperation.device import DeviceError
from sf_training.teleoperation.recorded_motion import (
    SAMPLE_S,
    RecordedMotion,
    ReplayError,
    recorded_motion,
)
from sf_training.teleoperation.replay import Following, approach, at_speed
from sf_training.teleoperation.session import TeleoperationSession

PAIR = robot("vx300s_pair")  # names such as left/waist, and arms that face each other
LEFT, RIGHT = (PAIR.columns.commands.indices(arm=arm) for arm in ("left", "right"))
HOME = np.concatenate([[*arm.home, arm.gripper.open] for arm in PAIR.arms.values()])
DOWN = np.tile([0.0, 0.0, 0.26, 0.0, 1.31, 1.57, 0.057], 2)  # tools point down, far from singular
SWING = np.tile([0.25, 0.1, 0.1, 0.1, 0.0, 0.2, 0.0], 2)


def tools(joints):
    """Return the tool positions of both arms in the common base frame."""
    found = kinematics_of(PAIR)
    return [
        found[arm]
        .forward(joints[PAIR.columns.commands.indices(ColumnKind.JOINT, arm=arm)])
        .position
        for arm in ("left", "right")
    ]


# ---- a stick ------------------------------------------------------------------------------------


def pad(**changes):
    return Pad(arms=PAIR, measured=DOWN, **changes)


def test_a_stick_moves_the_tool_of_its_arm_and_the_other_arm_holds_position():
    hand = pad(arm="right")
    (left, right), before = tools(hand.measured), hand.measured.copy()
    hand.press(0.5, axes={0: 1.0})
    assert tools(hand.measured)[1] - right == pytest.approx([0.0, 0.075, 0.0], abs=0.004)
    assert (hand.measured[LEFT] == before[LEFT]).all()
    assert tools(hand.measured)[0] == pytest.approx(left)
    velocities = np.array([command.velocities for command in hand.commands])
    assert (velocities[:, LEFT] == 0.0).all() and np.abs(velocities[:, RIGHT]).max() > 0.05


def test_the_tool_stops_at_the_wall_of_its_own_arms_box():
    hand = pad(arm="right", speed=0.4)
    hand.press(2.0, axes={3: -1.0})
    arm = PAIR.arms["right"]  # its box begins 1 cm below its base, which is 2 cm above the table
    assert tools(hand.measured)[1][2] == pytest.approx(
        0.02 + arm.workspace.lower[2] + 0.002, abs=1e-4
    )
    assert "wall" in hand.session.state
    assert Workspace(PAIR, kinematics_of(PAIR)).outside(hand.measured) == 0.0


def test_gripper_buttons_move_the_gripper_of_that_arm_and_the_other_keeps_its_grip():
    hand = pad(arm="left")
    hand.session.on_gripper_sent(0.03, "right")  # it holds something 40 mm wide
    hand.measured[RIGHT[-1]] = 0.04
    hand.press(0.8, buttons=(0,))  # closes
    assert hand.commands[-1].positions[LEFT[-1]] < 0.03
    assert hand.commands[-1].positions[RIGHT[-1]] == 0.03


def test_a_finger_with_a_command_of_its_own_opens_and_closes_with_the_first_one():
    one = robot("piper")
    arm = one.arms["arm"]
    finger = Finger(joint="joint8", open=-0.035, closed=0.0)
    gripper = arm.gripper.model_copy(update={"fingers": [finger]})
    contract = one.model_copy(update={"gripper": gripper})
    hand = Pad(arms=contract, measured=[*arm.home, 0.035, -0.035])
    hand.press(0.5, buttons=(0,))
    first, second = hand.commands[-1].positions[-2:]
    assert 0.0 <= first < 0.034 and second == pytest.approx(-first)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "arm: is missing, and vx300s_pair has left, right; name"),
        ({"arm": "middle"}, "arm: vx300s_pair has no middle; name one of left, right"),
    ],
)
def test_a_stick_without_an_arm_of_the_robot_gives_one_sentence(changes, says):
    with pytest.raises(DeviceError, match=says):
        TeleoperationSession(PAIR, shipped("gamepad", **changes))


# ---- leaders ------------------------------------------------------------------------------------

PIPERS = robot("piper_pair")
STANDING = np.concatenate([[*arm.home, arm.gripper.open] for arm in PIPERS.arms.values()])
LEADER = [*(f"joint{number}" for number in range(1, 7)), "gripper"]


class Leaders(Hand):
    """Two leaders and a pedal; ``offsets`` of their joints from the arms' home poses."""

    def __init__(self, **changes):
        super().__init__(shipped("leader_arms", **changes), PIPERS, STANDING)
        self.pedal, self.silent = False, ""
        self.offsets = {"left": np.zeros(7), "right": np.zeros(7)}
        self.run(0.1)
        self.pedal = True

    def run(self, seconds, each=None):
        return super().run(seconds, self.say)

    def say(self):
        self.session.on_switch(self.pedal, self.now)
        for arm, home in zip(("left", "right"), np.split(STANDING, 2), strict=True):
            if arm != self.silent:
                self.session.on_leader(LEADER, home + self.offsets[arm], [], self.now, arm)


def test_both_arms_follow_their_leaders():
    hand = Leaders()
    hand.offsets = {"left": np.full(7, 0.05), "right": np.full(7, -0.05)}
    hand.offsets["left"][6], hand.offsets["right"][6] = -0.01, -0.02
    hand.run(0.2)
    found = hand.commands[-1].positions - STANDING
    assert found == pytest.approx([*[0.05] * 6, -0.01, *[-0.05] * 6, -0.02])


def test_one_silent_leader_stops_both_arms_and_is_named():
    hand = Leaders()
    hand.run(0.2)
    hand.silent, before = "right", len(hand.commands)
    hand.run(0.6)
    assert len(hand.commands) - before < 15
    assert "silent on /leader_right/joint_states" in hand.session.state


def test_neither_arm_moves_while_one_is_far_from_its_leader():
    hand = Leaders()
    hand.offsets["right"][0] = 1.0
    hand.run(0.3)
    assert not hand.commands and "right_joint1 is at" in hand.session.state


def test_leaders_of_other_arms_give_one_sentence():
    with pytest.raises(DeviceError, match=r"leads one arm, and piper_pair has left, right; use"):
        TeleoperationSession(PIPERS, shipped("leader_arm"))
    motion = shipped("leader_arms").model_dump()["motion"]
    del motion["arms"]["right"]
    with pytest.raises(DeviceError, match=r"motion.arms has left, and piper_pair has left, right"):
        TeleoperationSession(PIPERS, shipped("leader_arms", motion=motion))
    motion = shipped("leader_arms").model_dump()["motion"]
    del motion["arms"]["right"]["joints"]["right_joint3"]
    with pytest.raises(DeviceError, match=r"motion.arms.right.joints lacks right_joint3"):
        TeleoperationSession(PIPERS, shipped("leader_arms", motion=motion))


# ---- replay -------------------------------------------------------------------------------------


def swing(seconds=4.0, size=SWING):
    times = np.arange(0.0, seconds + SAMPLE_S / 2, SAMPLE_S)
    return RecordedMotion(
        HOME + 0.5 * (1 - np.cos(2 * np.pi * times / seconds))[:, None] * size, "made up"
    )


def test_replay_keeps_the_limits_of_the_arm_that_needs_more_time():
    timed = at_speed(swing(), PAIR, 1.0)
    assert timed.positions.max(axis=0) == pytest.approx(HOME + SWING, abs=2e-3)
    fast = np.zeros(14)
    fast[RIGHT[0]] = 1.0
    with pytest.raises(ReplayError, match="of a limit of the contract; give"):
        at_speed(swing(1.2, fast), PAIR, 1.0)


def test_approach_moves_both_arms_slowly_and_the_grippers_last():
    goal = HOME + SWING - 0.01 * PAIR.columns.commands.mask(ColumnKind.GRIPPER)
    way, arm = approach(PAIR, HOME, goal, 0.1), PAIR.columns.commands.mask(ColumnKind.JOINT)
    assert (np.abs(way.velocities[:, arm]) <= 0.102 * JointLimits.of(PAIR).velocity[arm]).all()
    moving = np.abs(way.positions - goal)[:, arm].max(axis=1) > 1e-6
    assert (way.positions[moving][:, ~arm] == HOME[~arm]).all()
    assert way.positions[-1] == pytest.approx(goal)


def test_a_replay_in_which_the_arms_would_meet_is_refused():
    ahead = np.tile([0.0, 0.7, -0.35, 0.0, -0.3, 0.0, 0.0], 2)
    at_speed(swing(20.0, ahead * np.repeat([1.0, 0.0], 7)), PAIR, 0.5)
    with pytest.raises(ReplayError, match=r"left/.* would .*right/|right/.* would .*left/"):
        at_speed(swing(20.0, ahead), PAIR, 0.5)


def test_the_second_arm_that_is_held_fast_ends_the_replay_and_is_named():
    following, timed = Following(PAIR), at_speed(swing(size=2.0 * SWING), PAIR, 1.0)
    for time in np.arange(0.0, timed.duration, SAMPLE_S):
        following.send(time, timed.at(time)[0])
        measured = timed.at(time)[0]
        measured[RIGHT] = HOME[RIGHT]
        if problem := following.measure(time, measured):
            break
    assert problem.startswith("right/waist is")
    assert set(following.report()["tools"]) == {"left", "right"}


def test_what_each_controller_was_sent_is_replayed(tmp_path):
    small = [camera.model_copy(update={"width": 32, "height": 24}) for camera in PIPERS.cameras]
    contract = PIPERS.model_copy(update={"cameras": small})
    with open_writer(tmp_path, contract) as writer:
        for frame in range(10):
            stamp = START + frame * STEP
            write_cameras(writer, contract, frame, stamp)
            for sample in range(5):
                at = stamp + sample * STEP / 5
                write_joints(writer, contract, contract.topics.joint_states, at, STANDING)
            for topic, joints in contract.command_groups.items():
                names = tuple(contract.command_joints[joint] for joint in joints)
                goal = STANDING[joints] + (0.02 if topic.startswith("right") else 0.01)
                sent = Trajectory(
                    stamp, names, np.array([0.0, 1.0]), np.array([goal, goal]), np.zeros((2, 7))
                )
                write_trajectory(writer, sent, topic)
        reader = EpisodeReader(writer.finish("success"))
    motion = recorded_motion(reader, "commanded")
    assert "/left_arm_controller/joint_trajectory and /right_arm_controller" in motion.described
    assert motion.positions[5] - STANDING == pytest.approx([0.01] * 7 + [0.02] * 7, abs=1e-6)
