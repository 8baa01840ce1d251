"""Tests of the benchmarks: jerk and jumps of known motion, known gaps, steps of the peers."""

import dataclasses

import numpy as np
import pytest
from bench.command_jitter import hold_commands, is_moving, shares_of_limits
from bench.controller_methods import METHODS, drive, judge
from bench.figures import Figures
from bench.methods import make_motion
from bench.peers import LatestChunk, OnePoint, StepTargets
from bench.recording import Recording, record
from bench.replay import border_jerk, border_jump, replay
from bench.stops import compare_stop
from bench.two_arms import twice

from sf_bringup.graph import find_policy, find_robot
from sf_msgs.msg import ExecutorStatus
from sf_policy_node.contract import load_contract
from sf_policy_node.controller.control_loop import Commands
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.types import Chunk
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim

CONTRACT = load_contract(find_robot("sim_arm"))
HOME = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.035])
STAMP = 100.0


@pytest.fixture(scope="module")
def chunk():
    """A straight motion of 1 cm per step along x; the gripper closes at the fifth step."""
    data = np.zeros((CONTRACT.action.horizon, 4))
    data[:, 0] = 0.01 * np.arange(1, len(data) + 1)
    data[:4, 3] = 1.0
    return Chunk.of(
        CONTRACT,
        data,
        stamp=STAMP,
        reference=HOME,
        policy_id="test",
        instruction="go",
        epoch=1,
        sequence=0,
    )


def test_jerk_of_a_cubic_is_its_third_derivative():
    time = np.arange(0.0, 1.0, 0.001)[:, None]
    positions = np.hstack([5.0 * time**3 / 6.0, 2.0 * time**2])
    for step in (0.001, 0.01):
        jerk = border_jerk(positions, 0.001, (0.2, 0.5), step)
        assert len(jerk) == 2 * 200
        np.testing.assert_allclose(jerk, np.tile([5.0, 0.0], (400, 1)), atol=1e-3)


def test_border_jump_measures_a_jump_but_not_a_constant_speed():
    time = np.arange(0.0, 1.0, 0.001)[:, None]
    steady = 0.7 * time
    stepped = steady + 0.03 * (time > 0.55)
    np.testing.assert_allclose(border_jump(steady, 0.001, (0.2, 0.5)), 0.0, atol=1e-9)
    np.testing.assert_allclose(border_jump(stepped, 0.001, (0.2, 0.5)), [0.0, 0.03], atol=1e-9)


def test_step_targets_are_joints_that_bring_the_tool_there(chunk):
    kinematics, targets = Kinematics(CONTRACT), StepTargets(CONTRACT).of(chunk)
    begin = kinematics.forward(HOME[:-1]).position
    for row, joints in zip(chunk.data, targets, strict=True):
        np.testing.assert_allclose(
            kinematics.forward(joints[:-1]).position, begin + row[:3], atol=2e-3
        )
    assert targets[3, -1] == CONTRACT.gripper.open and targets[4, -1] == CONTRACT.gripper.closed


@pytest.mark.parametrize(("when_due", "first"), [(False, 2), (True, 1)])
def test_one_point_sends_one_step_per_period_and_skips_passed_steps(chunk, when_due, first):
    motion, targets = OnePoint(CONTRACT, when_due=when_due), StepTargets(CONTRACT).of(chunk)
    motion.activate(STAMP)
    assert [motion.tick(STAMP + 0.01 * n) for n in range(15)] == [None] * 15  # no chunk yet
    motion.on_chunk(chunk, STAMP + 0.15)
    sent = [
        trajectory
        for n in range(15, 200)
        if (trajectory := motion.tick(STAMP + 0.01 * n)) is not None
    ]
    assert len(sent) == CONTRACT.action.horizon - first
    for trajectory, target in zip(sent, targets[first:], strict=True):
        assert (
            trajectory.stamp == 0.0
            and trajectory.times.tolist() == [0.0]
            and trajectory.velocities is None
        )
        np.testing.assert_array_equal(trajectory.positions[0], target)


def test_the_latest_chunk_is_sent_from_the_step_that_is_due(chunk):
    rows = StepTargets(CONTRACT).of(chunk)
    timely = LatestChunk(CONTRACT).on_chunk(chunk, STAMP + 0.25)
    np.testing.assert_allclose(timely.times, 0.05 + 0.1 * np.arange(6))
    np.testing.assert_array_equal(timely.positions, rows[2:])
    careless = LatestChunk(CONTRACT, skip_passed=False).on_chunk(chunk, STAMP + 0.25)
    np.testing.assert_allclose(careless.times, 0.1 * np.arange(1, 9))
    np.testing.assert_array_equal(careless.positions, rows)
    with pytest.raises(ChunkRefused, match="passed"):
        LatestChunk(CONTRACT).on_chunk(chunk, STAMP + 1.0)


def test_commands_are_judged_against_their_limits():
    limits, time = JointLimits.of(CONTRACT), 0.004 * np.arange(251)[:, None]
    commands = Commands(time[:, 0], HOME + 0.5 * limits.acceleration * time**2 * 0.5)
    found = {what: value for what, (value, _) in judge([commands], limits).items()}
    assert found["acceleration"] == pytest.approx(0.5) and found["jerk_rms"] < 1e-3
    assert found["acceleration_20ms"] == pytest.approx(0.5)
    top = (0.5 * limits.acceleration * 0.998 / limits.velocity)[:-1].max()
    assert found["velocity"] == pytest.approx(top, rel=1e-3)


