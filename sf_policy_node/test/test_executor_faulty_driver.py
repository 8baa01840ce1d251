"""With any joint states from a faulty driver, every command starts at the last one and keeps the
limits.
"""

import contextlib
import os

import numpy as np
import pytest
from faulty_driver import FaultyDriver
from motion_cases import FORWARD, HOME, Bench, keep_moving, sim_arm, straight
from test_executor_random import CONTRACTS, random_rows

from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.state_machine import State
from sf_policy_node.motion.status import ExecutorState

# The seeds of the sequences are 0 to this number.
SEQUENCES = int(os.environ.get("SF_LYING_SEQUENCES", "5000"))
PARTS = 10  # tests among which the sequences are divided, for several processes
FAST = straight(sim_arm(), (0.01, 0.02, 0.0))  # stays in reach of the arm


def act(bench, rng, target):
    """Do one random action of a policy or an operator."""
    executor, kinds = bench.executor, ["chunk", "lead", "stop", "pause", "activate", "clock"]
    kind = rng.choice(kinds, p=[0.55, 0.3, 0.05, 0.04, 0.03, 0.03])
    if kind == "chunk":
        rows = random_rows(bench.contract, rng, rng.choice([0.3, 1.0]))
        measured = bench.measured[-1][1]
        bench.send(
            bench.chunk(rows, age=0.05, epoch=bench.sequence, reference=measured),
            transit=rng.uniform(0.0, 0.015),
        )
    elif kind == "lead":
        target += rng.normal(0.0, 0.03, len(target))
        if rng.random() < 0.1:
            target = np.zeros_like(target)
        for _ in range(rng.integers(1, 15)):
            bench.post(
                executor.on_teleoperation(bench.clock, target, np.zeros(len(target)), bench.clock)
            )
            bench.run(0.02)
    elif kind == "stop":
        bench.post(executor.on_emergency_stop(True, bench.clock))
        bench.run(rng.uniform(0.0, 0.4))
        executor.on_emergency_stop(False, bench.clock)
        executor.reset_emergency_stop(bench.clock)
    elif kind == "pause":
        bench.post(executor.pause(True, bench.clock))
        bench.run(rng.uniform(0.0, 0.3))
        bench.post(executor.pause(False, bench.clock))
    elif kind == "activate":
        bench.post(executor.deactivate(bench.clock))
        bench.run(rng.uniform(0.3, 0.5))
        executor.activate(bench.clock)
    else:
        bench.set_by += rng.choice([-3.0, 5.0])


def violations_of_a_sequence(contract, seed):
    """Return the limits that a random sequence of readings and actions breaks."""
    rng = np.random.default_rng(seed)
    bench = Bench(contract, start=float(rng.choice([10.0, 1.7e9])), step=0.01)
    bench.driver = FaultyDriver(rng, len(HOME))
    # A controller may start from wrongly measured joints, which exceeds the limit a little.
    bench.observer.acceleration_allowed = 1.2
    # In an emergency stop while a set clock settles a closing gripper overshoots by up to 2.5 mm.
    bench.observer.slack = np.where(bench.observer.limits.is_gripper, 3e-3, bench.observer.slack)
    target = HOME.copy()
    for _ in range(rng.integers(4, 14)):
        with contextlib.suppress(MotionRefused, ValueError):
            act(bench, rng, target)
        bench.run(float(rng.choice([0.02, 0.1, 0.3])))
    for _ in range(20):
        bench.run(0.3)
        if bench.now > bench.observer.at_rest_after + 0.3:
            break
    moves = (bench.observer.state(bench.now)[1] != 0.0).any()
    return bench.violations() + (["it does not come to rest"] if moves else [])


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.slow
def test_no_sequence_of_readings_makes_the_executor_break_a_limit(part):
    broken = {
        seed: found
        for seed in range(part, SEQUENCES, PARTS)
        if (found := violations_of_a_sequence(CONTRACTS[seed % len(CONTRACTS)], seed))
    }
    assert not broken


def report_wrong_joints(bench, seconds, change):
    """Let the driver report wrong joints for ``seconds`` from now on."""
    until = bench.now + seconds

    def driver(stamp, position, velocity):
        return [(stamp, change(position) if bench.now <= until else position, velocity)]

    bench.driver = driver


def plus(*beside):
    return lambda position: position + np.array([*beside, *[0.0] * (7 - len(beside))])


