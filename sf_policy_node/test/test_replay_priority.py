"""Tests of replay: limits as in teleoperation; priority between policy and operator."""

import numpy as np
import pytest
from motion_cases import FORWARD, HOME, Bench, keep_moving, sim_arm

from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.status import ExecutorState
from sf_policy_node.motion.types import ControlSource

PERIOD = 0.02


@pytest.fixture
def bench():
    return Bench(sim_arm())


def turned(angle):
    return HOME + np.array([angle, 0, 0, 0, 0, 0, 0])


def teleoperate(bench, target, seconds, source=ControlSource.REPLAY):
    for _ in range(round(seconds / PERIOD)):
        bench.post(
            bench.executor.on_teleoperation(bench.now, target, np.zeros(7), bench.now, source)
        )
        bench.run(PERIOD)


def test_a_replay_moves_the_arm_within_limits_and_is_reported(bench):
    teleoperate(bench, turned(0.2), 1.5)
    assert bench.observer.state(bench.now)[0][0] == pytest.approx(0.2, abs=0.01)
    status = bench.executor.status
    assert (status.state, status.source, status.reason) == (
        ExecutorState.TELEOPERATION,
        ControlSource.REPLAY,
        "an episode is replayed",
    )
    with pytest.raises(ChunkRefused, match="an episode is replayed"):
        bench.send(bench.chunk(FORWARD, age=0.1))
    assert not bench.violations()


def test_an_operator_takes_over_from_a_replay_which_is_then_refused(bench):
    teleoperate(bench, turned(0.2), 0.5)
    position = bench.observer.state(bench.now)[0]
    teleoperate(bench, position, 0.2, ControlSource.TELEOPERATION)
    assert bench.executor.status.source is ControlSource.TELEOPERATION
    with pytest.raises(MotionRefused, match="has priority over a replay"):
        teleoperate(bench, turned(0.2), 0.02)
    assert bench.executor.status.source is ControlSource.TELEOPERATION
    assert not bench.violations()


def test_a_replay_has_priority_over_the_policy_which_continues_after_it(bench):
    keep_moving(bench, 0.6)
    teleoperate(bench, bench.observer.state(bench.now)[0], 0.3)
    assert bench.executor.status.source is ControlSource.REPLAY
    bench.run(sim_arm().budgets.teleop_age_s + 0.4)
    assert (bench.executor.status.state, bench.executor.status.source) == (
        ExecutorState.HOLDING,
        ControlSource.NOBODY,
    )
    assert "the replay has ended" in bench.executor.status.reason
    bench.send(bench.chunk(FORWARD))
    assert bench.executor.status.source is ControlSource.POLICY
    bench.run(1.0)
    assert not bench.violations()


def test_a_pause_stops_a_replay_but_not_an_operator(bench):
    teleoperate(bench, turned(0.3), 0.3)
    bench.post(bench.executor.pause(True, bench.now))
    with pytest.raises(MotionRefused, match="paused"):
        teleoperate(bench, turned(0.3), 0.02)
    bench.run(0.5)
    assert bench.executor.status.state is ExecutorState.PAUSED
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
    teleoperate(bench, turned(0.1), 0.1, ControlSource.TELEOPERATION)
    assert bench.executor.status.source is ControlSource.TELEOPERATION
    assert not bench.violations()


def test_an_emergency_stop_ends_a_replay(bench):
    teleoperate(bench, turned(0.3), 0.3)
    bench.post(bench.executor.emergency_stop(bench.now))
    with pytest.raises(MotionRefused, match="emergency stop"):
        teleoperate(bench, turned(0.3), 0.02)
    bench.run(0.5)
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
    assert not bench.violations()
