"""Tests of teleoperation devices: commanded tool and joint motion within box and limits."""

import numpy as np
import pinocchio
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from teleoperation_cases import (
    DEVICES,
    HOME,
    PERIOD,
    Hand,
    Pad,
    kinematics,
    robot,
    shipped,
    sim_arm,
    written,
)

from sf_policy_node.contract import Workspace, parse_contract
from sf_training.simulation.arm_sim import TOOL_DOWN
from sf_training.teleoperation.device import DeviceError, load_device
from sf_training.teleoperation.session import TeleoperationSession

JOINTS = sim_arm().command_joints


@pytest.mark.parametrize("path", sorted(DEVICES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_devices_fit_the_shipped_robot(path):
    contract = robot("piper_pair") if path.stem == "leader_arms" else sim_arm()
    TeleoperationSession(contract, load_device(path))


def test_a_stick_moves_the_tool_straight_at_the_devices_speed():
    pad = Pad()
    start = pad.tool
    pad.press(1.0, axes={0: 1.0})
    way = pad.tool - start
    assert way == pytest.approx([0.0, 0.15, 0.0], abs=0.004)
    pad.press(0.5)
    assert pad.tool - start == pytest.approx(way, abs=1e-4), "with centred sticks it stays"


def test_two_full_sticks_are_as_fast_as_one_and_the_slow_button_slows():
    pad = Pad()
    start = pad.tool
    pad.press(0.5, axes={1: -1.0, 0: 1.0, 3: 1.0})
    assert np.linalg.norm(pad.tool - start) == pytest.approx(0.075, abs=0.003)
    start = pad.tool
    pad.press(0.5, axes={0: -1.0}, buttons=(8,))
    assert np.linalg.norm(pad.tool - start) == pytest.approx(0.075 / 4, abs=0.001)


def test_commands_carry_the_velocities_of_their_positions():
    commands = Pad().press(0.6, axes={0: 1.0})
    steps = np.diff([command.positions for command in commands], axis=0)[:, :6]
    assert np.array([command.velocities for command in commands])[1:, :6] * PERIOD == pytest.approx(
        steps, abs=1e-9
    )


def test_the_tool_stops_at_the_wall_of_its_box_and_slides_along_it():
    pad = Pad()
    pad.press(2.9, axes={3: -1.0})
    lower, upper = sim_arm().workspace.lower, sim_arm().workspace.upper
    assert pad.tool[2] == pytest.approx(lower[2] + 0.002, abs=1e-4)
    assert "wall" in pad.session.state
    pad.press(0.3, axes={3: -1.0, 0: 1.0})
    assert pad.tool[1] > 0.02 and pad.tool[2] >= lower[2]
    for axes in ({1: 1.0}, {0: 1.0}, {0: -1.0}, {1: -1.0}):
        pad.press(2.9, axes=axes)
        pad.press(0.1, grip=False)
        assert (pad.tool > np.array(lower) - 1e-3).all() and (
            pad.tool < np.array(upper) + 1e-3
        ).all()


def test_a_tool_outside_its_box_may_only_move_back():
    contract = sim_arm().model_copy(update={"workspace": Workspace(**NARROW)})
    hand = Hand(shipped("gamepad"), contract)
    say = Pad.say
    hand.topic, hand.axes, hand.buttons = "/joy", [0.0] * 6, [0] * 15
    hand.run(0.1, lambda: say(hand))
    hand.buttons[9], hand.axes[1] = 1, 1.0
    start = hand.tool
    hand.run(0.5, lambda: say(hand))
    assert hand.tool == pytest.approx(start, abs=1e-3)
    hand.axes[1] = -1.0
    hand.run(0.5, lambda: say(hand))
    assert hand.tool[0] < start[0] - 0.05


NARROW = {"lower": [0.12, -0.3, 0.006], "upper": [0.25, 0.3, 0.4], "tool_speed": 0.5}


def test_the_command_does_not_run_away_from_an_arm_that_lags():
    pad, reports = Pad(), set()
    pad.press(0.1)
    pad.follows = False
    for _ in range(20):
        for command in pad.press(0.1, axes={0: 1.0}):
            away = np.abs(command.positions - pad.measured)[:6]
            assert (
                away <= 1.1 * np.array([joint.tracking_error for joint in sim_arm().joints])
            ).all()
            assert (
                np.abs(command.velocities[:6])
                <= np.array([joint.velocity for joint in sim_arm().joints])
            ).all()
            reports.add(pad.session.state)
        pad.run(PERIOD)
        reports.add(pad.session.state)
    assert any("does not follow" in sentence for sentence in reports)


def test_rotation_is_off_for_a_fixed_tool_unless_the_device_enables_it():
    for turns, angle in ((None, 0.0), (True, 0.3)):
        pad = Pad(turns=turns)
        pad.press(0.5)
        start = kinematics().forward(pad.measured[:6]).rotation
        pad.press(0.5, axes={2: 1.0})
        turned = kinematics().forward(pad.measured[:6]).rotation
        assert np.linalg.norm(pinocchio.log3(turned @ start.T)) == pytest.approx(angle, abs=0.02)


def test_a_slightly_tilted_tool_is_rotated_back_slowly():
    """The policy's actions and labels know only one orientation of the tool."""
    pad = Pad()
    commands = pad.press(1.0)
    assert kinematics().forward(pad.measured[:6]).rotation == pytest.approx(TOOL_DOWN, abs=1e-3)
    assert max(np.abs(command.velocities).max() for command in commands) < 0.5


def test_the_gripper_keeps_its_grasp_at_a_takeover():
    pad = Pad()
    pad.measured[-1] = 0.02  # the grasped object stops the fingers
    pad.session.on_gripper_sent(0.0)
    assert pad.press(0.3)[-1].positions[-1] == 0.0
    unknown = Pad()
    unknown.measured[-1] = 0.02
    assert unknown.press(0.3)[-1].positions[-1] == 0.0, "nobody said what it was sent: it squeezes"


def test_the_gripper_moves_by_buttons_only_while_the_switch_is_held():
    pad = Pad()
    pad.press(0.1, grip=False, buttons=(0,))
    assert pad.press(0.1)[-1].positions[-1] == 0.035
    pad.press(0.1, buttons=(0,))
    assert pad.press(0.1)[-1].positions[-1] == 0.0
    pad.press(0.1, buttons=(1,))
    assert pad.press(0.1)[-1].positions[-1] == 0.035
    mouse = Pad("spacemouse", buttons=2)
    mouse.press(0.1)
    mouse.press(0.1, buttons=(1,))
    assert mouse.press(0.1)[-1].positions[-1] == 0.0


def test_a_twist_in_si_units_moves_the_tool_and_its_silence_stops_it():
    hand = Hand(shipped("twist"))
    hand.run(0.1, lambda: hand.session.on_switch(False, hand.now))
    start = hand.tool

    def push():
        hand.session.on_switch(True, hand.now)
        hand.session.on_twist((0.0, 0.1, 0.0), (0.0, 0.0, 0.0), hand.now)

    hand.run(0.5, push)
    assert (hand.tool - start)[1] == pytest.approx(0.05, abs=0.006)
    position = hand.tool
    hand.run(1.0, lambda: hand.session.on_switch(True, hand.now))
    assert (hand.tool - position)[1] < 0.1 * 0.3
    hand.session.on_twist((np.nan, np.inf, 0.0), (0.0, 0.0, 0.0), hand.now)
    assert all(
        np.isfinite(command.positions).all()
        for command in hand.run(0.2, lambda: hand.session.on_switch(True, hand.now))
    )


class Leading(Hand):
    """A leader arm with the space bar as its dead-man switch."""

    def __init__(self, **changes):
        super().__init__(shipped("leader_arm", **changes))
        self.names, self.place = [*JOINTS, "another"], np.append(HOME, 9.0)
        self.run(0.1, lambda: self.say(False))

    def say(self, held=True, velocities=()):
        self.session.on_joy("/teleop/keys", [0.0] * 6, [int(held), 0, 0, 0], self.now)
        self.session.on_leader(self.names, list(self.place), list(velocities), self.now)

    def lead(self, seconds, **state):
        return self.run(seconds, lambda: self.say(**state))


def test_the_arm_follows_its_scaled_and_shifted_leader_within_limits():
    joints = {name: {"leader": name} for name in JOINTS[:-1]} | {
        "joint1": {"leader": "joint1", "scale": -0.5, "offset": 0.1}
    }
    leading = Leading(
        motion={
            **yaml.safe_load((DEVICES / "leader_arm.yaml").read_text())["motion"],
            "joints": joints,
            "furthest": None,
        }
    )
    leading.place[0], leading.place[6] = 0.4, 0.0
    assert leading.lead(0.2)[-1].positions == pytest.approx([-0.1, *HOME[1:6], 0.0])
    leading.place[1] = 50.0
    assert leading.lead(0.2)[-1].positions[1] == sim_arm().joints[1].upper
    leading.place[1] = np.nan
    assert all(np.isfinite(command.positions).all() for command in leading.lead(0.1))


def test_a_distant_leader_is_not_followed_and_the_joint_is_named():
    leading = Leading()
    leading.place[2] = 0.2
    assert not leading.lead(0.5)
    assert "joint3 is at 1.40 and its leader at 0.20" in leading.session.state
    leading.lead(0.1, held=False)
    leading.place[2] = 1.0
    assert leading.lead(0.3)


def test_velocities_of_a_leader_are_derived_from_its_positions():
    leading = Leading()
    for _ in range(20):
        leading.place[0] += 0.5 * PERIOD
        command = leading.lead(PERIOD)[-1]
    assert command.velocities[0] == pytest.approx(0.5, rel=0.01)


def test_a_disconnected_leader_ends_teleoperation():
    leading = Leading()
    leading.lead(0.3)
    commands = leading.run(
        1.0, lambda: leading.session.on_joy("/teleop/keys", [0.0] * 6, [1, 0, 0, 0], leading.now)
    )
    assert len(commands) * PERIOD <= 0.22
    assert "leader is silent on /leader/joint_states" in leading.session.state


def test_a_leader_with_other_joints_gives_one_sentence():
    leading = Leading()
    leading.names[0] = "shoulder"
    assert not leading.lead(0.3)
    assert "not joint1; correct motion.joints" in leading.session.state


def test_a_device_with_too_few_buttons_gives_one_sentence():
    pad = Pad(buttons=4)
    assert not pad.press(0.3)
    assert "has 4 buttons, so none with index 9" in pad.session.state


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_no_input_exceeds_the_limits(seed):
    """Inputs are sticks that drift and jump, an occasional switch, and an arm that lags."""
    rng = np.random.default_rng(seed)
    pad = Pad(turns=bool(rng.integers(2)))
    limits = np.array([joint.velocity for joint in sim_arm().joints])
    box = np.array(sim_arm().workspace.lower), np.array(sim_arm().workspace.upper)
    for _ in range(12):
        axes = {
            index: float(rng.choice([-1, 0, 1, rng.uniform(-1, 1), np.nan])) for index in range(4)
        }
        commands = pad.press(float(rng.uniform(0.02, 0.6)), grip=bool(rng.integers(4)), axes=axes)
        for command in commands:
            arm = command.positions[:6]
            assert (np.abs(command.velocities[:6]) <= limits).all()
            assert all(
                joint.lower <= position <= joint.upper
                for joint, position in zip(sim_arm().joints, arm, strict=True)
            )
            tool = kinematics().forward(arm).position
            assert (tool >= box[0] - 1e-3).all() and (tool <= box[1] + 1e-3).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dead_man": {"topic": "/joy"}}, "dead_man: type: joy and button: None do not fit"),
        ({"speed": -1}, "speed: Input should be greater than 0"),
        ({"sped": 1}, "sped: is not a known key"),
        (
            {"dead_man": {"topic": "/joy", "button": 1, "age_s": 5.0}},
            "dead_man.age_s: Input should be less than or equal to 0.5",
        ),
        ({"motion": {"kind": "voice"}}, "motion: Input tag 'voice'"),
        (
            {"gripper": {"topic": "/joy", "open": 1}},
            "gripper: no button for opening or closing; give open and close, or toggle",
        ),
    ],
)
def test_an_invalid_device_file_is_refused_with_its_key(tmp_path, changes, sentence):
    with pytest.raises(DeviceError, match=r"gamepad\.yaml") as refusal:
        load_device(written(tmp_path, "gamepad", **changes))
    assert sentence in str(refusal.value)


