"""Control arbitration: the policy's state, pauses, deadlines, shadow mode and counts."""

import contextlib
import dataclasses

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import CONTRACT_PATH, FORWARD, HOME, Bench, contract_for, keep_moving, sim_arm

from sf_policy_node.contract import ActionSpace, parse_contract
from sf_policy_node.motion.cycles import Cycles
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.shadow import ShadowScore
from sf_policy_node.motion.status import ExecutorState
from sf_policy_node.motion.types import ControlSource


@pytest.fixture
def bench():
    return Bench(sim_arm())


def at_rest(bench):
    return bool((bench.observer.state(bench.now)[1] == 0.0).all())


# ---- the policy ends or pauses ----


def test_the_arm_stops_when_the_policy_ends_its_instruction_and_late_chunks_are_refused(
    bench,
):
    keep_moving(bench, 0.6)
    late = bench.chunk(FORWARD, age=0.1)
    bench.post(
        bench.executor.on_policy_state(False, 1, "stopped: cancelled by the client", bench.now)
    )
    with pytest.raises(ChunkRefused, match="its instruction has ended"):
        bench.send(late)
    assert bench.executor.status.reason.startswith("refused chunk")
    bench.run(0.35)
    assert at_rest(bench) and not bench.violations()
    bench.send(bench.chunk(FORWARD, epoch=2))
    assert bench.executor.status.state is ExecutorState.EXECUTING


def test_the_first_chunk_of_an_already_cancelled_instruction_is_refused(
    bench,
):
    late = bench.chunk(FORWARD, epoch=7)
    assert (
        bench.executor.on_policy_state(False, 7, "stopped: cancelled by the client", bench.now)
        is None
    )
    with pytest.raises(ChunkRefused, match="its instruction has ended"):
        bench.send(late)
    bench.send(bench.chunk(FORWARD, epoch=8))
    assert bench.executor.status.state is ExecutorState.EXECUTING


def test_the_status_of_an_earlier_instruction_stops_nothing(bench):
    bench.send(bench.chunk(FORWARD, epoch=5))
    assert bench.executor.on_policy_state(False, 4, "stopped: replaced", bench.now) is None
    assert bench.executor.on_policy_state(True, 5, "", bench.now) is None
    assert bench.executor.status.state is ExecutorState.EXECUTING


# ---- pause ----


def test_a_pause_stops_the_arm_and_only_a_chunk_observed_after_it_moves_it_again(bench):
    keep_moving(bench, 0.6)
    bench.post(bench.executor.pause(True, bench.now))
    old = bench.chunk(FORWARD)
    with pytest.raises(ChunkRefused, match="paused"):
        bench.send(old)
    bench.run(0.35)
    assert at_rest(bench)
    assert bench.executor.status.state is ExecutorState.PAUSED
    bench.post(bench.executor.pause(False, bench.now))
    with pytest.raises(ChunkRefused, match="observation is from before"):
        bench.send(old)
    bench.run(0.01)
    bench.send(bench.chunk(FORWARD))
    bench.run(0.3)
    assert not at_rest(bench) and not bench.violations()


def test_an_emergency_stop_remains_latched_through_a_pause(bench):
    keep_moving(bench, 0.3)
    bench.post(bench.executor.emergency_stop(bench.now))
    bench.executor.pause(True, bench.now)
    bench.executor.pause(False, bench.now)
    assert bench.executor.status.state is ExecutorState.STOPPED


# ---- time ----


@settings(max_examples=40, deadline=None)
@given(hold=st.floats(0.35, 2.0), step=st.floats(0.001, 0.02), seed=st.integers(0, 1000))
def test_the_arm_is_stationary_hold_s_after_the_last_chunk(hold, step, seed):
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["budgets"]["hold_s"] = hold
    bench = Bench(parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml))
    way = np.random.default_rng(seed).normal(size=3)
    rows = np.hstack([np.arange(1, 9)[:, None] * step * way / np.linalg.norm(way), np.ones((8, 1))])
    for _ in range(4):
        with contextlib.suppress(ChunkRefused):
            bench.send(bench.chunk(rows, age=0.05))
        last = bench.now
        bench.run(0.1)
    bench.run(max(0.0, last + hold - bench.now) + 0.005)
    assert at_rest(bench) and not bench.violations()


# ---- shadow ----