@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.4])
@pytest.mark.parametrize(
    "change", [plus(1.0), plus(0.0, -0.6, 0.4), np.zeros_like, plus(-0.8, 0.8, 0.8, 0.8, 0.8, 0.8)]
)
def test_a_jump_that_is_impossible_for_an_arm_is_a_sensor_fault(bench, seconds, change):
    keep_moving(bench, 0.6, FAST)
    report_wrong_joints(bench, seconds, change)
    bench.run(0.6)
    assert (bench.observer.state(bench.now)[1] == 0.0).all() and not bench.violations()
    status = bench.executor.status
    assert bench.executor.situation.state is State.BLOCKED and status.state is ExecutorState.HOLDING
    assert "sensor" in status.reason and "is measured" in status.reason
    bench.driver = lambda *reading: [reading]
    bench.run(1.5)
    with pytest.raises(ChunkRefused, match=r"sensor.*give an instruction again"):
        bench.send(bench.chunk(FORWARD))
    bench.send(bench.chunk(FORWARD, epoch=2))


def test_one_wrong_reading_does_not_change_where_a_motion_starts(bench):
    bench.send(bench.chunk(FORWARD))
    bench.run(2.5)
    for wrong in (plus(0.0, -0.4), plus(0.0, 0.3), np.zeros_like):
        report_wrong_joints(bench, 0.005, wrong)
        bench.run(0.005)
        with contextlib.suppress(ChunkRefused):
            bench.send(
                bench.chunk(
                    straight(sim_arm(), (-0.005, 0.0, 0.0)),
                    reference=bench.observer.state(bench.now)[0],
                )
            )
        bench.run(0.5)
    assert not bench.violations()


@pytest.mark.parametrize("led_by", ["chunk", "operator"])
@pytest.mark.parametrize("droop", [0.06, 0.2])
def test_a_drooping_servo_is_not_commanded_to_its_measured_position_and_the_gripper_keeps_its_grip(
    bench, led_by, droop
):
    closed = straight(sim_arm(), (0.005, 0.0, 0.0), opening=0.0)
    bench.send(bench.chunk(closed))
    bench.run(2.5)
    commanded = bench.observer.state(bench.now)[0]
    for share in np.linspace(0.05, 1.0, 20):
        bench.offset = share * np.array([0.0, droop, -0.5 * droop, 0.0, 0.0, 0.0, 0.02])
        bench.run(0.01)
    bench.run(0.1)
    if led_by == "chunk":
        trajectory = bench.send(bench.chunk(closed, reference=bench.measured[-1][1]))
        assert trajectory.positions[0] == pytest.approx(commanded, abs=1e-6)
    else:
        for _ in range(10):
            bench.post(
                bench.executor.on_teleoperation(bench.now, commanded, np.zeros(7), bench.now)
            )
            bench.run(0.02)
    for _ in range(50):
        bench.run(0.02)
        assert bench.observer.state(bench.now)[0][6] == pytest.approx(0.0, abs=1e-6)
    assert not bench.violations()


@pytest.mark.parametrize("turns", [1, -1])
def test_a_driver_that_wraps_angles_is_reported_when_stationary_and_in_motion(bench, turns):
    keep_moving(bench, 0.6, FAST)
    report_wrong_joints(bench, np.inf, plus(2.0 * np.pi * turns))
    bench.run(0.6)
    assert "full turn" in bench.executor.status.reason and "joint1" in bench.executor.status.reason
    bench.run(2.0)
    with pytest.raises(ChunkRefused, match=r"joint1 is measured 6\.28 rad .* full turn"):
        bench.send(
            bench.chunk(
                FORWARD,
                epoch=2,
                reference=bench.observer.state(bench.now)[0] + 2 * np.pi * turns * np.eye(7)[0],
            )
        )
    assert not bench.violations()