def test_a_device_that_does_not_fit_the_robot_is_refused(tmp_path):
    motion = yaml.safe_load((DEVICES / "leader_arm.yaml").read_text())["motion"]
    del motion["joints"]["joint4"]
    with pytest.raises(DeviceError, match=r"motion.joints lacks joint4 of sim_arm"):
        TeleoperationSession(sim_arm(), shipped("leader_arm", motion=motion))
    with pytest.raises(DeviceError, match="cannot be read"):
        load_device(tmp_path / "nothing.yaml")
    slow = yaml.safe_load(sim_arm().to_yaml())
    slow["budgets"]["teleop_age_s"] = 0.05
    with pytest.raises(
        DeviceError, match=r"rate_hz 50 is too slow for budgets.teleop_age_s 0.05; give at least 60"
    ):
        TeleoperationSession(
            parse_contract(yaml.safe_dump(slow), sim_arm().urdf_xml), shipped("gamepad")
        )


def test_a_moving_arm_is_taken_over_at_its_stop_and_not_pulled_back():
    hand = Pad()
    speed = np.array([0.5, 0.0, 0.0, -0.8, 0.0, 0.0, 0.0])
    hand.now += PERIOD
    hand.session.on_measured(HOME, speed, hand.now)
    hand.buttons[hand.grip] = 1
    hand.say()
    command = hand.session.command(hand.now, PERIOD)
    ahead = (command.positions - HOME)[[0, 3]]
    assert 0.05 < ahead[0] < 0.08 and -0.13 < ahead[1] < -0.08