def test_in_shadow_mode_the_policy_is_scored_against_what_the_operator_does():
    bench = Bench(contract_for(ActionSpace.JOINT_DELTA), shadow=True)
    bench.executor.on_chunk(bench.chunk(np.append(np.zeros(6), 1.0) * np.ones((8, 1))), bench.now)
    turning = 0.0
    for _ in range(200):
        bench.now += 0.005
        turning = 0.1 * bench.now
        position = HOME.copy()
        position[0] += turning
        bench.executor.on_joint_state(bench.now, position, np.zeros(7))
        bench.executor.tick(bench.now)
    status = bench.executor.status
    expected = (
        0.1 * 0.1 * np.arange(1, 9)
    )  # the policy wanted to stay, the operator turned at 0.1 rad/s
    assert status.shadow_rows == 8
    assert status.shadow_error_rms[0] == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-6)
    assert status.shadow_error_max[0] == pytest.approx(expected.max(), rel=1e-6)
    assert status.shadow_error_max[1:6].max() < 1e-6
    assert bench.executor.setpoint(bench.now) is None
    assert status.source is ControlSource.NOBODY


def test_steps_due_between_two_joint_states_are_compared_with_interpolated_joints():
    score = ShadowScore(1)
    score.measured(0.0, np.array([0.0]))
    score.expect(np.array([0.5]), np.array([[1.0]]))
    score.measured(1.0, np.array([1.0]))
    assert score.rows == 1 and score.rms[0] == pytest.approx(0.5)


# ---- counting ----


def test_the_clip_rate_is_the_share_of_recent_chunks_that_were_clipped():
    bench = Bench(contract_for(ActionSpace.JOINT_DELTA))
    rows = np.append(np.zeros(6), 1.0) * np.ones((8, 1))
    bench.send(bench.chunk(rows))
    assert bench.executor.status.clip_rate == 0.0
    bench.run(0.3)
    rows[:, 5] = 0.5 * np.arange(1, 9)  # faster than joint 6 may turn
    bench.send(bench.chunk(rows, age=0.1))
    assert bench.executor.status.clip_rate == 0.5


def test_a_policy_that_exceeds_the_tool_speed_limit_is_slowed_and_counted():
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["workspace"]["tool_speed"] = 0.05
    bench = Bench(parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml))
    bench.send(bench.chunk(FORWARD))
    bench.run(2.0)
    assert bench.observer.top_tool_speed <= 0.05 * 1.05
    assert bench.executor.status.tool_speed_clips == 1


def test_deadlines_are_counted_from_one_cycle_to_the_next():
    cycles = Cycles(0.01)
    for now in (0.0, 0.01, 0.0215, 0.030, 0.060):
        cycles.note(now)
    assert (cycles.count, cycles.missed) == (5, 1)
    assert cycles.late_max_s == pytest.approx(0.02)


def test_a_withdrawn_chunk_does_not_change_the_counts(bench):
    keep_moving(bench, 0.3)
    before = bench.executor.status
    bench.executor.on_chunk(bench.chunk(FORWARD, age=0.1), bench.now)
    bench.executor.withdraw("it was late")
    after = bench.executor.status
    assert (
        after.chunks_accepted == before.chunks_accepted
        and after.chunks_refused == before.chunks_refused + 1
    )
    changed = {"chunks_refused", "reason", "joint_state_age_s", "chunk_age_s", "queue_depth"}
    for field in dataclasses.fields(after):
        if field.name not in changed:
            assert np.array_equal(getattr(after, field.name), getattr(before, field.name)), (
                field.name
            )


def test_a_restarted_executor_does_not_follow_an_instruction_from_before(bench):
    """It moved the arm by itself: the policy went on predicting while the executor was away."""
    for sequence in (12, 13):
        with pytest.raises(ChunkRefused, match="activated after its instruction began; give an i"):
            bench.send(bench.chunk(FORWARD, epoch=3, sequence=sequence))
    assert bench.send(bench.chunk(FORWARD, epoch=4, sequence=1)) is not None


def test_an_instruction_whose_first_chunks_are_lost_is_followed(bench):
    """They may be, while two nodes discover each other."""
    assert bench.send(bench.chunk(FORWARD, epoch=3, sequence=6)) is not None
    bench.run(0.1)
    assert bench.send(bench.chunk(FORWARD, epoch=3, sequence=7)) is not None


def test_an_executor_that_loses_its_controller_before_any_chunk_follows_the_next_instruction(bench):
    bench.executor.on_policy_state(False, 0, "the policy follows no instruction", bench.now)
    bench.executor.on_controller_lost("its controller is gone", bench.clock)
    bench.run(1.0)
    assert bench.send(bench.chunk(FORWARD, epoch=1)) is not None