def test_an_arm_moved_by_hand_starts_where_it_was_left_once_it_is_stationary(bench):
    bench.send(bench.chunk(FORWARD))
    bench.run(2.5)
    moved = np.zeros(7)

    def driver(stamp, position, velocity):
        return [(stamp, position + moved, velocity)]

    bench.driver = driver
    for _ in range(50):  # 0.5 rad in half a second
        moved = moved + [0.01, 0, 0, 0, 0, 0, 0]
        bench.run(0.01)
    reference = bench.observer.state(bench.now)[0] + moved
    with pytest.raises(ChunkRefused, match=r"stationary for 0\.2 s"):
        bench.send(bench.chunk(FORWARD, reference=reference))
    bench.run(0.3)
    trajectory = bench.send(
        bench.chunk(straight(sim_arm(), (-0.01, 0.0, 0.0)), reference=reference)
    )
    assert trajectory.positions[0] == pytest.approx(reference, abs=1e-6)
    assert trajectory.stamp + trajectory.times[0] - bench.now > 0.3, (
        "the controller is given time for the way"
    )
    bench.run(0.2)
    assert not bench.violations()


@pytest.mark.parametrize("later", [0.9, 6.0])
@pytest.mark.parametrize("jump", [0.5, 0.1])
@pytest.mark.parametrize("rested_s", [0.01, 0.09, 1.5])
def test_a_stationary_arm_whose_joint_states_jump_starts_there_once_they_are_steady(
    bench, rested_s, jump, later
):
    """A reset of the simulated arm does this: its controller holds another position, unreported."""
    bench.send(bench.chunk(FORWARD))
    bench.run(bench.executor.path.end - bench.now + rested_s)
    bench.offset = np.array([jump, 0, 0, 0, 0, 0, 0])
    bench.run(0.3)
    reference = bench.observer.state(bench.now)[0] + bench.offset
    with pytest.raises(ChunkRefused, match=r"stationary for 1 s"):
        bench.send(bench.chunk(FORWARD, reference=reference))
    bench.run(later)
    trajectory = bench.send(
        bench.chunk(straight(sim_arm(), (-0.01, 0.0, 0.0)), reference=reference)
    )
    assert trajectory.positions[0] == pytest.approx(reference, abs=1e-6)
    assert trajectory.stamp + trajectory.times[0] > bench.now + 0.1


@pytest.mark.parametrize("after_s", [0.1, 0.3])
def test_a_stop_ends_the_motion_to_a_position_that_was_measured_wrongly(bench, after_s):
    """The driver reports wrong joints long enough to be accepted, then that the arm moves."""
    bench.send(bench.chunk(FORWARD))
    bench.run(2.5)
    before = bench.observer.state(bench.now)[0]
    bench.offset = np.array([0.4, 0.3, 0, 0, 0, 0, 0])
    bench.run(1.0)
    reference = before + bench.offset
    bench.send(bench.chunk(straight(sim_arm(), (-0.01, 0.0, 0.0)), reference=reference))
    bench.run(0.2)
    bench.offset = np.zeros(7)
    bench.run(after_s)
    bench.post(bench.executor.on_emergency_stop(True, bench.now))
    bench.run(0.3)
    position, speed = bench.observer.state(bench.now)
    assert (speed == 0.0).all() and not bench.violations()
    assert np.abs(position - reference).max() > 0.05, "it stopped before the wrong position"


@pytest.mark.parametrize("led_by", ["chunk", "operator"])
def test_a_displaced_arm_starts_where_measured_after_a_withdrawn_motion(bench, led_by):
    bench.send(bench.chunk(FORWARD))
    bench.run(2.5)
    bench.offset = np.array([0.16, 0, 0, 0, 0, 0, 0])
    bench.run(1.3)
    reference = bench.observer.state(bench.now)[0] + bench.offset
    chunk = straight(sim_arm(), (-0.01, 0.0, 0.0))
    for withdrawn in (True, True, False):
        if led_by == "chunk":
            sent = bench.executor.on_chunk(bench.chunk(chunk, reference=reference), bench.now)
        else:
            sent = bench.executor.on_teleoperation(bench.now, reference, np.zeros(7), bench.now)
        assert sent.positions[0] == pytest.approx(reference, abs=1e-6)
        assert sent.stamp + sent.times[0] > bench.now + 0.1, "the controller may be elsewhere"
        if withdrawn:
            bench.executor.withdraw(
                "late"
            ) if led_by == "chunk" else bench.executor.withdraw_teleoperation()
            bench.run(0.05)


