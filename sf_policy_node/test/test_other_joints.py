"""Tests of joints that are measured and not commanded: the executor's collision check follows
them.
"""

import math

import numpy as np
import pytest
from motion_cases import HOME, Bench, sim_arm, teleoperate
from other_joint_cases import with_mast

from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.safety.other_joints import SILENT_S

NEAR = -0.35  # m: the post is 0.25 m beside the arm


@pytest.fixture
def bench():
    return Bench(with_mast())


def turn(bench, angle, mast=None):
    """Turn the leader's first joint to ``angle`` [rad] in 2 s; return the refusals."""

    def measure():
        if mast is not None:
            bench.executor.other_joints.add(bench.now, ["mast"], [mast], bench.now)

    angles = np.linspace(bench.observer.state(bench.now)[0][0], angle, 100)
    return teleoperate(bench, (np.append(each, HOME[1:]) for each in angles), measure)


def test_a_measured_mast_stops_a_motion_that_would_touch_it(bench):
    """Before, nothing passed measured joints on: the mast was at 0, and the motion went on."""
    sentences = turn(bench, 0.9, NEAR)
    assert sentences and all("post" in sentence for sentence in sentences)
    stopped = bench.observer.state(bench.now)[0][0]
    assert stopped < 0.6
    bench.executor.other_joints.add(bench.now, ["mast"], [0.0], bench.now)
    bench.run(sim_arm().budgets.teleop_age_s + 0.4)  # the leader is released
    assert not turn(bench, 0.75) and bench.observer.state(bench.now)[0][0] > 0.7
    assert not bench.violations()


def assumed(executor):
    """Return where the collision check assumes the mast [m]."""
    tree = executor.workspace._collisions._tree
    return dict(zip(tree.names, tree.angles(HOME[None])[0], strict=True))["mast"]


def test_only_fresh_and_finite_positions_are_taken():
    executor = ChunkExecutor(with_mast())
    others = executor.other_joints
    assert others and others.unmeasured == ["mast"] and assumed(executor) == 0.0
    for stamp, position in ((0.0, 0.3), (98.0, 0.3), (101.0, 0.3), (100.0, math.nan)):
        others.add(stamp, ["mast"], [position], 100.0)
        assert assumed(executor) == 0.0, (stamp, position)
    others.add(100.0, ["wheel", "mast", "joint1"], [9.0, 0.2, 9.0], 100.0)
    others.add(99.9, ["mast"], [0.5], 100.0)  # overtaken by the one before
    others.add(100.1, ["mast", "wheel"], [0.5], 100.1)  # a position is missing
    assert assumed(executor) == 0.2 and not others.unmeasured
    others.add(95.0, ["mast"], [0.4], 95.0)  # the clock was set back
    assert assumed(executor) == 0.4


def test_a_joint_that_was_never_measured_is_a_problem_after_a_wait():
    """Before, it was only logged once, at the activation."""
    others = ChunkExecutor(with_mast()).other_joints
    assert not others.problem(100.0, waits=True)
    assert "no joint states of mast so far" in others.problem(100.0)
    others.add(100.0, ["mast"], [0.2], 100.0)
    assert not others.problem(100.0)


def test_a_silent_joint_keeps_its_last_position_and_is_named():
    executor = ChunkExecutor(with_mast())
    executor.other_joints.add(100.0, ["mast"], [0.2], 100.0)
    assert not executor.other_joints.problem(100.0 + SILENT_S)
    assert "joint states of mast for 3 s" in executor.other_joints.problem(103.0)
    assert assumed(executor) == 0.2
    executor.other_joints.add(103.0, ["mast"], [0.1], 103.0)
    assert not executor.other_joints.problem(103.0)


def test_an_arm_without_other_joints_has_none_to_follow():
    executor = ChunkExecutor(sim_arm())
    assert not executor.other_joints and not executor.other_joints.unmeasured
    unchecked = with_mast().collision.model_copy(update={"check": False})
    executor = ChunkExecutor(with_mast().model_copy(update={"collision": unchecked}))
    assert not executor.other_joints
