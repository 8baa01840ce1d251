"""Streamed commands: for an arm, or only for a gripper while the arm follows trajectories."""

import contextlib

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import CONTRACT_PATH, FORWARD, HOME, Bench, sim_arm, straight
from streamed_arm import StreamedArm

from sf_policy_node.contract import parse_contract
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.status import ExecutorState

TICK = 0.02


def bench_with(output: str, **command) -> Bench:
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["command"].update(output=output, **command)
    return Bench(parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml))


def stream(bench: Bench, seconds: float) -> list[np.ndarray]:
    """Return the positions that are streamed; the bench's arm follows trajectories instead."""
    streamed = []
    for _ in range(round(seconds / TICK)):
        bench.run(TICK)
        setpoint = bench.executor.setpoint(bench.clock)
        if setpoint is not None:
            streamed.append(setpoint.positions)
    return streamed


def move(bench: Bench, chunks: int = 2) -> None:
    for _ in range(chunks):
        bench.send(bench.chunk(straight(sim_arm(), (0.02, 0.0, 0.0)), age=0.1))
        stream(bench, 0.3)


@pytest.mark.parametrize("chunk_at_once", [True, False])
def test_after_a_reactivation_the_earlier_motion_is_not_streamed(chunk_at_once):
    bench = bench_with("forward_command")
    move(bench)
    bench.post(bench.executor.deactivate(bench.now))
    bench.run(1.0)
    bench.offset = bench.offset + np.array([0.3, 0, 0, 0, 0, 0, 0])  # it has been moved by hand
    bench.run(1.3)
    bench.executor.activate(bench.now)
    if not chunk_at_once:
        assert not stream(bench, 0.1)
    bench.executor.on_chunk(bench.chunk(straight(sim_arm(), (0.0, 0.01, 0.0)), epoch=2), bench.now)
    measured = bench.measured[-1][1]
    bench.now, bench.stopwatch = bench.now + TICK, bench.stopwatch + TICK
    setpoint = bench.executor.setpoint(bench.now)
    assert setpoint is not None and np.abs(setpoint.positions - measured)[:6].max() < 0.01


def test_an_arm_with_trajectories_continues_after_a_stall_and_can_be_stopped():
    gripper = {"output": "forward_command", "topic": "/gripper_controller/commands"}
    bench = bench_with("joint_trajectory", gripper=gripper)
    move(bench)
    bench.send(bench.chunk(straight(sim_arm(), (0.02, 0.0, 0.0)), age=0.1))
    stream(bench, 0.1)
    bench.run(0.15)  # the process was busy: no cycle was streamed
    commanded, _ = bench.executor.path.state(bench.now)
    setpoint = bench.executor.setpoint(bench.now)
    assert setpoint.positions == pytest.approx(commanded)
    assert "was suspended" not in bench.executor.status.reason
    stop = bench.executor.emergency_stop(bench.now)
    assert stop is not None
    bench.post(stop)
    bench.run(0.6)
    assert (bench.observer.state(bench.now)[1] == 0.0).all() and not bench.violations()


def test_streamed_commands_brake_after_a_clock_jump():
    bench = bench_with("forward_command")
    move(bench, chunks=3)
    before = bench.executor.setpoint(bench.clock)
    bench.set_by = 30.0
    bench.run(0.02)
    after = bench.executor.setpoint(bench.clock)
    assert (
        np.abs(after.positions - before.positions).max()
        <= 0.03 * np.abs(before.velocities).max() + 1e-6
    )
    bench.run(0.4)
    assert (bench.observer.state(bench.now)[1] == 0.0).all() and not bench.violations()


def test_nothing_is_streamed_before_the_first_chunk():
    bench = bench_with("forward_command")
    assert not stream(bench, 0.2)
    bench.send(bench.chunk(FORWARD))
    assert np.abs(stream(bench, 0.04)[0] - HOME)[:6].max() < 0.01


