"""Tests of teleoperation: priority over the policy, smooth takeover, same limits."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import FORWARD, HOME, Bench, keep_moving, sim_arm

from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.status import ExecutorState
from sf_policy_node.motion.types import ControlSource

PERIOD = 0.02


@pytest.fixture
def bench():
    return Bench(sim_arm())


def teleoperate(bench, target, seconds, velocity=None):
    """Send ``target(t)`` 50 times a second, as a leader arm does."""
    velocity = np.zeros(7) if velocity is None else velocity
    for _ in range(round(seconds / PERIOD)):
        position = target(bench.now) if callable(target) else target
        bench.post(bench.executor.on_teleoperation(bench.now, position, velocity, bench.now))
        bench.run(PERIOD)


def turned(angle):
    target = HOME.copy()
    target[0] += angle
    return target


def test_the_arm_follows_the_operator_and_reports_it(bench):
    teleoperate(bench, turned(0.2), 1.5)
    assert bench.observer.state(bench.now)[0][0] == pytest.approx(0.2, abs=0.01)
    status = bench.executor.status
    assert (status.state, status.source) == (
        ExecutorState.TELEOPERATION,
        ControlSource.TELEOPERATION,
    )
    assert not bench.violations()


def test_an_operator_takes_over_smoothly_and_chunks_are_refused_meanwhile(bench):
    keep_moving(bench, 0.9)
    assert bench.executor.status.source is ControlSource.POLICY
    before, speed = bench.observer.state(bench.now)
    teleoperate(bench, before + 0.05, 0.04)
    after, _ = bench.observer.state(bench.now)
    assert np.abs(after - before)[:6].max() <= 0.04 * np.abs(speed).max() + 0.01
    with pytest.raises(ChunkRefused, match="an operator teleoperates"):
        bench.send(bench.chunk(FORWARD, age=0.1))
    teleoperate(bench, before, 1.0)
    assert not bench.violations()


def test_a_distant_leader_is_approached_slowly(bench):
    teleoperate(bench, turned(0.25), 0.3)
    assert (
        np.abs(bench.observer.state(bench.now)[1][0]) <= 0.25 * sim_arm().joints[0].velocity + 1e-9
    )


def test_a_distant_leader_is_approached_slowly_even_if_the_path_leaves_the_box(
    bench,
):
    target = np.array([-1.02, -0.63, 2.29, 1.62, -0.01, -0.81, HOME[6]])
    quarter = 0.25 * np.array([joint.velocity for joint in sim_arm().joints]) + 1e-9
    for _ in range(60):
        with contextlib.suppress(MotionRefused):
            teleoperate(bench, target, PERIOD)
        position, speed = bench.observer.state(bench.now)
        if np.abs(position - target)[:6].max() > 0.3:
            assert (np.abs(speed[:6]) <= quarter).all()
    assert np.abs(position - HOME)[:6].max() > 0.1 and not bench.violations()


def test_after_the_operators_release_the_policy_continues_with_a_fresh_chunk(bench):
    teleoperate(
        bench, lambda now: turned(0.5 * now), 0.6, velocity=np.array([0.5, 0, 0, 0, 0, 0, 0])
    )
    old = bench.chunk(FORWARD, age=0.1)
    bench.run(sim_arm().budgets.teleop_age_s + 0.4)
    assert bench.executor.status.state is ExecutorState.HOLDING
    assert "released" in bench.executor.status.reason
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
    with pytest.raises(ChunkRefused):
        bench.send(old)
    bench.send(bench.chunk(FORWARD))
    bench.run(0.5)
    assert bench.executor.status.source is ControlSource.POLICY
    assert not bench.violations()


def test_the_tool_remains_in_the_box_and_the_limit_is_reported(bench):
    with pytest.raises(MotionRefused, match="leave the workspace box"):
        teleoperate(bench, turned(1.5), 4.0)
    bench.run(1.5)
    assert not bench.violations()
    assert bench.executor.status.workspace_clips > 0


def test_clipped_leader_commands_are_counted(bench):
    beyond = turned(0.0)
    beyond[3] = bench.observer.limits.upper[3] + 0.5
    bench.post(
        bench.executor.on_teleoperation(bench.now, beyond, np.append([9.0], np.zeros(6)), bench.now)
    )
    status = bench.executor.status
    assert status.position_clips[3] == 1 and status.velocity_clips[0] >= 1


def test_a_motion_that_could_not_be_sent_in_time_is_withdrawn(bench):
    teleoperate(bench, turned(0.2), 0.4)
    path = bench.executor.path
    bench.executor.on_teleoperation(bench.now, turned(0.2), np.zeros(7), bench.now)
    assert not bench.executor.is_too_late(bench.now + 0.02) and bench.executor.is_too_late(
        bench.now + 0.1
    )
    bench.executor.withdraw_teleoperation()
    assert bench.executor.path is path


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"positions": np.full(7, np.nan)}, "finite"),
        ({"positions": HOME[:6]}, "7 finite positions"),
        ({"stamp": -1.0}, "budgets.teleop_age_s"),
    ],
)
def test_a_broken_command_is_refused_and_does_not_take_over(bench, changes, sentence):
    command = {
        "stamp": bench.now,
        "positions": HOME,
        "velocities": np.zeros(7),
        "now": bench.now,
        **changes,
    }
    with pytest.raises(MotionRefused, match=sentence):
        bench.executor.on_teleoperation(**command)
    assert bench.executor.status.state is ExecutorState.HOLDING


def test_an_emergency_stop_has_priority_over_an_operator(bench):
    teleoperate(bench, turned(0.2), 0.3)
    bench.post(bench.executor.emergency_stop(bench.now))
    with pytest.raises(MotionRefused, match="emergency stop"):
        bench.executor.on_teleoperation(bench.now, HOME, np.zeros(7), bench.now)
    bench.run(0.5)
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
    assert not bench.violations()


def test_lost_joint_states_stop_teleoperation_too(bench):
    teleoperate(bench, turned(0.2), 0.2)
    bench.joint_states = False
    with pytest.raises(MotionRefused, match="joint state"):
        teleoperate(bench, turned(0.3), 0.5)
    bench.run(0.6)
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
    assert not bench.violations()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([0.05, 0.3, 2.0]), jump=st.booleans())
def test_no_leader_breaks_a_limit(seed, size, jump):
    """Leaders drift or jump, report wrong velocities, and release now and then."""
    rng = np.random.default_rng(seed)
    bench = Bench(sim_arm())
    target = HOME.copy()
    for _ in range(60):
        target = (
            HOME + rng.normal(0.0, size, 7) if jump else target + rng.normal(0.0, 0.2 * size, 7)
        )
        with contextlib.suppress(MotionRefused):
            bench.post(
                bench.executor.on_teleoperation(
                    bench.now, target, rng.normal(0.0, 1.0, 7), bench.now
                ),
                rng.uniform(0.0, 0.015),
            )
        bench.run(float(rng.choice([0.02, 0.02, 0.035, 0.3])))
    bench.run(1.5)
    assert not bench.violations()
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
