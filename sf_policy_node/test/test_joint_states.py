"""Tests of joint states as real drivers send them.

Arm and gripper come apart, without stamps, without velocities, with other names.
"""

import math

import numpy as np
import pytest
import yaml
from motion_cases import CONTRACT_PATH, HOME, sim_arm

from sf_policy_node.contract import parse_contract
from sf_policy_node.perception.joint_states import JointStates
from sf_policy_node.perception.observation import NoObservation, ObservationBuffer

NAMES = sim_arm().command_joints
ARM = NAMES[:6]


def with_gripper_age(seconds):
    values = yaml.safe_load(CONTRACT_PATH.read_text())
    values["budgets"]["gripper_age_s"] = seconds
    return parse_contract(yaml.safe_dump(values), sim_arm().urdf_xml)


@pytest.fixture
def states():
    return JointStates(sim_arm())


def test_messages_with_more_joints_in_any_order_are_sorted(states):
    stamp, positions, velocities = states.read(
        1.0, ["extra", *reversed(NAMES)], list(range(8)), [0.1 * n for n in range(8)]
    )
    assert stamp == 1.0 and positions.tolist() == [7, 6, 5, 4, 3, 2, 1]
    assert np.allclose(velocities, [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_a_slow_gripper_does_not_delay_the_arm(states):
    """At 100 Hz and 8 Hz the arm has its own rate; the gripper keeps its last position."""
    for tick in range(100):
        now = 5.0 + 0.01 * tick
        if tick % 12 == 0:
            states.read(now, ["gripper"], [0.0002 * tick], [])
        read = states.read(now, ARM, [0.02 * tick] * 6, [])
        assert read is not None and read[0] == now
        assert read[1][0] == pytest.approx(0.02 * tick) and read[1][6] == pytest.approx(
            0.0002 * (tick - tick % 12)
        )
    assert read[2][0] == pytest.approx(2.0)


def test_arm_joints_in_two_messages_are_combined_at_one_time(states):
    other = [name for name in NAMES if name not in ("joint2", "joint5")]
    states.add(1.00, other, [0.0] * 5)
    states.add(1.01, ["joint2", "joint5"], [1.0, 1.0])
    states.add(1.03, ["joint2", "joint5"], [3.0, 3.0])
    stamp, positions, _ = states.read(1.02, other, [0.5] * 5, [])
    assert stamp == 1.02 and positions[1] == pytest.approx(2.0) and positions[0] == 0.5


@pytest.mark.parametrize("velocities", [[], [math.nan] * 7, [0.0] * 3])
def test_missing_velocities_are_derived_from_positions(states, velocities):
    states.read(2.0, NAMES, [0.0] * 7, velocities)
    assert states.read(2.1, NAMES, [0.05] * 7, velocities)[2] == pytest.approx([0.5] * 7)


# A faulty driver's message, and what the status must name.
MESSAGES = {
    "nothing came": ((), "no joint states on joint_states"),
    "other names": (
        (3.0, [f"robot/{name}" for name in NAMES], [0.0] * 7),
        "they name robot/joint1, robot/joint2",
    ),
    "one other name": (
        (3.0, [*ARM, "hand_joint"], [0.0] * 7),
        "lack gripper; they name hand_joint",
    ),
    "one missing": ((3.0, NAMES[1:], [0.0] * 6), "lack joint1"),
    "short": ((3.0, NAMES, [0.0] * 5), "7 names, 5 positions"),
    "without positions": ((3.0, NAMES, []), "7 names, 0 positions"),
    "no stamp": ((0.0, NAMES, [0.0] * 7), "no time stamp"),
    "not a number": ((3.0, NAMES, [0.0] * 4 + [math.nan] + [0.0] * 2), "position nan for joint5"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_the_problem_names_the_received_values(states, case):
    message, words = MESSAGES[case]
    if message:
        assert states.read(*message, []) is None
    assert words in states.problem(3.01)
    states.read(3.1, NAMES, HOME, [])
    assert states.problem(3.11) == ""


WHEELS = ["left_wheel", "right_wheel"]


@pytest.mark.parametrize(
    "message",
    [
        (0.0, WHEELS, [], [1.0, 1.0]),
        (4.0, WHEELS, [math.nan] * 2, []),
        (0.0, WHEELS, [0.0] * 2, []),
        (0.0, [], [], []),
        (0.0, ["gripper"], [0.0], []),  # a joint of the contract, but not the late one
    ],
)
def test_a_late_arm_is_not_blamed_on_a_message_about_other_joints(states, message):
    assert states.read(*message) is None
    if "gripper" not in message[1]:
        assert "time stamp" not in states.fault and "positions" not in states.fault
    states.read(4.0, NAMES, HOME, [])
    states.read(*message)
    states.read(4.1, ["gripper"], [0.0], [])
    assert states.read(*message) is None
    assert "of joint1 is 0.210 s old, budgets.joint_state_age_s" in states.problem(4.21)


def test_the_late_joint_is_named_with_its_own_budget(states):
    states.read(4.0, NAMES, HOME, [])
    states.read(4.2, ARM, HOME[:6], [])
    assert (
        states.problem(4.21)
        == "the newest joint state of gripper is 0.210 s old, budgets.joint_state_age_s allows"
        " 0.1 s; "
        "if its driver is that slow, give budgets.gripper_age_s"
    )
    slow = JointStates(with_gripper_age(0.3))
    slow.read(4.0, NAMES, HOME, [])
    slow.read(4.25, ARM, HOME[:6], [])
    assert slow.problem(4.26) == "" and slow.age(4.26) == pytest.approx(0.01)
    slow.read(4.45, ["gripper"], [0.0], [])
    assert "of joint1 is 0.210 s old, budgets.joint_state_age_s" in slow.problem(4.46)


def test_stamps_of_other_clocks_are_reported(states):
    assert "/clock" in states.problem(0.0)
    states.read(7.0, NAMES, HOME, [])
    assert states.problem(6.98) == "" and states.age(6.98) == 0.0, (
        "clocks may differ by 20 ms, which is not no joint state"
    )
    assert "0.200 s in the future" in states.problem(6.8)


def test_a_reordered_message_is_dropped_and_a_backward_clock_jump_accepted(states):
    for stamp in (9.00, 9.02, 9.01, 9.03):
        stamp, positions, _ = states.read(stamp, NAMES, [stamp] * 7, [])
    assert stamp == 9.03 and states.at(9.015)[0] == pytest.approx(9.015)
    for tick in range(6):
        stamp, positions, _ = states.read(8.7 + 0.01 * tick, NAMES, [float(tick)] * 7, [])
    assert stamp == 8.75 and positions[0] == 5.0
    assert states.read(1.0, NAMES, HOME, [])[0] == 1.0


def test_a_policy_receives_every_joint_from_its_own_history():
    """As in training, each joint is interpolated between its own messages."""
    contract = with_gripper_age(0.5)
    buffer = ObservationBuffer(contract)
    for tick in range(101):
        now = 20.0 + 0.01 * tick
        buffer.add_joint_state(now, ARM, [0.02 * tick] * 6)
        if tick % 20 == 0:
            buffer.add_joint_state(now, ["gripper"], [0.0003 * tick])
    for camera in ("scene", "wrist"):
        buffer.add_image(camera, 20.955, camera)
    joints = buffer.pick(21.0).joints
    assert joints[:6] == pytest.approx([0.02 * 95] * 6), "known until the images were taken"
    assert joints[6] == pytest.approx(0.0003 * 80)


def test_cameras_of_60_and_10_hz_are_paired_by_stamp():
    """The slow camera's images arrive 70 ms late, due to exposure and transport."""
    buffer, skews, wrong = ObservationBuffer(sim_arm()), [], 0
    events = [(30.0 + n / 60, 30.0 + n / 60 + 0.005, "scene") for n in range(180)]
    events += [(30.004 + n / 10, 30.004 + n / 10 + 0.07, "wrist") for n in range(30)]
    for stamp, arrival, camera in sorted(events, key=lambda event: event[1]):
        buffer.add_joint_state(arrival, NAMES, HOME)
        buffer.add_image(camera, stamp, stamp)
        if arrival > 30.2:
            try:
                images = buffer.pick(arrival).images
                skews.append(abs(images["scene"] - images["wrist"]))
            except NoObservation:
                wrong += 1
            assert buffer.skew < 0.01
    assert wrong == 0 and max(skews) < 1 / 120 + 1e-6


def test_before_simulated_time_starts_the_reason_is_the_clock():
    buffer = ObservationBuffer(sim_arm())
    buffer.add_image("scene", 50.0, "image")
    with pytest.raises(NoObservation, match="/clock"):
        buffer.pick(0.0)