def test_the_controller_keeps_our_motion_inside_the_limits_but_not_single_points(chunk):
    chunk = dataclasses.replace(chunk, stamp=0.0)
    recording = Recording(0, 2, [(0.1, chunk)], [(0.0, HOME, np.zeros(7))])
    limits = JointLimits.of(CONTRACT)
    ours, single = (
        judge([drive(recording, METHODS[method], CONTRACT)], limits)
        for method in ("ours", "one_point")
    )
    assert ours["acceleration"][0] < 1.05 and ours["velocity"][0] < 1.02
    assert single["acceleration"][0] > 20


def test_a_stop_is_compared_with_the_shortest_one():
    limits, lead = JointLimits.of(CONTRACT), 0.06
    moving, at_limit = np.array([0.5, 0, 0, 0, 0, 0, 0]), limits.acceleration[0]
    braking = 0.5 / at_limit
    time = 0.001 * np.arange(1001)
    for late in (0.0, lead):
        stopping = np.clip(time - 0.2 - late, 0.0, braking)
        along = np.minimum(time, 0.2 + late) + stopping - stopping**2 / (2 * braking)
        commands = Commands(time, HOME + along[:, None] * moving)
        stop = compare_stop(commands, 0.2, CONTRACT)
        assert stop.shortest_duration == pytest.approx(braking, rel=0.03)
        assert stop.duration == pytest.approx(late + braking, abs=2e-3)
        radius = stop.shortest_path / (0.5 * braking / 2)
        assert stop.path == pytest.approx(radius * 0.5 * (late + braking / 2), rel=0.03)
    still = Commands(time, np.repeat(HOME[None], len(time), axis=0))
    assert compare_stop(still, 0.2, CONTRACT) is None


def test_periods_exclude_only_reported_standstills():
    ms = 1_000_000
    commands = (
        np.array([0, 10, 20, 50, 60, 500, 510]) * ms
    )  # one stall of 30 ms, and 440 ms between two instructions
    statuses = np.array([-5, 25, 65, 495]) * ms
    states = np.array(
        [
            ExecutorStatus.EXECUTING,
            ExecutorStatus.EXECUTING,
            ExecutorStatus.HOLDING,
            ExecutorStatus.EXECUTING,
        ]
    )
    moving = is_moving(commands, statuses, states)
    np.testing.assert_allclose(np.diff(commands)[moving] / ms, [10, 10, 30, 10, 10])
    assert (~moving).sum() == 1


def test_a_controller_holds_the_last_command_when_the_next_one_is_late():
    limits = JointLimits.of(CONTRACT)
    step, late = 0.5 * limits.velocity / 250.0, 3
    arrivals = 4_000_000 * np.arange(100)
    moving = np.ones(99, dtype=bool)
    commands, missing = hold_commands(arrivals, HOME + np.arange(100)[:, None] * step, moving)
    assert not missing.any()
    assert shares_of_limits(commands, limits)["velocity"].max() == pytest.approx(0.5)
    assert shares_of_limits(commands, limits)["acceleration_20ms"].max() < 1e-6
    arrivals[50 : 50 + late] = arrivals[50 + late] - 1  # three commands come with the fourth
    commands, missing = hold_commands(arrivals, HOME + np.arange(100)[:, None] * step, moving)
    assert missing.sum() == late
    assert shares_of_limits(commands, limits)["velocity"].max() == pytest.approx(0.5 * (late + 1))
    assert shares_of_limits(commands, limits)["acceleration_20ms"].max() > 1.0


def test_a_rate_has_its_interval():
    figures = Figures()
    figures.rate("picked", 95, 100)
    entry = figures.entries["picked"]
    assert entry["value"] == 0.95 and entry["n"] == 100
    np.testing.assert_allclose(entry["interval_95"], [0.8882, 0.9785], atol=1e-3)


def test_every_method_replays_the_same_chunks():
    """A replay by the recording's own method commands the recorded motion.

    Other methods receive the same chunks.
    """
    sim, policy = ArmSim(CONTRACT), Policy.load(find_policy("nano"), device="cpu")
    recording = record(sim, policy, make_motion("blend", CONTRACT), 0, 0.1)
    again = replay(recording, make_motion("blend", CONTRACT), sim)
    count = min(len(again.true) // 2, len(recording.joints))
    then = np.array([positions[:-1] for _, positions, _ in recording.joints[:count]])
    np.testing.assert_allclose(again.true[::2][:count], then, atol=1e-3)
    assert again.refused == 0 and len(again.borders) == len(recording.chunks) - 1

    point = replay(recording, make_motion("one_point", CONTRACT), sim)
    assert point.borders == again.borders
    ours, theirs = (
        np.abs(border_jerk(each.true, each.true_s, each.borders)).max() for each in (again, point)
    )
    assert ours < theirs / 5
    sim.close()


def test_two_arms_are_checked_for_collision_like_one():
    """Before, the links of collision.allowed kept the names of one arm, and the check refused."""
    executor = ChunkExecutor(twice(CONTRACT))
    assert len(executor.contract.collision.allowed) == 2 * len(CONTRACT.collision.allowed) > 0


def test_recordings_keep_stamps_relative_to_the_reset():
    sim, policy = ArmSim(CONTRACT), Policy.load(find_policy("nano"), device="cpu")
    recording = record(sim, policy, make_motion("blend", CONTRACT), 1, 0.2)
    (arrival, first), *_ = recording.chunks
    assert first.stamp == pytest.approx(0.0) and arrival == pytest.approx(0.2)
    assert dataclasses.replace(first, stamp=0.0).data.shape == (CONTRACT.action.horizon, 4)
    sim.close()