def test_a_controller_that_does_not_move_is_not_commanded_to_jump_back_to_its_path(bench):
    """It was deactivated and activated again, so it holds its position; this was not reported."""
    keep_moving(bench, 0.3, FAST)
    held = bench.observer.state(bench.now)[0]
    bench.driver = lambda stamp, position, velocity: [(stamp, held, 0.0 * velocity)]
    sent = len(bench.observer.sent)
    bench.run(0.5)
    stop = bench.observer.sent[sent]
    assert stop.positions[0] == pytest.approx(held, abs=1e-6)
    assert stop.stamp + stop.times[0] - bench.received[sent] > 0.2, (
        "the limits hold from that position and from the path"
    )
    assert "does not move" in bench.executor.status.reason and not bench.violations()


def test_an_arm_whose_speed_is_scaled_down_is_reported(bench):
    keep_moving(bench, 0.3, FAST)
    path_time, rate = bench.now, 0.5

    def driver(stamp, position, velocity):
        return [
            (
                stamp,
                bench.executor.path.state(path_time + rate * (bench.now - path_time))[0],
                velocity,
            )
        ]

    bench.driver = driver
    for _ in range(100):
        bench.run(0.01)
        if "too slowly" in bench.executor.status.reason:
            break
    assert "speed scaling" in bench.executor.status.reason and not bench.violations()


def test_a_controller_whose_reported_reference_leaves_the_path_stops_the_arm(bench):
    keep_moving(bench, 0.6, FAST)
    position = bench.observer.state(bench.now)[0]
    bench.driver = lambda stamp, measured, velocity: [(stamp, position, 0.0 * velocity)]
    sent = len(bench.observer.sent)
    for _ in range(40):
        bench.executor.on_controller_reference(bench.now, position, np.zeros(7))
        bench.run(0.005)
    assert len(bench.observer.sent) == sent, "the controller holds position on its own"
    assert "the controller commands" in bench.executor.status.reason
    with pytest.raises(ChunkRefused, match="give an instruction again"):
        bench.send(bench.chunk(FORWARD))


def test_a_motion_starts_where_the_controller_reports_to_hold_position(bench):
    bench.send(bench.chunk(FORWARD))
    bench.run(2.5)
    position = bench.observer.state(bench.now)[0] + [0.1, 0, 0, 0, 0, 0, 0]
    bench.executor.on_controller_reference(bench.now, position, np.zeros(7))
    trajectory = bench.executor.on_chunk(
        bench.chunk(straight(sim_arm(), (-0.01, 0.0, 0.0))), bench.now
    )
    assert trajectory.positions[0] == pytest.approx(position)
    bench.executor.on_controller_reference(bench.now, position, np.full(7, 0.3))
    bench.executor.deactivate(bench.now)
    bench.executor.activate(bench.now)
    bench.run(0.4)
    bench.executor.on_controller_reference(bench.now, position, np.full(7, 0.3))
    with pytest.raises(ChunkRefused, match="commanded by another publisher"):
        bench.send(bench.chunk(FORWARD, epoch=2))


def operate(bench, target):
    bench.post(bench.executor.on_teleoperation(bench.now, target, np.zeros(7), bench.now))


def test_the_newest_reading_may_be_the_wrong_one_and_starts_no_slow_motion(bench):
    bench.send(bench.chunk(FORWARD))
    bench.run(2.5)
    target = bench.observer.state(bench.now)[0] + np.array([0.02, 0, 0, 0, 0, 0, 0])
    report_wrong_joints(bench, 0.005, plus(0.0, 0.0, 1.4))
    bench.run(0.005)
    with pytest.raises(MotionRefused, match="joint3 is measured"):
        operate(bench, target)
    bench.run(0.02)
    operate(bench, target)
    bench.run(0.2)
    assert np.abs(bench.observer.state(bench.now)[0] - target).max() < 0.02
    assert not bench.violations()


@pytest.mark.parametrize("burst_s", [0.15, 0.5])
def test_a_burst_of_wrong_readings_before_the_first_motion_is_not_where_it_starts(burst_s):
    """No controller reports its reference, and nothing was commanded yet."""
    bench = Bench(sim_arm())
    bench.executor.on_controller_reference(bench.now, np.full(7, np.nan), np.zeros(7))
    bench.run(0.5)
    report_wrong_joints(bench, burst_s, np.zeros_like)
    bench.run(burst_s)
    with pytest.raises(MotionRefused, match="stationary for 1 s"):
        operate(bench, HOME)
    bench.run(1.1)
    operate(bench, HOME)
    bench.run(1.0)
    assert not bench.violations()


