"""Tests that nothing moves the arm by itself after it was not allowed to move, and that wrong or
rare joint states at such moments do not make it jump.
"""

import contextlib

import numpy as np
import pytest
from motion_cases import FORWARD, HOME, STAY, Bench, keep_moving, sim_arm, straight
from test_executor_streaming import bench_with, move, stream

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.status import ExecutorState
from sf_policy_node.motion.types import ActionSpace, Trajectory

PERIOD = 0.02  # s, of a leader's commands
SILENT_S = sim_arm().budgets.teleop_age_s
FAST = straight(sim_arm(), (0.02, 0.01, 0.0))
SLOW = straight(sim_arm(), (0.008, 0.0, 0.0))


def lead(bench: Bench, target: np.ndarray, seconds: float) -> list[str]:
    """Send a leader's commands; return the refusals."""
    refused = []
    for _ in range(round(seconds / PERIOD)):
        try:
            bench.post(
                bench.executor.on_teleoperation(bench.clock, target, 0.0 * target, bench.clock)
            )
        except MotionRefused as refusal:
            refused.append(str(refusal))
        bench.run(PERIOD)
    return refused


def plus(joint: int, distance: float) -> np.ndarray:
    away = np.zeros(len(HOME))
    away[joint] = distance
    return away


def acceleration_to(stop: Trajectory, position: np.ndarray, now: float) -> float:
    """Return with which share of the limits a controller that holds ``position`` (J,) begins a
    trajectory; on a cubic that ends stationary the acceleration is 6 d / T^2.
    """
    seconds = max(stop.stamp + stop.times[0] - now, 1e-3)
    needed = 6.0 * np.abs(stop.positions[0] - position) / seconds**2
    return float((needed / JointLimits.of(sim_arm()).acceleration)[:6].max())


# ---- instructions ----


@pytest.mark.parametrize("told_by", ["a chunk", "the policy"])
@pytest.mark.parametrize("known", [True, False])
def test_an_instruction_given_while_inactive_moves_nothing_after_the_activation(known, told_by):
    bench = Bench(sim_arm())
    if known:
        keep_moving(bench, 0.6)
    bench.post(bench.executor.deactivate(bench.now))
    bench.run(0.5)
    if told_by == "a chunk":
        with pytest.raises(ChunkRefused, match="not active"):
            bench.send(bench.chunk(FORWARD, epoch=2))
    else:
        bench.executor.on_policy_state(True, 2, "", bench.now)
    bench.executor.activate(bench.now)
    bench.run(0.1)
    with pytest.raises(ChunkRefused, match="give an instruction again"):
        bench.send(bench.chunk(FORWARD, epoch=2))
    bench.send(bench.chunk(FORWARD, epoch=3))
    bench.run(0.3)
    assert bench.executor.status.state is ExecutorState.EXECUTING and not bench.violations()


# ---- leaders ----


def end_and_allow(bench: Bench, how: str) -> None:
    """Forbid the arm to move and allow it again, as a person does, without a pause."""
    if how == "emergency stop":
        bench.post(bench.executor.on_emergency_stop(True, bench.clock))
        yield
        bench.executor.on_emergency_stop(False, bench.clock)
        bench.executor.reset_emergency_stop(bench.clock)
    else:
        bench.post(bench.executor.deactivate(bench.clock))
        yield
        bench.executor.activate(bench.clock)
    yield


@pytest.mark.parametrize("how", ["emergency stop", "activation"])
def test_a_leader_that_never_paused_must_be_released_before_it_moves_the_arm_again(bench, how):
    target = HOME + plus(0, 0.3)
    assert not lead(bench, target, 0.3)
    steps = end_and_allow(bench, how)
    next(steps)
    assert len(lead(bench, target, 1.0)) == 50
    next(steps)
    still = bench.observer.state(bench.now)[0]
    refused = lead(bench, target, 1.0)
    assert len(refused) == 50 and all("release the leader" in each for each in refused)
    assert (bench.observer.state(bench.now)[0] == still).all()
    bench.run(SILENT_S + 0.05)
    assert not lead(bench, target, 2.0)
    assert bench.observer.state(bench.now)[0][0] == pytest.approx(target[0], abs=0.01)
    assert not bench.violations()


@pytest.mark.parametrize("step", [5.0, -3.0])
def test_a_clock_that_is_set_does_not_release_a_leader_of_a_blocked_arm(bench, step):
    target = HOME + plus(0, 0.3)
    lead(bench, target, 0.3)
    bench.executor.on_controller_lost("the controller was restarted", bench.clock)
    assert lead(bench, target, 0.3)
    bench.set_by += step
    still = bench.observer.state(bench.now)[0]
    refused = lead(bench, target, 2.0)
    assert len(refused) == 100
    assert np.abs(bench.observer.state(bench.now)[0] - still).max() < 1e-3


# ---- joint states ----


@pytest.mark.parametrize("moving", [True, False])
def test_a_wrong_joint_state_in_the_observation_moves_nothing(moving):
    """It reached the policy as well, so the chunk agrees with what the executor received."""
    from motion_cases import contract_for

    contract = contract_for(ActionSpace.JOINT_DELTA)
    bench = Bench(contract)
    data = np.zeros((contract.action.horizon, 7))
    data[:, 6] = 1.0
    if moving:
        ramp = data.copy()
        ramp[:, 0] = 0.03 * np.arange(1, len(data) + 1)
        keep_moving(bench, 0.6, ramp)
    else:
        bench.send(bench.chunk(data))
        bench.run(1.0)
    wrong = plus(1, 0.45)
    bench.driver = lambda stamp, position, velocity: [(stamp, position + wrong, velocity)]
    bench.run(0.005)
    bench.driver = lambda *reading: [reading]
    chunk = bench.chunk(data, reference=bench.measured[-1][1] + wrong)
    bench.run(0.03)
    before = bench.observer.state(bench.now)[0][1]
    with pytest.raises(ChunkRefused, match=r"joint2 is 0\.4.* from where joint2 was commanded"):
        bench.send(chunk)
    bench.run(0.5)
    assert bench.observer.state(bench.now)[0][1] == pytest.approx(before, abs=0.05)
    bench.send(bench.chunk(data))
    assert not bench.violations()


