"""Tests of verdicts PASS, WARN and FAIL on synthetic streams, with stream, figure and cure."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_episodes import tiny_contract

from sf_training.recording import messages
from sf_training.recording.session.health import EpisodeHealth
from sf_training.recording.session.stream_monitor import (
    StreamMonitor,
    Verdict,
    header_stamp,
    is_stamped,
    joint_names,
)
from sf_training.recording.topics import episode_topics

SCENE, WRIST, JOINTS, TELEOP = (
    "/scene_camera/image_raw",
    "/wrist_camera/image_raw",
    "/joint_states",
    "/teleop/joint_command",
)
RATES = {
    SCENE: 30,
    WRIST: 30,
    JOINTS: 100,
    TELEOP: 50,
    "/scene_camera/camera_info": 30,
    "/wrist_camera/camera_info": 30,
}
RATES |= {"/scene_camera/depth/image_raw": 30, "/wrist_camera/depth/image_raw": 30}
BEGIN = 1000.0
NAMES = tiny_contract().command_joints


def stamped(seconds):
    return b"\0\1\0\0" + struct.pack("<iI", *divmod(round(seconds * 1e9), 10**9)) + bytes(8)


def joints_at(seconds):
    return bytes(messages.joint_state(seconds, NAMES, [0.0] * len(NAMES)))


class Robot:
    """All streams of the contract at their rates.

    ``change(topic, stamp) -> stamps`` may drop, repeat or shift messages.
    """

    def __init__(self, delay=0.01):
        contract = tiny_contract()
        self.health = EpisodeHealth(contract, episode_topics(contract))
        self.delay = delay

    def run(self, begin, seconds, change=lambda topic, stamp: [stamp]):
        events = [
            (begin + n / rate, topic)
            for topic, rate in RATES.items()
            for n in range(int(seconds * rate))
        ]
        for time, topic in sorted(events):
            for stamp in change(topic, time):
                data = joints_at(stamp) if topic == JOINTS else stamped(stamp)
                self.health.add(topic, data, time + self.delay, b"publisher")
            self.health.tick(time + self.delay)
        return self

    def episode(self, seconds=10.0, change=lambda topic, stamp: [stamp]):
        self.run(BEGIN - 3, 3)
        self.health.begin(BEGIN, "pick")
        self.run(BEGIN, seconds, change)
        return self.health.report(BEGIN + seconds)


def reasons(report):
    return "; ".join(report.reasons)


def test_a_good_episode_passes_with_its_rates():
    report = Robot().episode()
    assert (report.verdict, report.reasons) == (Verdict.PASS, ())
    scene = next(stream for stream in report.streams if stream.topic == SCENE)
    assert scene.measured_hz == pytest.approx(30, abs=0.6) and scene.expected_hz == 30
    assert scene.longest_gap_s == pytest.approx(1 / 30, abs=0.012) and scene.age_s == pytest.approx(
        0.01
    )
    assert report.skew_s == pytest.approx(0, abs=1e-6)


def test_a_camera_slower_than_declared_fails():
    report = Robot().episode(
        change=lambda topic, stamp: [stamp] if topic != SCENE or round(stamp * 30) % 2 else []
    )
    assert report.verdict == Verdict.FAIL
    assert f"{SCENE}: 15.0 Hz instead of 30 Hz" in reasons(report)


def test_a_camera_a_little_slow_is_a_warning():
    report = Robot().episode(
        change=lambda topic, stamp: [stamp] if topic != SCENE or round(stamp * 30) % 10 else []
    )
    assert report.verdict == Verdict.WARN
    assert f"{SCENE}: 27.0 Hz instead of 30 Hz" in reasons(report)


@pytest.mark.parametrize(("pause", "verdict"), [(0.45, Verdict.WARN), (3.0, Verdict.FAIL)])
def test_a_camera_that_stops_and_returns(pause, verdict):
    report = Robot().episode(
        change=lambda topic, stamp: (
            [] if topic == WRIST and 4 <= stamp - BEGIN < 4 + pause else [stamp]
        )
    )
    assert report.verdict == verdict
    assert f"{WRIST}: no message for {pause:.1f}" in reasons(report) or verdict == Verdict.FAIL
    if verdict == Verdict.FAIL:
        assert (
            "the policy would have had no observation; most frequent reason: camera wrist: the"
            " newest image is" in reasons(report)
        )
    stream = next(stream for stream in report.streams if stream.topic == WRIST)
    assert stream.longest_gap_s == pytest.approx(pause, abs=0.05)


def test_a_camera_that_never_returns_is_reported_at_once():
    robot = Robot()
    robot.run(BEGIN - 3, 3)
    robot.health.begin(BEGIN)
    robot.run(BEGIN, 2.0, lambda topic, stamp: [] if topic == WRIST else [stamp])
    stream = next(
        stream for stream in robot.health.report(BEGIN + 2.0).streams if stream.topic == WRIST
    )
    assert (
        stream.received == 0
        and stream.verdict == Verdict.FAIL
        and "no message; start its publisher" in stream.reason
    )


def test_all_streams_that_stop_are_reported():
    robot = Robot()
    robot.episode(2.0)
    for tenth in range(80):
        robot.health.tick(BEGIN + 2 + tenth / 10)
    report = robot.health.report(BEGIN + 10)
    assert report.verdict == Verdict.FAIL and "% of the policy steps" in reasons(report)


def test_a_larger_camera_skew_than_the_policy_allows_fails():
    """Both send 5 images per second, 0.1 s apart."""
    phases = {SCENE: 0, WRIST: 3}
    late = Robot().episode(
        change=lambda topic, stamp: (
            [stamp] if round(stamp * 30) % 6 == phases.get(topic, round(stamp * 30) % 6) else []
        )
    )
    assert (
        late.verdict == Verdict.FAIL
        and "0.100 s apart, budgets.camera_skew_s allows 0.05 s" in reasons(late)
    )
    assert late.skew_s == pytest.approx(0.1, abs=0.001)


def test_older_images_than_the_policy_allows_fail():
    report = Robot().episode(
        change=lambda topic, stamp: [stamp - 0.5] if topic in (SCENE, WRIST) else [stamp]
    )
    assert report.verdict == Verdict.FAIL and "budgets.observation_age_s allows 0.25 s" in reasons(
        report
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda stamp: [stamp, stamp], "with a repeated stamp"),
        (lambda stamp: [stamp, stamp - 0.02], "with a stamp before the last one"),
        (lambda stamp: [0.0], "without a stamp"),
    ],
)
@pytest.mark.parametrize(("every", "verdict"), [(200, Verdict.WARN), (3, Verdict.FAIL)])
def test_bad_stamps_are_counted(change, text, every, verdict):
    report = Robot().episode(
        change=lambda topic, stamp: (
            change(stamp) if topic == SCENE and round(stamp * 30) % every == 0 else [stamp]
        )
    )
    assert report.verdict == verdict and text in reasons(report) and SCENE in reasons(report)


def test_two_statuses_with_one_stamp_are_tolerated():
    report = Robot().episode(
        change=lambda topic, stamp: [stamp, stamp] if topic == TELEOP else [stamp]
    )
    assert (report.verdict, report.reasons) == (Verdict.PASS, ())


def test_a_few_lost_messages_warn_and_many_fail():
    robot = Robot()
    robot.episode()
    robot.health.add_lost(SCENE, 1)
    assert robot.health.report(BEGIN + 10).verdict == Verdict.WARN
    robot.health.add_lost(SCENE, 9)
    report = robot.health.report(BEGIN + 10)
    assert report.verdict == Verdict.FAIL and f"{SCENE}: 10 messages were lost (3.2 %)" in reasons(
        report
    )


def test_a_clock_jump_fails():
    robot = Robot()
    robot.episode()
    robot.health.note_clock_offset(-2.5)
    assert "the clock was set by -2.50 s" in reasons(robot.health.report(BEGIN + 10))


def test_an_episode_without_motion_is_reported():
    report = Robot().episode(change=lambda topic, stamp: [] if topic == TELEOP else [stamp])
    assert (
        report.verdict == Verdict.WARN
        and f"no message on {TELEOP}; start teleoperation" in reasons(report)
    )


def test_several_instruction_publishers_are_reported():
    robot = Robot()
    robot.episode()
    robot.health.add_instruction("pick")
    assert robot.health.report(BEGIN + 10).verdict == Verdict.PASS
    robot.health.add_instruction("place")
    assert "the instruction changed to 'place'" in reasons(robot.health.report(BEGIN + 10))


def test_the_next_episode_starts_without_old_findings():
    robot = Robot()
    robot.episode(change=lambda topic, stamp: [stamp, stamp] if topic == SCENE else [stamp])
    robot.health.end()
    robot.run(BEGIN + 10, 3)
    robot.health.begin(BEGIN + 13, "pick")
    robot.run(BEGIN + 13, 5)
    report = robot.health.report(BEGIN + 18)
    assert (report.verdict, report.reasons) == (Verdict.PASS, ())


def test_before_an_episode_the_last_seconds_are_judged():
    robot = Robot().run(
        BEGIN, 4, lambda topic, stamp: [] if topic == WRIST and stamp > BEGIN + 0.5 else [stamp]
    )
    report = robot.health.report(BEGIN + 4)
    assert report.verdict == Verdict.FAIL and f"{WRIST}: 0.0 Hz instead of 30 Hz" in reasons(report)


def test_two_publishers_may_share_a_topic():
    monitor = StreamMonitor(JOINTS, required=True)
    for step in range(100):
        monitor.add(step / 50, step / 50 + 0.001, b"arm")
        monitor.add(step / 50, step / 50 - 0.004 if step else 0.0005, b"gripper")
    from sf_training.recording.session.stream_monitor import StreamLimits

    assert monitor.report(2.0, StreamLimits(), True).verdict == Verdict.PASS


@given(st.integers(0, 2**31 - 1), st.integers(0, 10**9 - 1))
def test_stamps_are_read_from_the_bytes(sec, nanosec):
    data = messages.joint_state(sec + nanosec * 1e-9, ["a"], [0.0])
    assert header_stamp(data) == pytest.approx(sec + nanosec * 1e-9, abs=1e-6)
    big_endian = b"\0\0\0\0" + struct.pack(">iI", sec, nanosec)
    assert header_stamp(big_endian) == pytest.approx(sec + nanosec * 1e-9)


@given(
    st.text(max_size=9),
    st.lists(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=6), max_size=5
    ),
)
def test_names_of_joints_are_read_from_the_bytes(frame, names):
    store = messages.typestore()
    header = store.types["std_msgs/msg/Header"](
        store.types["builtin_interfaces/msg/Time"](1, 2), frame.replace("\0", "")
    )
    state = store.types[messages.JOINT_STATE](header, names, *[np.zeros(len(names))] * 3)
    for little in (True, False):
        data = bytes(store.serialize_cdr(state, messages.JOINT_STATE, little_endian=little))
        assert joint_names(data) == names
        assert len(joint_names(data[: len(data) // 2])) <= len(
            names
        )  # truncated: some or no names, and no error


def test_messages_without_a_header_have_no_stamp():
    assert (
        not is_stamped(messages.STRING)
        and not is_stamped(messages.NUMBERS)
        and is_stamped(messages.IMAGE)
    )
    assert header_stamp(b"\0\1\0\0ab") == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 3)), max_size=60))
def test_any_order_of_times_is_tolerated(moves):
    health = EpisodeHealth(tiny_contract(), episode_topics(tiny_contract()))
    now = 100.0
    health.begin(now)
    for step, age in moves:
        now = max(now + step, 1.0)
        health.add(SCENE, stamped(max(now - age, 0.0)), now)
        health.tick(now)
        report = health.report(now)
        assert all(
            0 <= stream.measured_hz < 1e7 and stream.longest_gap_s >= 0 for stream in report.streams
        )
