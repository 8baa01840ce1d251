"""Tests of teleoperation towards a collision: it stops before, and both links are named."""

import contextlib
import re

import numpy as np
import pytest
from arm_pair import PAIR_HOME, pair
from motion_cases import HOME, Bench, teleoperate
from test_executor_pair import Pair
from test_workspace_collisions import beside_a_shelf

from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.status import ExecutorState

PERIOD = 0.02
NAMED = r"(\w+) would (?:touch|come within \d+ mm of) (\w+)"


def named(text):
    """Return the two links in a sentence about a collision."""
    found = re.search(NAMED, text)
    assert found, text
    return set(found.groups())


def turn(bench, start, end):
    """Turn the first joint of the leader within 2 s, and return the refusals."""
    angles = np.linspace(start, end, 100)
    return teleoperate(bench, (HOME + [angle, 0, 0, 0, 0, 0, 0] for angle in angles))


def test_a_motion_into_a_box_of_the_contract_names_link_and_box_and_is_counted():
    """Before, the refusal said "out of the workspace box", and the status nothing."""
    bench = Bench(beside_a_shelf())
    sentences = turn(bench, 0.0, 0.6)
    status = bench.executor.status
    assert status.state is ExecutorState.TELEOPERATION
    assert "shelf" in named(status.reason) and "shelf" in named(sentences[-1])
    assert status.workspace_clips > 0 and status.guard_refusals == 0
    assert 0.05 < bench.observer.state(bench.now)[0][0] < 0.3, "it stopped before the shelf"
    turn(bench, 0.6, 0.0)
    assert not re.search(NAMED, bench.executor.status.reason)
    assert not bench.violations()


def test_arms_of_a_pair_that_would_touch_are_named():
    robot = Pair(pair(apart=0.2))
    target = PAIR_HOME.copy()
    target[[0, 7]] = -1.2, 1.2
    sentences = []
    for _ in range(150):
        try:
            robot.send(robot.executor.on_teleoperation(robot.now, target, np.zeros(14), robot.now))
        except MotionRefused as refusal:
            sentences.append(str(refusal))
        robot.run(PERIOD)
    links = named(sentences[-1])
    assert {link.split("_")[0] for link in links} == {"left", "right"}
    assert named(robot.executor.status.reason) == links
    assert robot.executor.status.workspace_clips > 0
    assert np.abs(robot.velocity).max() < 1e-2
    robot.assert_inside_limits()


def test_an_arm_that_was_moved_into_a_box_by_hand_does_not_start_there():
    bench = Bench(beside_a_shelf())
    with contextlib.suppress(MotionRefused):
        bench.post(bench.executor.on_teleoperation(bench.now, HOME, np.zeros(7), bench.now))
    bench.run(1.5)
    bench.offset = np.array([0.6, 0, 0, 0, 0, 0, 0])
    bench.run(1.5)
    with pytest.raises(MotionRefused, match="move the arm back by hand") as refusal:
        bench.executor.on_teleoperation(bench.now, HOME + bench.offset, np.zeros(7), bench.now)
    assert "shelf" in named(str(refusal.value))