@pytest.mark.parametrize("rate_hz", [20.0, 30.0, 50.0])
def test_a_restarted_controller_is_met_where_it_holds_whatever_the_rate_of_the_driver(rate_hz):
    """The arm stands from some moment on, and no controller reports it."""
    bench = Bench(sim_arm())
    frozen: list[np.ndarray] = []
    due = [0.0]

    def driver(stamp, position, velocity):
        if stamp < due[0]:
            return []
        due[0] = stamp + 1.0 / rate_hz - 1e-9
        return [(stamp, frozen[0] if frozen else position, velocity)]

    bench.driver = driver
    keep_moving(bench, 0.6, FAST)
    frozen.append(bench.observer.state(bench.now)[0])
    bench.observer.sent.clear()
    for _ in range(240):
        with contextlib.suppress(ChunkRefused):
            bench.send(bench.chunk(FAST, reference=frozen[0], age=0.0))
        sent_at = bench.now
        bench.run(0.005)
        if bench.executor.status.state is not ExecutorState.EXECUTING:
            break
    reason = bench.executor.status.reason
    assert "the arm does not move" in reason and "give an instruction again" in reason
    stop = bench.observer.sent[-1]
    assert np.abs(stop.positions[-1] - frozen[0])[:6].max() < 0.02
    assert acceleration_to(stop, frozen[0], sent_at) < 1.05


def test_no_chunk_continues_the_path_of_an_arm_that_stands(bench):
    """Its controller was deactivated and activated, 70 ms apart, and holds position."""
    keep_moving(bench, 0.6, FAST)
    stands = bench.observer.state(bench.now)[0]
    bench.driver = lambda stamp, position, velocity: [(stamp, stands, 0.0 * velocity)]
    bench.run(0.07)
    with pytest.raises(ChunkRefused, match="stopped in the middle of its motion"):
        bench.send(bench.chunk(FAST, reference=stands))


def test_an_arm_that_lags_at_the_start_is_not_taken_for_one_that_stands(bench):
    bench.send(bench.chunk(SLOW))
    late: list[tuple[float, np.ndarray]] = []

    def driver(stamp, position, velocity):
        late.append((stamp, position))
        past = [position for when, position in late if when <= stamp - 0.06]
        return [(stamp, past[-1] if past else HOME, velocity)]

    bench.driver = driver
    for _ in range(12):
        bench.run(0.1)
        seen = bench.executor._guard.monitor.newest[1]
        bench.send(bench.chunk(SLOW, reference=seen))
    assert bench.executor.status.chunks_refused == 0 and not bench.violations()


def test_an_approach_ends_when_joint_states_are_lost(bench):
    """It is unknown whether the controller started at its last command or where it measured."""
    bench.send(bench.chunk(STAY))
    bench.run(2.0)
    bench.offset = bench.offset + plus(0, 0.6)  # by hand
    bench.run(2.0)
    bench.send(bench.chunk(FORWARD, epoch=2))
    assert bench.executor.path.begins > bench.now + 0.5, "the arm is approached"
    bench.joint_states = False
    target = bench.measured[-1][1]  # of a controller that started there
    bench.run(1.5)
    position, velocity = bench.observer.state(bench.now)
    assert (velocity == 0.0).all() and 0.0 < position[0] < 0.5 and not bench.violations()
    assert acceleration_to(bench.observer.sent[-1], target, bench.now - 1.5) < 1.0


# ---- stops ----


def test_a_stop_is_repeated_until_the_arm_stands(bench):
    keep_moving(bench, 0.6, FAST)
    bench.executor.emergency_stop(bench.now)  # lost on the way, as all that follow
    start = bench.observer.state(bench.now)[0]
    moves = [start + plus(0, 0.005 * n) for n in range(2000)]
    bench.driver = lambda stamp, position, velocity: [(stamp, moves.pop(0), velocity)]
    sent = []
    for n in range(1000):
        bench.now, bench.stopwatch = bench.now + 0.005, bench.stopwatch + 0.005
        bench.measure()
        if bench.executor.tick(bench.clock) is not None:
            sent.append(0.005 * n)
    assert len(sent) >= 13 and sent[-1] > 4.0, sent
    assert "does not stop" in bench.executor.status.reason


@pytest.mark.parametrize("stands", [True, False])
def test_the_effect_of_a_streamed_stop_is_watched(stands):
    bench = bench_with("forward_command")
    move(bench)
    begin = bench.now
    before = bench.measured[-1][1]
    if not stands:  # the arm is moved by something else
        bench.driver = lambda stamp, position, velocity: [
            (stamp, before + plus(0, 0.3 * (stamp - begin)), velocity)
        ]
    bench.post(bench.executor.emergency_stop(bench.now))
    stream(bench, 1.5)
    assert ("does not stop" in bench.executor.status.reason) is not stands


def test_a_report_from_before_the_end_of_a_motion_accuses_nobody(bench):
    keep_moving(bench, 0.6, FAST)
    while bench.executor.path.end > bench.now + 0.03:
        bench.run(0.005)
    late = bench.now - 0.02
    bench.executor.on_controller_reference(late, *bench.executor.path.state(late))
    bench.run(0.065)
    assert not bench.executor.path.state(bench.now)[1].any()
    bench.send(bench.chunk(FORWARD))
