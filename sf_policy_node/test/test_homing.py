"""Tests of homing: slow, within limits, refused if blocked, interruptible."""

import contextlib

import numpy as np
import pytest
import yaml
from faulty_driver import FaultyDriver
from motion_cases import CONTRACT_PATH, FORWARD, HOME, Bench, keep_moving, sim_arm

from sf_policy_node.contract import parse_contract
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.state_machine import State
from sf_policy_node.motion.status import ExecutorState
from sf_policy_node.motion.types import ControlSource

WITH_HOME = {"home": [0.0, 0.4, 1.4, 1.3, 0.0, 0.0]}
AWAY = np.array([0.4, 0.5, 1.6, 1.0, 0.1, -0.3, 0.02])
ARM = slice(0, 6)


def changed(**keys):
    """Return the simulated arm's contract with other keys."""
    data = {**yaml.safe_load(CONTRACT_PATH.read_text()), **WITH_HOME, **keys}
    return parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml)


def follow_homing(bench, seconds):
    """Plan the next part every 50 ms, as the node does."""
    for _ in range(round(seconds / 0.05)):
        bench.post(bench.executor.continue_homing(bench.clock))
        bench.run(0.05)
        if bench.executor.homing is None:
            return


@pytest.fixture
def bench():
    return Bench(changed())


@pytest.fixture
def away():
    return Bench(changed(), AWAY)


def test_an_arm_that_was_moved_by_hand_moves_home_from_there(bench):
    """The controller needs time to get there: before, homing ended with its second command."""
    bench.send(bench.chunk(FORWARD))
    bench.run(2.5)
    moved = bench.observer.state(bench.now)[0] + np.array([0.3, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0])

    def driver(stamp, position, velocity):
        near = (np.abs(position - moved) < 1e-3).all()
        bench.driver = (lambda *reading: [reading]) if near else driver
        return [(stamp, position if near else moved, velocity)]

    bench.driver = driver
    bench.run(1.5)
    bench.executor.go_home(bench.clock)
    follow_homing(bench, 20.0)
    assert "home pose" in bench.executor.status.reason
    bench.run(0.3)
    assert bench.observer.state(bench.now)[0][ARM] == pytest.approx(HOME[ARM], abs=2e-3)
    assert not bench.violations()


def test_homing_continues_after_its_first_trajectory_came_too_late(away):
    away.executor.go_home(away.clock)
    assert away.executor.continue_homing(away.clock) is not None
    away.executor.withdraw_teleoperation()
    away.run(0.05)
    follow_homing(away, 20.0)
    assert "home pose" in away.executor.status.reason and not away.violations()


def test_the_arm_moves_home_within_limits_and_keeps_its_grasp(away):
    away.executor.go_home(away.clock)
    follow_homing(away, 1.0)
    assert away.executor.status.state is ExecutorState.HOMING
    assert away.executor.status.source is ControlSource.HOME
    follow_homing(away, 20.0)
    away.run(0.3)
    position, speed = away.observer.state(away.now)
    assert position[ARM] == pytest.approx(HOME[ARM], abs=2e-3) and position[6] == AWAY[6]
    assert (speed == 0.0).all() and not away.violations()
    assert away.executor.situation.state is State.HOLDING
    assert "home pose" in away.executor.status.reason


def test_no_joint_exceeds_a_third_of_its_speed_limit(away):
    away.executor.go_home(away.clock)
    fastest = np.zeros(7)
    for _ in range(200):
        follow_homing(away, 0.05)
        fastest = np.maximum(fastest, np.abs(away.observer.state(away.now)[1]))
    assert (fastest <= 0.34 * away.observer.limits.velocity).all()
    assert fastest.max() > 0.0


def test_homing_ends_an_instruction_until_a_new_one(bench):
    keep_moving(bench, 0.6)
    bench.executor.go_home(bench.clock)
    with pytest.raises(ChunkRefused, match=r"home pose.*give an instruction again"):
        bench.send(bench.chunk(FORWARD))
    follow_homing(bench, 20.0)
    with pytest.raises(ChunkRefused, match="home pose"):
        bench.send(bench.chunk(FORWARD))
    bench.send(bench.chunk(FORWARD, epoch=2))
    bench.run(1.0)
    assert not bench.violations()


@pytest.mark.parametrize("what", ["stop", "pause", "deactivate", "operator", "silence"])
def test_a_stop_a_pause_and_an_operator_end_homing(away, what):
    away.executor.go_home(away.clock)
    follow_homing(away, 1.0)
    if what == "stop":
        away.post(away.executor.on_emergency_stop(True, away.clock))
    elif what == "pause":
        away.post(away.executor.pause(True, away.clock))
    elif what == "deactivate":
        away.post(away.executor.deactivate(away.clock))
    elif what == "operator":
        position = away.observer.state(away.now)[0]
        away.post(away.executor.on_teleoperation(away.now, position, np.zeros(7), away.now))
    else:
        away.run(0.6)
    with pytest.raises(MotionRefused):
        follow_homing(away, 0.05)
    assert away.executor.homing is None
    away.run(1.5)
    assert (away.observer.state(away.now)[1] == 0.0).all() and not away.violations()
    assert np.abs(away.observer.state(away.now)[0] - HOME)[ARM].max() > 0.05


def test_homing_can_be_cancelled(away):
    away.executor.go_home(away.clock)
    follow_homing(away, 1.0)
    away.post(away.executor.end_homing(away.clock, "cancelled"))
    away.run(0.6)
    assert (away.observer.state(away.now)[1] == 0.0).all() and not away.violations()
    assert away.executor.status.reason == "cancelled"
    assert away.executor.continue_homing(away.clock) is None


def refusal_of(bench, **arguments):
    with pytest.raises(MotionRefused) as refusal:
        bench.executor.go_home(bench.clock, **arguments)
    assert bench.executor.homing is None
    return str(refusal.value)


def test_homing_is_refused_with_a_reason_if_blocked_or_unknown():
    box = {"name": "post", "lower": [0.2, 0.02, 0.0], "upper": [0.4, 0.1, 1.0]}
    collision = {"boxes": [box]}
    assert "post" in refusal_of(Bench(changed(collision=collision), AWAY))
    assert "add home" in refusal_of(Bench(changed(home=None), AWAY))
    assert "there is no left" in refusal_of(Bench(changed(), AWAY), arms=["left"])
    far = [2.5, 0.4, 1.4, 1.3, 0.0, 0.0]
    assert "workspace" in refusal_of(Bench(changed(home=far), AWAY))


def test_homing_is_refused_while_another_source_has_control(bench):
    bench.executor.on_emergency_stop(True, bench.now)
    assert "latched" in refusal_of(bench)
    bench.executor.on_emergency_stop(False, bench.now)
    bench.executor.reset_emergency_stop(bench.now)
    bench.executor.pause(True, bench.now)
    assert "paused" in refusal_of(bench)
    bench.executor.pause(False, bench.now)
    bench.post(bench.executor.on_teleoperation(bench.now, HOME, np.zeros(7), bench.now))
    assert "operator" in refusal_of(bench)


@pytest.mark.parametrize("seed", range(2))
def test_homing_keeps_limits_with_a_faulty_driver(seed):
    rng = np.random.default_rng(seed)
    bench = Bench(changed(), AWAY)
    bench.driver = FaultyDriver(rng, len(HOME))
    bench.observer.acceleration_allowed = 1.2
    for _ in range(6):
        with contextlib.suppress(MotionRefused):
            bench.executor.go_home(bench.clock)
            follow_homing(bench, 3.0)
        bench.run(0.7)
    bench.run(2.0)
    assert not bench.violations()
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