def test_streamed_commands_follow_the_path_and_end_with_it():
    bench = bench_with("forward_command")
    bench.send(bench.chunk(FORWARD))
    sent = []
    for _ in range(120):
        bench.run(0.02)
        setpoint = bench.executor.setpoint(bench.now)
        if setpoint is not None:
            sent.append((bench.now, setpoint))
            assert np.allclose(setpoint.positions, bench.observer.state(bench.now)[0], atol=1e-9)
    assert (sent[-1][1].velocities == 0.0).all()
    assert len(sent) < 100
    assert bench.executor.setpoint(bench.now) is None


def test_a_process_suspended_during_a_motion_holds_its_last_command():
    bench = bench_with("forward_command")
    bench.send(bench.chunk(FORWARD))
    for _ in range(15):
        bench.run(0.02)
        last = bench.executor.setpoint(bench.now)
    bench.run(0.3)
    after = bench.executor.setpoint(bench.now)
    assert (after.positions == last.positions).all() and (after.velocities == 0.0).all()
    assert "this process was suspended for 0.30 s" in bench.executor.status.reason
    assert bench.executor.status.state is ExecutorState.HOLDING


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rate=st.sampled_from([50.0, 100.0, 200.0]))
def test_streamed_commands_never_jump(seed, rate):
    """Send random chunks, stops, late cycles and a clock that goes back a little.

    A controller that holds each command until the next one sees no step beyond a joint's top speed,
    and no change between steps beyond its acceleration.
    """
    rng = np.random.default_rng(seed)
    bench = bench_with("forward_command", rate_hz=rate)
    limits, period = bench.observer.limits, 1.0 / rate
    before, step = None, None
    for n in range(300):
        if n % 37 == 0:
            rows = FORWARD * np.append(rng.normal(0.0, 1.0, 3), 1.0)
            rows[:, 3] = rng.integers(0, 2)
            with contextlib.suppress(ChunkRefused):
                bench.send(bench.chunk(rows, age=0.05))
        if rng.random() < 0.01:
            bench.post(bench.executor.pause(True, bench.clock))
            bench.executor.pause(False, bench.clock)
        late = float(rng.choice([period, 0.03, 0.055], p=[0.94, 0.03, 0.03]))
        if rng.random() < 0.01:
            bench.set_by -= 0.04
        bench.run(late)
        setpoint = bench.executor.setpoint(bench.clock)
        # The controller holds the last command.
        if setpoint is None or "was suspended" in bench.executor.status.reason:
            before = step = None
            continue
        if before is not None:
            after = setpoint.positions - before
            # Cycles take 1.2 periods on average here, and lateness is caught up at 1.05.
            assert (np.abs(after) <= 1.35 * limits.velocity * period + 1e-9).all()
            if step is not None:
                assert (np.abs(after - step) <= 1.7 * limits.acceleration * period**2 + 1e-9).all()
            step = after
        before = setpoint.positions


@pytest.mark.parametrize("late", [0.05, -0.045])
def test_a_late_cycle_or_a_clock_that_goes_back_is_caught_up_inside_the_limits(late):
    """Without it: 6.2 rad/s after a cycle 50 ms late, -4.3 after a clock 45 ms back; limit 2."""
    bench = bench_with("forward_command")
    move(bench, chunks=3)
    streamed = [bench.executor.setpoint(bench.clock).positions]
    if late > 0.0:
        bench.run(late)
    else:
        bench.set_by += late
    streamed += stream(bench, 1.4)
    speeds = np.diff(streamed, axis=0) / TICK
    assert (np.abs(speeds) <= 1.05 * bench.observer.limits.velocity).all()
    changes = np.abs(np.diff(speeds, axis=0)) / TICK
    assert (changes <= 1.2 * bench.observer.limits.acceleration).all()
    assert np.abs(speeds[-1]).max() < 0.01