def test_a_clock_jump_does_not_hide_a_jump_of_the_joint_states():
    """Before, the arm was led to where it was measured wrongly, at up to 9 times the limit."""
    bench = Bench(sim_arm())
    bench.run(0.5)
    report_wrong_joints(bench, 1.0, np.zeros_like)
    bench.run(0.1)
    bench.set_by += 5.0
    bench.run(0.5)
    with pytest.raises(ChunkRefused, match="stationary for 1 s"):
        bench.send(bench.chunk(FORWARD, reference=np.zeros(7)))
    bench.run(2.0)
    bench.send(bench.chunk(FORWARD))
    bench.run(1.5)
    assert not bench.violations()


def test_on_the_way_to_the_measured_position_new_chunks_wait(bench):
    """The controller would bridge again, from measured joints that lag behind its command."""
    bench.send(bench.chunk(FORWARD))
    bench.run(2.5)
    bench.offset = np.array([0.0, 0.16, 0, 0, 0, 0, 0])
    bench.run(1.3)
    reference = bench.observer.state(bench.now)[0] + bench.offset
    chunk = straight(sim_arm(), (-0.01, 0.0, 0.0))
    first = bench.send(bench.chunk(chunk, reference=reference))
    begins = first.stamp + first.times[0]
    bench.run(begins - bench.now - 0.02)
    with pytest.raises(ChunkRefused, match="moves to where it was measured"):
        bench.send(bench.chunk(chunk))
    bench.run(0.06)
    bench.send(bench.chunk(chunk))
    assert not bench.violations()


def test_a_clock_that_is_set_back_right_after_the_activation_is_noticed(bench):
    """A controller's report from before would count as fresh when that time comes again."""
    bench.set_by = -3.0
    bench.run(0.05)
    assert "clock went back by 3.0" in bench.executor.status.reason


@pytest.mark.parametrize("suspended_s", [0.3, 0.6])
def test_a_stop_planned_with_a_late_simulated_clock_does_not_lead_the_arm_back(suspended_s):
    """A process that was suspended receives the newest joint state before the newest clock."""
    bench = Bench(sim_arm(), simulated=True)
    keep_moving(bench, 0.6, FAST)
    bench.send(bench.chunk(FAST))
    late_clock = bench.clock + 0.02
    bench.now, bench.stopwatch = bench.now + suspended_s, bench.stopwatch + suspended_s
    bench.measure()
    bench.post(bench.executor.tick(late_clock))
    assert "in the future" in bench.executor.status.reason
    bench.run(1.0)
    assert not bench.violations()


def test_messages_that_overtake_a_simulated_clock_are_no_fault():
    """On a busy computer each clock message may be late; a stop must not be late by as much."""
    bench = Bench(sim_arm(), simulated=True)
    keep_moving(bench, 0.6, FAST)
    bench.send(bench.chunk(FAST))
    known, late_s = bench.clock, 0.06
    for _ in range(12):
        bench.now, bench.stopwatch = bench.now + 0.02, bench.stopwatch + 0.02
        bench.measure()
        known = max(known, bench.clock - late_s)
        bench.post(bench.executor.tick(known))
        assert bench.executor.status.state is ExecutorState.EXECUTING
    bench.post(bench.executor.on_chunk(bench.chunk(FAST), known))
    stop = bench.executor.on_emergency_stop(True, known)
    speeds = np.abs(stop.velocities).max(axis=1)
    brakes = stop.stamp + stop.times[np.flatnonzero(speeds < speeds[0] - 1e-6)[0] - 1]
    assert brakes - bench.clock > 0.04  # in time for a message that is under way for a while
    bench.post(stop)
    bench.run(1.0)
    assert not bench.violations()


def test_a_stop_of_one_point_is_not_sent_again_on_the_way_there(bench):
    """Its controller would bridge again, from measured joints that lag: 80 times the limit."""
    keep_moving(bench, 0.6, FAST)
    bench.set_by += 5.0
    bench.run(0.05)
    stop = bench.executor.on_emergency_stop(True, bench.clock)
    bench.post(stop)
    begins, sent = stop.stamp + stop.times[0], len(bench.observer.sent)
    assert begins > bench.clock + 0.15
    while bench.clock < begins + 0.02:
        bench.post(bench.executor.on_emergency_stop(True, bench.clock))
        bench.run(0.01)
        assert len(bench.observer.sent) == sent
    bench.run(0.3)
    assert (bench.observer.state(bench.now)[1] == 0.0).all() and not bench.violations()
