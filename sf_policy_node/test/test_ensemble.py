"""Tests of temporal ensembling: ACT's formula, rotations on the sphere, gripper excluded."""

import numpy as np
import pinocchio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import FORWARD, STAY, Bench, sim_arm

from sf_policy_node.motion.chunks.ensemble import DECAY, Ensemble, TimedTargets, mean_rotation
from sf_policy_node.motion.types import Join


def targets(start, values, rotations=None, step=0.1):
    values = np.atleast_2d(np.asarray(values, float).T).T
    return TimedTargets(start + step * np.arange(1, len(values) + 1), values, rotations)


def test_the_oldest_prediction_has_the_largest_weight():
    """a = sum w_i a_i / sum w_i, w_i = exp(-m i), i = 0 the oldest."""
    ensemble = Ensemble()
    ensemble.add(targets(0.0, [0.0] * 8))
    ensemble.add(targets(0.2, [1.0] * 8))
    average = ensemble.average(targets(0.4, [4.0] * 8)).values[:, 0]
    w = np.exp(-DECAY * np.arange(3))
    assert average[:4] == pytest.approx((w @ [0.0, 1.0, 4.0]) / w.sum())
    assert average[4:6] == pytest.approx((w[:2] @ [1.0, 4.0]) / w[:2].sum())
    assert average[6:] == pytest.approx(4.0)


def test_predictions_between_steps_are_interpolated():
    ensemble = Ensemble(decay=0.0)
    ensemble.add(targets(0.05, np.arange(8.0)))
    average = ensemble.average(targets(0.1, np.zeros(8))).values[:, 0]
    assert average[0] == pytest.approx(0.5 * 0.5)  # 0.2 s lies half way between 0.15 and 0.25 s


def test_passed_predictions_are_dropped():
    ensemble = Ensemble()
    ensemble.add(targets(0.0, [9.0] * 3))
    ensemble.add(targets(1.0, [0.0] * 3))
    assert ensemble.average(targets(1.0, [0.0] * 3)).values.max() == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 1.5))
def test_rotations_are_averaged_on_the_sphere(seed, spread):
    """The mean of a rotation and its mirror image about a centre is the centre, and always a
    rotation.
    """
    rng = np.random.default_rng(seed)
    centre, turn = (
        pinocchio.exp3(rng.normal(size=3)),
        spread * pinocchio.exp3(rng.normal(size=3))[0],
    )
    pair = np.array([centre @ pinocchio.exp3(turn), centre @ pinocchio.exp3(-turn)])
    mean = mean_rotation(pair, np.array([0.5, 0.5]))
    assert np.allclose(mean, centre, atol=1e-6)
    assert np.allclose(mean @ mean.T, np.eye(3), atol=1e-9) and np.linalg.det(
        mean
    ) == pytest.approx(1.0)


def averaged_bench():
    return Bench(sim_arm(), join=Join.ENSEMBLE)


def test_the_executor_moves_to_the_average_of_chunks():
    ways = {}
    for join in (Join.BLEND, Join.ENSEMBLE):
        bench = Bench(sim_arm(), join=join)
        start = bench.tool()
        bench.send(bench.chunk(FORWARD))
        bench.run(0.3)
        bench.send(bench.chunk(STAY))
        bench.run(2.0)
        assert not bench.violations()
        assert bench.executor.status.join == join.name.lower()
        ways[join] = (bench.tool() - start)[0]
    assert ways[Join.BLEND] < ways[Join.ENSEMBLE] < 0.08


def test_the_gripper_follows_only_the_newest_chunk():
    bench = averaged_bench()
    closed = FORWARD.copy()
    closed[:, 3] = 0.0
    bench.send(bench.chunk(FORWARD))
    bench.run(0.2)
    bench.send(bench.chunk(closed))
    bench.run(1.5)
    assert bench.observer.state(bench.now)[0][6] == pytest.approx(0.0, abs=1e-6)


def test_a_chunk_may_choose_its_blending_mode():
    bench = Bench(sim_arm())
    bench.send(bench.chunk(FORWARD, join=Join.ENSEMBLE))
    assert bench.executor.status.join == "ensemble"


def test_a_new_instruction_is_not_averaged_with_the_old_one():
    bench = averaged_bench()
    bench.send(bench.chunk(FORWARD))
    bench.run(0.2)
    backward = FORWARD * np.array([-1.0, 1.0, 1.0, 1.0])
    bench.send(bench.chunk(backward, epoch=2))
    bench.run(1.8)
    alone = Bench(sim_arm())
    alone.send(alone.chunk(FORWARD))
    alone.run(0.2)
    alone.send(alone.chunk(backward, epoch=2))
    alone.run(1.8)
    assert np.allclose(bench.tool(), alone.tool(), atol=1e-6)