@pytest.mark.parametrize("rate", [50.0, 250.0])
@pytest.mark.parametrize("suspended_s", [0.04, 0.1, 0.3, 2.0])
@pytest.mark.parametrize("chunk_first", [False, True])
def test_a_process_suspended_before_the_first_command_of_a_motion_starts_no_leap(
    rate, suspended_s, chunk_first
):
    """Before, the first command was where the arm should be by then: 0.36 rad away after 0.3 s."""
    bench = bench_with("forward_command", rate_hz=rate)
    fast = straight(sim_arm(), (0.02, 0.01, 0.0))
    bench.run(0.3)
    bench.executor.on_chunk(bench.chunk(fast), bench.clock)
    bench.now, bench.stopwatch = bench.now + suspended_s, bench.stopwatch + suspended_s
    bench.measure()
    if chunk_first:  # it was received before the cycle that is overdue
        with contextlib.suppress(ChunkRefused):
            bench.executor.on_chunk(bench.chunk(fast), bench.clock)
    commands = [HOME]
    for _ in range(round(0.2 * rate)):
        if (setpoint := bench.executor.setpoint(bench.clock)) is not None:
            commands.append(setpoint.positions)
        bench.now, bench.stopwatch = bench.now + 1.0 / rate, bench.stopwatch + 1.0 / rate
        bench.measure()
        bench.executor.tick(bench.clock)
    steps = np.abs(np.diff(commands, axis=0)) * rate
    assert (steps <= 1.1 * bench.observer.limits.velocity).all()
    assert (steps[0] <= 1.05 * bench.observer.limits.acceleration / rate).all()
    if suspended_s > 0.2:
        assert "was suspended" in bench.executor.status.reason


STOPS = {
    "deactivated": lambda arm: arm.deactivate(),
    "paused": lambda arm: arm.executor.pause(True, arm.now),
    "emergency stop": lambda arm: arm.executor.emergency_stop(arm.now),
    "policy ended": lambda arm: arm.executor.on_policy_state(False, 1, "ended", arm.now),
    "shut down": lambda arm: arm.executor.shut_down(arm.now),
    "paused, then deactivated": lambda arm: (
        arm.executor.pause(True, arm.now),
        arm.run(0.02),
        arm.deactivate(),
    ),
}


@pytest.mark.parametrize("rate", [50.0, 250.0])
@pytest.mark.parametrize("suspended_s", [0.0, 0.05, 0.08, 0.3])
@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_after_a_stall_begins_at_the_last_command(rate, suspended_s, stop):
    """Before, a deactivation 0.3 s late made the arm jump by 0.35 rad in one cycle."""
    arm = StreamedArm(rate)
    arm.follow()
    arm.run(0.3)
    arm.follow()
    arm.run(0.2)
    if suspended_s:
        arm.wait(suspended_s)
    count = len(arm.commands)
    STOPS[stop](arm)
    arm.run(0.6)
    limits = arm.executor._guard.limits
    if suspended_s > 0.06:  # the arm has stopped there
        assert all((command == arm.commands[count - 1]).all() for command in arm.commands[count:])
        return
    # The arm's first command is where it was measured. A late command moves on by one period.
    periods = np.minimum(np.diff(arm.times[1:]), arm.period)[:, None]
    speeds = np.diff(arm.commands[1:], axis=0) / periods
    assert (np.abs(speeds) <= 1.1 * limits.velocity).all()
    if rate * suspended_s < 2.0:  # at 50 Hz, the cycle after it is too late
        changes = np.abs(np.diff(speeds, axis=0)) / arm.period
        assert (changes <= 1.3 * limits.acceleration).all()
        assert (np.abs(speeds[-1]) <= 1.1 * limits.acceleration * arm.period).all()
    assert not arm.executor._guard.moving(arm.now)


@pytest.mark.parametrize("rate", [50.0, 250.0])
@pytest.mark.parametrize("suspended_s", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("moved_s", [0.1, 0.2, 0.4])
def test_after_a_deactivation_in_motion_the_next_motion_starts_at_the_last_command(
    rate, suspended_s, moved_s
):
    """Before, it started where servos that droop were measured: a step by the droop."""
    arm = StreamedArm(rate)
    arm.follow()
    arm.run(0.3)
    arm.follow()
    arm.run(moved_s)
    if suspended_s:
        arm.wait(suspended_s)
    arm.deactivate()
    arm.run(1.5)
    last = len(arm.commands) - 1
    arm.activate()
    arm.run(0.3)
    arm.follow(straight(sim_arm(), (0.0, 0.01, 0.0)), epoch=2)
    arm.run(0.1)
    assert np.abs(arm.commands[last + 1] - arm.commands[last]).max() < 1e-3
