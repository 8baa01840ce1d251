"""Tests of replay: same motion at any speed, within limits, ended by an arm that lags."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_episodes import (
    START,
    STEP,
    joints_at,
    open_writer,
    tiny_contract,
    write_cameras,
    write_episode,
    write_joints,
)
from teleoperation_cases import HOME, kinematics, sim_arm

from sf_policy_node.contract import CollisionBox, CollisionCheck
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.types import Trajectory
from sf_training.data.episode_reader import EpisodeReader
from sf_training.recording import messages
from sf_training.recording.topics import absolute
from sf_training.teleoperation.recorded_motion import (
    SAMPLE_S,
    RecordedMotion,
    ReplayError,
    recorded_motion,
)
from sf_training.teleoperation.replay import Following, approach, at_speed

CONTRACT = tiny_contract()
SWING = np.array([0.3, 0.1, 0.1, 0.1, 0.0, 0.2, 0.0])


def swing(seconds=4.0, size=SWING):
    """Return a smooth motion there and back."""
    times = np.arange(0.0, seconds + SAMPLE_S / 2, SAMPLE_S)
    return RecordedMotion(
        HOME + 0.5 * (1 - np.cos(2 * np.pi * times / seconds))[:, None] * size, "made up"
    )


def test_an_operators_episode_is_replayed_as_commanded_or_as_measured(tmp_path):
    reader = EpisodeReader(write_episode(tmp_path, CONTRACT, frames=10, labels="operator"))
    commanded, measured = recorded_motion(reader, "commanded"), recorded_motion(reader, "measured")
    times = START + SAMPLE_S * np.arange(len(measured.positions))
    assert measured.positions == pytest.approx(
        np.array([joints_at(time) for time in times]), abs=1e-9
    )
    assert commanded.positions[1:-1] == pytest.approx(
        np.array([joints_at(time + 0.05) for time in times[1:-1]]), abs=2e-3
    )
    assert "as commanded on /teleop/joint_command" in commanded.described
    assert measured.duration == pytest.approx(0.98, abs=SAMPLE_S)


def test_sent_commands_have_precedence_and_a_grasp_is_kept(tmp_path):
    """Each trajectory applies until the next one.

    The gripper follows its command, not the width of the grasped object.
    """
    with open_writer(tmp_path, CONTRACT) as writer:
        for frame in range(10):
            stamp = START + frame * STEP
            write_cameras(writer, CONTRACT, frame, stamp)
            for sample in range(5):
                write_joints(
                    writer,
                    CONTRACT,
                    CONTRACT.topics.joint_states,
                    stamp + sample * STEP / 5,
                    np.append(HOME[:6], 0.02),
                )
            goal = np.append(HOME[:6] + 0.01 * frame, 0.0)
            sent = Trajectory(
                stamp,
                tuple(CONTRACT.command_joints),
                np.array([0.05, 1.0]),
                np.array([goal, goal + 9.0]),
                np.zeros((2, 7)),
            )
            write_trajectory(writer, sent)
        reader = EpisodeReader(writer.finish("success"))
    motion = recorded_motion(reader, "commanded")
    assert "as sent on /joint_trajectory_controller/joint_trajectory" in motion.described
    assert motion.positions[7, 0] == pytest.approx(HOME[0] + 0.01, abs=1e-6)
    assert motion.positions[7, 6] == 0.0
    assert recorded_motion(reader, "measured").positions[7, 6] == 0.02


def write_trajectory(writer, sent, topic=CONTRACT.command.topic):
    types = messages.typestore().types
    point, duration = (
        types["trajectory_msgs/msg/JointTrajectoryPoint"],
        types["builtin_interfaces/msg/Duration"],
    )
    none = np.zeros(0)
    points = []
    for time, positions, velocities in zip(
        sent.times, sent.positions, sent.velocities, strict=True
    ):
        seconds, nanosec = divmod(messages.nanoseconds(time), 10**9)
        ahead = duration(sec=seconds, nanosec=nanosec)
        points.append(
            point(
                positions=positions,
                velocities=velocities,
                accelerations=none,
                effort=none,
                time_from_start=ahead,
            )
        )
    at = messages.nanoseconds(sent.stamp)
    stamp = types["builtin_interfaces/msg/Time"](sec=at // 10**9, nanosec=at % 10**9)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
    message = types[messages.JOINT_TRAJECTORY](
        header=header, joint_names=list(sent.joint_names), points=points
    )
    writer.write(
        absolute(topic),
        messages.typestore().serialize_cdr(message, messages.JOINT_TRAJECTORY),
        at,
    )


def test_where_the_arm_did_not_follow_the_measured_motion_is_replayed(tmp_path):
    with open_writer(tmp_path, CONTRACT) as writer:
        for frame in range(5):
            stamp = START + frame * STEP
            write_cameras(writer, CONTRACT, frame, stamp)
            for sample in range(5):
                write_joints(
                    writer, CONTRACT, CONTRACT.topics.joint_states, stamp + sample * STEP / 5, HOME
                )
                write_joints(
                    writer,
                    CONTRACT,
                    CONTRACT.topics.teleop_command,
                    stamp + sample * STEP / 5,
                    HOME + [1.0, *[0] * 6],
                )
        reader = EpisodeReader(writer.finish("success"))
    assert recorded_motion(reader, "commanded").positions == pytest.approx(
        np.tile(HOME, (25, 1)), abs=1e-9
    )


def test_a_gap_in_the_joint_states_is_not_replayed(tmp_path):
    with open_writer(tmp_path, CONTRACT) as writer:
        for frame in (0, 1, 9):
            write_cameras(writer, CONTRACT, frame, START + frame * STEP)
            write_joints(writer, CONTRACT, CONTRACT.topics.joint_states, START + frame * STEP, HOME)
        reader = EpisodeReader(writer.finish("success"))
    with pytest.raises(ReplayError, match=r"gap of 0\.80 s"):
        recorded_motion(reader, "commanded")


def test_a_separate_gripper_publisher_does_not_hide_a_gap_of_the_arm(tmp_path):
    names, topic = CONTRACT.command_joints, absolute(CONTRACT.topics.joint_states)
    with open_writer(tmp_path, CONTRACT) as writer:
        for frame in range(20):
            stamp = START + frame * STEP
            write_cameras(writer, CONTRACT, frame, stamp)
            if not 5 <= frame < 12:
                writer.write(
                    topic,
                    messages.joint_state(stamp, names[:-1], HOME[:-1]),
                    messages.nanoseconds(stamp),
                )
            writer.write(
                topic,
                messages.joint_state(stamp, names[-1:], HOME[-1:]),
                messages.nanoseconds(stamp + 0.001),
            )
        reader = EpisodeReader(writer.finish("success"))
    with pytest.raises(ReplayError, match=r"gap of 0\.80 s"):
        recorded_motion(reader, "commanded")


@pytest.mark.parametrize("speed", [0.1, 0.5, 1.0])
def test_a_replay_passes_the_same_positions_at_its_speed(speed):
    motion, timed = swing(), at_speed(swing(), sim_arm(), speed)
    assert timed.duration == pytest.approx(4.0 / speed + 0.2, abs=0.05)
    assert timed.positions[0] == pytest.approx(motion.positions[0])
    assert timed.positions.max(axis=0) == pytest.approx(motion.positions.max(axis=0), abs=1e-3)
    assert timed.at(timed.duration)[1] == pytest.approx(0.0)
    middle = timed.at(0.5 * timed.duration + 0.1)[0]
    assert middle == pytest.approx(HOME + SWING, abs=2e-3)
    position = timed.at(1.0 / speed)[0]
    before, after = timed.at(1.0 / speed - 0.05)[0], timed.at(1.0 / speed + 0.05)[0]
    assert timed.at(1.0 / speed)[1] == pytest.approx((after - before) / 0.1, abs=0.02)
    assert (before < position)[0] and (position < after)[0]


def test_a_too_high_speed_is_refused_with_a_possible_one():
    fast = swing(1.2)
    with pytest.raises(
        ReplayError, match=r"of a limit of the contract; give (\S+) or less"
    ) as refusal:
        at_speed(fast, sim_arm(), 2.0)
    fits = float(str(refusal.value).rpartition("give ")[2].split()[0])
    assert 0.3 < fits < 2.0
    at_speed(fast, sim_arm(), fits)
    for speed in (0.05, 3.0, float("nan")):
        with pytest.raises(ReplayError, match=r"not between 0\.1 and 2"):
            at_speed(fast, sim_arm(), speed)


def test_only_segments_that_are_too_fast_are_slowed():
    limits = JointLimits.of(sim_arm())
    fast = swing(1.2)
    with pytest.raises(ReplayError, match="give") as refusal:
        at_speed(fast, sim_arm(), 2.0)
    fits = float(str(refusal.value).rpartition("give ")[2].split()[0])
    timed = at_speed(fast, sim_arm(), 1.15 * fits)
    arm = len(sim_arm().joints)
    assert (np.abs(timed.velocities[:, :arm]) <= 1.05 * limits.velocity[:arm]).all()
    assert 0.0 < timed.slowed < 0.15 * timed.duration
    assert at_speed(fast, sim_arm(), 0.9 * fits).slowed == pytest.approx(0.0)
    assert timed.positions.max(axis=0) == pytest.approx(fast.positions.max(axis=0), abs=1e-3)


def test_an_episode_outside_the_robots_limits_or_box_is_refused():
    with pytest.raises(ReplayError, match=r"joint6 .* outside its limits"):
        at_speed(swing(40.0, np.array([0, 0, 0, 0, 0, 4.0, 0])), sim_arm(), 0.5)
    with pytest.raises(ReplayError, match=r"tool outside workspace after \d"):
        at_speed(swing(8.0, np.array([1.6, 0, 0, 0, 0, 0, 0])), sim_arm(), 0.5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0.02, 0.3))
def test_the_approach_is_slow_and_smooth_and_moves_the_gripper_last(seed, share):
    rng = np.random.default_rng(seed)
    start = HOME + np.append(rng.uniform(-0.15, 0.15, 6), -rng.uniform(0, 0.03))
    goal = HOME + np.append(rng.uniform(-0.15, 0.15, 6), -rng.uniform(0, 0.03))
    way = approach(sim_arm(), start, goal, share)
    limits = np.array([joint.velocity for joint in sim_arm().joints])
    assert (np.abs(way.velocities[:, :6]) <= 1.02 * share * limits).all()
    speeds = kinematics().tool_motion(way.positions[:, :6], way.velocities[:, :6])[1]
    assert np.linalg.norm(speeds, axis=1).max() <= 1.1 * share * sim_arm().workspace.tool_speed
    assert way.positions[0] == pytest.approx(start) and way.positions[-1] == pytest.approx(goal)
    moving = np.abs(way.positions[:, :6] - goal[:6]).max(axis=1) > 1e-6
    assert (way.positions[moving, 6] == start[6]).all()


def test_an_approach_through_a_wall_is_refused():
    start, goal = HOME.copy(), HOME.copy()
    start[0], goal[0] = -0.55, 0.55  # the arc between them is farther out than both ends
    low = {"lower": [0.12, -0.30, 0.006], "upper": [0.32, 0.30, 0.40], "tool_speed": 0.5}
    with pytest.raises(ReplayError, match="move the arm closer by hand"):
        approach(tiny_contract(workspace=low), start, goal, 0.1)


def follow(delay, *, blocked_after=np.inf, size=SWING):
    """Return the result of replaying a swing with an arm that lags or is blocked."""
    following, timed = Following(sim_arm()), at_speed(swing(4.0, size), sim_arm(), 1.0)
    for time in np.arange(0.0, timed.duration, SAMPLE_S):
        following.send(time, timed.at(time)[0])
        position = timed.at(min(max(time - delay, 0.0), blocked_after))[0]
        if problem := following.measure(time, position + np.array([0.001, 0, 0, 0, 0, 0, 0])):
            return time, problem
    return None, following.report()


def test_the_lag_of_the_arm_is_reported_apart_from_its_error():
    ended, report = follow(0.2)
    assert ended is None
    assert report["delay_s"] == pytest.approx(0.2, abs=0.021)
    assert report["joints"]["joint1"]["rms"] == pytest.approx(0.001, abs=5e-4)
    assert report["joints"]["joint2"]["max"] < 2e-3 and report["tools"]["arm"]["max"] < 3e-3


def test_a_blocked_arm_ends_the_replay():
    ended, problem = follow(0.1, blocked_after=1.0, size=np.array([0.7, 0, 0, 0, 0, 0, 0]))
    assert ended is not None and 1.0 < ended < 4.0
    assert "joint1 is" in problem and "from its command" in problem


def beside_a_post():
    post = CollisionBox(name="post", lower=[0.1, 0.10, 0.0], upper=[0.6, 0.12, 0.5])
    return sim_arm().model_copy(update={"collision": CollisionCheck(boxes=[post])})


def test_an_episode_that_would_collide_is_refused_with_both_bodies_named():
    motion = swing(size=np.array([0.8, 0, 0, 0, 0, 0, 0]))
    assert at_speed(motion, sim_arm(), 0.3).times[-1] > 0.0
    with pytest.raises(
        ReplayError, match=r"after \d\.\d s of the episode .* post; correct collision"
    ):
        at_speed(motion, beside_a_post(), 0.3)


def test_collisions_of_the_approach_are_checked_too():
    goal = HOME + np.array([0.8, 0, 0, 0, 0, 0, 0])
    assert len(approach(sim_arm(), HOME, goal, 0.1).times) > 10
    with pytest.raises(ReplayError, match=r"on the straight path .* post; move the arm closer"):
        approach(beside_a_post(), HOME, goal, 0.1)
