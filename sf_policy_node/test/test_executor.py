"""The rules of the chunk executor, one test each. Times are simulated; the observer is a perfect controller."""

import contextlib
import dataclasses

import numpy as np
import pytest
import yaml
from motion_cases import HOME, Bench, contract_for, make_chunk, sim_arm, straight

from sf_policy_node.contract import ActionSpace, parse_contract
from sf_policy_node.motion.checks import ChunkRefused
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.status import ExecutorState

FORWARD = straight(sim_arm())
STAY = straight(sim_arm(), (0.0, 0.0, 0.0))


@pytest.fixture
def bench():
    return Bench(sim_arm())


def keep_moving(bench, seconds, data=FORWARD, every=0.3, age=0.1):
    for _ in range(round(seconds / every)):
        bench.send(bench.chunk(data, age=age))
        bench.run(every)


# ---- what comes out ----


def test_a_trajectory_has_many_stamped_points_with_velocities_and_ends_at_rest(bench):
    trajectory = bench.send(bench.chunk(FORWARD))
    assert trajectory.stamp <= bench.now < trajectory.stamp + trajectory.times[0]
    assert len(trajectory.times) > 20 and (np.diff(trajectory.times) > 0).all()
    assert trajectory.positions.shape == trajectory.velocities.shape == (len(trajectory.times), 7)
    assert np.abs(trajectory.velocities).max() > 0.05
    assert (trajectory.velocities[-1] == 0.0).all()
    assert trajectory.joint_names == tuple(sim_arm().command_joints)


def test_the_tool_ends_where_the_last_row_says(bench):
    start = bench.tool()
    bench.send(bench.chunk(FORWARD))
    bench.run(2.0)
    assert np.allclose(bench.tool(), start + FORWARD[-1, :3], atol=2e-3)
    assert not bench.violations()


def test_the_first_motion_starts_at_the_measured_joints():
    bench = Bench(sim_arm(), HOME + [0.1, 0, 0, 0, 0, 0, -0.01])
    trajectory = bench.send(bench.chunk(STAY))
    assert np.allclose(trajectory.positions[0], bench.measured[-1][1], atol=1e-6)


def test_the_next_motion_starts_at_the_commanded_state_and_not_at_the_noisy_measured_one(bench):
    bench.send(bench.chunk(FORWARD))
    bench.run(0.3)
    commanded = bench.observer.state(bench.now)
    bench.offset = np.array([0.03, -0.02, 0.02, 0.01, 0.0, 0.0, 0.0])
    bench.measure()
    trajectory = bench.send(bench.chunk(FORWARD))
    ahead = trajectory.stamp + trajectory.times[0] - bench.now
    assert np.abs(trajectory.positions[0] - commanded[0] - ahead * commanded[1]).max() < 5e-3


def test_borders_are_continuous_and_the_gap_is_reported(bench):
    for n in range(8):
        bench.send(bench.chunk(straight(sim_arm(), (0.01 * (-1) ** n, 0.005, 0.0)), age=0.1), transit=0.01)
        bench.run(0.2)
    bench.run(2.0)
    assert not bench.violations()
    assert bench.executor.status.border_jump_max > 0.001


def test_the_gripper_moves_to_open_or_closed_and_holds_its_command_while_it_grips(bench):
    bench.send(bench.chunk(straight(sim_arm(), (0.0, 0.0, 0.0), opening=0.1)))
    bench.run(1.5)
    assert bench.observer.state(bench.now)[0][6] == pytest.approx(0.0, abs=1e-3)
    bench.offset = np.array([0, 0, 0, 0, 0, 0, 0.02])  # a cube between the fingers
    bench.run(0.1)
    trajectory = bench.send(bench.chunk(straight(sim_arm(), (0.0, 0.0, 0.01), opening=0.1)))
    assert trajectory.positions[:, 6].max() < 1e-3
    bench.run(0.3)
    assert bench.executor.status.state is ExecutorState.EXECUTING


def test_without_a_gripper_column_the_gripper_is_left_alone():
    contract = contract_for(ActionSpace.JOINT_DELTA)
    data = contract.model_dump(mode="json")
    data["action"]["names"] = data["action"]["names"][:-1]
    bench = Bench(parse_contract(yaml.safe_dump(data), contract.urdf_xml), HOME - [0, 0, 0, 0, 0, 0, 0.01])
    trajectory = bench.send(bench.chunk(np.full((8, 6), 0.02)))
    assert np.allclose(trajectory.positions[:, 6], 0.025)


# ---- time ----


def test_rows_whose_time_has_passed_are_skipped_while_moving(bench):
    bench.send(bench.chunk(FORWARD))
    bench.run(0.5)
    bench.send(bench.chunk(FORWARD, age=0.15))
    assert bench.executor.status.steps_skipped == 2
    assert bench.executor.status.queue_depth == 7  # the second of them is due just before the new motion joins


def test_nothing_is_skipped_that_was_not_consumed_an_arm_at_rest_starts_at_the_first_row(bench):
    bench.run(0.5)
    bench.send(bench.chunk(FORWARD, age=0.4))
    assert bench.executor.status.steps_skipped == 0
    bench.run(2.0)
    assert not bench.violations()


def test_only_the_time_in_motion_since_the_observation_counts(bench):
    bench.run(0.5)
    late = bench.chunk(FORWARD, age=0.0)  # observed at rest
    bench.send(bench.chunk(FORWARD, age=0.0, sequence=0))
    bench.run(0.25)
    bench.send(dataclasses.replace(late, sequence=9))
    assert bench.executor.status.steps_skipped == 2


def test_a_chunk_whose_rows_have_all_passed_is_refused():
    data = sim_arm().model_dump(mode="json")
    data["budgets"]["chunk_age_s"] = 5.0
    bench = Bench(parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml))
    bench.send(bench.chunk(FORWARD))
    bench.run(0.02)
    late = bench.chunk(FORWARD)
    bench.run(0.91)
    with pytest.raises(ChunkRefused, match="all its rows have passed"):
        bench.send(late)


def test_late_delivery_up_to_the_lead_still_joins_inside_the_limits(bench):
    for n in range(6):
        bench.send(bench.chunk(straight(sim_arm(), (0.01, 0.01 * (-1) ** n, 0.0)), age=0.1), transit=0.015)
        bench.run(0.3)
    assert not bench.violations()


# ---- refusals ----

REFUSALS = {
    "NaN": ({"data": np.where(np.arange(32).reshape(8, 4) == 9, np.nan, 0.0)}, "row 2, column y is nan"),
    "infinity": ({"data": np.full((8, 4), np.inf)}, "row 0, column x is inf"),
    "too few rows": ({"data": np.zeros((7, 4))}, "size is 7 x 4"),
    "too many columns": ({"data": np.zeros((8, 5))}, "size is 8 x 5"),
    "empty": ({"data": np.zeros((0, 4))}, "it is empty"),
    "names": ({"names": ("y", "x", "z", "gripper")}, "columns are y, x, z, gripper"),
    "action space": ({"space": ActionSpace.EE_POSE}, "action space is ee_pose"),
    "contract": ({"contract_hash": "0123"}, "made for contract 0123"),
    "frame": ({"frame": "world"}, "frame is 'world'"),
    "step": ({"step_s": 0.05}, "0.05 s apart"),
    "reference names": ({"reference_names": ("joint1",)}, "reference names joint1"),
    "reference size": ({"reference": np.zeros(3)}, "reference has size 3"),
    "reference NaN": ({"reference": np.full(7, np.nan)}, "not finite"),
    "a reference that was not measured": ({"reference": np.zeros(7)}, "not where joint"),
    "future stamp": ({"stamp": 9.0}, "in the future"),
    "old stamp": ({"stamp": 1.3}, "budgets.chunk_age_s allows 0.5 s"),
    "stamp not finite": ({"stamp": float("nan")}, "stamp is not finite"),
    "same sequence": ({"sequence": 1}, "sequence 1 after 1"),
    "older epoch": ({"epoch": 4}, "earlier instruction"),
    "older observation": ({"stamp": 1.9, "reference": HOME}, "older than that of the chunk in use"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_bad_chunk_is_refused_whole_with_its_reason_and_the_motion_goes_on(bench, case):
    changes, reason = REFUSALS[case]
    bench.run(2.0)
    bench.send(bench.chunk(FORWARD, epoch=5, stamp=bench.now - 0.001))
    bench.run(0.1)
    path = bench.executor.path
    with pytest.raises(ChunkRefused, match=reason):
        bench.send(bench.chunk(FORWARD, epoch=5).__class__(**{**vars(bench.chunk(FORWARD, epoch=5)), **changes}))
    status = bench.executor.status
    assert bench.executor.path is path
    assert status.chunks_refused == 1 and reason in status.reason
    assert status.state is ExecutorState.EXECUTING


def test_a_refused_chunk_does_not_raise_the_epoch(bench):
    with pytest.raises(ChunkRefused):
        bench.send(bench.chunk(np.full((8, 4), np.nan), epoch=2**62))
    bench.send(bench.chunk(FORWARD, epoch=1))


def test_a_new_epoch_may_start_its_sequence_again(bench):
    bench.send(bench.chunk(FORWARD, sequence=7))
    bench.run(0.2)
    bench.send(bench.chunk(FORWARD, sequence=1, epoch=2))


def test_reordered_chunks_are_refused(bench):
    first, second = bench.chunk(FORWARD, sequence=1), bench.chunk(FORWARD, sequence=2)
    bench.send(second)
    with pytest.raises(ChunkRefused, match="comes late"):
        bench.send(first)


def test_a_chunk_that_cannot_be_reached_from_its_first_row_is_refused_and_counted(bench):
    data = STAY.copy()
    data[:, :3] = [-0.2, 0.29, 0.2]
    with pytest.raises(ChunkRefused, match="rows from 0 on"):
        bench.send(bench.chunk(data))
    assert bench.executor.status.ik_failures == 8


def test_reachable_rows_are_followed_and_the_status_says_which_are_not(bench):
    data = STAY.copy()
    data[4:, :3] = [-0.2, 0.29, 0.2]
    bench.send(bench.chunk(data))
    assert "rows from 4 on" in bench.executor.status.reason


def test_the_tool_never_leaves_the_workspace_box(bench):
    box = sim_arm().workspace
    for n in range(30):
        push = [(0.05, 0.0, 0.02), (0.0, 0.06, -0.05), (-0.05, -0.06, 0.0)][n // 10]
        with contextlib.suppress(ChunkRefused):  # some corners are out of reach
            bench.send(bench.chunk(straight(sim_arm(), push), age=0.1))
        for _ in range(15):
            bench.run(0.02)
            tool = bench.tool()
            assert (tool >= np.array(box.lower) - 2e-3).all() and (tool <= np.array(box.upper) + 2e-3).all(), tool
    assert bench.executor.status.workspace_clips > 0
    assert not bench.violations()


# ---- nothing moves unless ----


def test_nothing_moves_before_activation():
    executor = ChunkExecutor(sim_arm())
    executor.on_joint_state(0.0, HOME, np.zeros(7))
    with pytest.raises(ChunkRefused, match="not active"):
        executor.on_chunk(make_chunk(sim_arm(), FORWARD), 0.01)
    assert executor.status.state is ExecutorState.INACTIVE


def test_nothing_moves_without_joint_states():
    executor = ChunkExecutor(sim_arm())
    executor.activate()
    with pytest.raises(ChunkRefused, match="no joint states on /joint_states"):
        executor.on_chunk(make_chunk(sim_arm(), FORWARD), 0.01)


def test_nothing_moves_on_old_or_broken_joint_states(bench):
    bench.joint_states = False
    bench.run(0.2)
    bench.executor.on_joint_state(bench.now, np.full(7, np.nan), np.zeros(7))
    with pytest.raises(ChunkRefused, match=r"newest joint state is 0\.200 s old"):
        bench.send(bench.chunk(FORWARD))


def test_a_chunk_observed_before_activation_is_refused(bench):
    bench.run(0.2)
    old = bench.chunk(FORWARD)
    bench.run(0.05)
    bench.executor.deactivate(bench.now)
    bench.executor.activate(bench.now)
    with pytest.raises(ChunkRefused, match="before the executor was activated"):
        bench.send(old)


def test_an_arm_that_somebody_else_moves_is_not_taken_over(bench):
    bench.executor.on_joint_state(bench.now + 0.001, HOME, np.full(7, 0.5))
    with pytest.raises(ChunkRefused, match="is moving and not by this executor"):
        bench.send(bench.chunk(FORWARD))


def test_an_arm_outside_its_limits_is_not_moved():
    with pytest.raises(ChunkRefused, match="joint5 is measured outside its limits"):
        bench = Bench(sim_arm(), HOME + [0, 0, 0, 0, 1.7, 0, 0])
        bench.send(bench.chunk(FORWARD))


# ---- holds ----


def test_when_chunks_stop_the_arm_comes_to_rest_by_itself_and_the_status_says_so(bench):
    keep_moving(bench, 0.9)
    sent = len(bench.observer.sent)
    horizon = sim_arm().action.horizon * sim_arm().action.step_s
    bench.run(horizon + 0.7)
    assert len(bench.observer.sent) == sent, "the last trajectory ends at rest on its own"
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
    status = bench.executor.status
    assert status.state is ExecutorState.HOLDING and status.reason.startswith("no new chunk for")
    assert status.chunk_age_s == -1.0 and status.queue_depth == 0
    assert not bench.violations()


def test_when_joint_states_stop_the_arm_brakes_within_the_limits(bench):
    keep_moving(bench, 0.6, straight(sim_arm(), (0.0, 0.02, 0.0)))
    bench.joint_states = False
    bench.send(bench.chunk(straight(sim_arm(), (0.0, 0.02, 0.0)), age=0.05))
    bench.run(0.105)
    assert bench.executor.status.reason.startswith("stopped: the newest joint state is")
    assert bench.observer.at_rest_after - bench.now < 0.25
    bench.run(0.5)
    assert not bench.violations()


def test_a_blocked_arm_gives_way_and_needs_a_new_instruction(bench):
    keep_moving(bench, 0.6, straight(sim_arm(), (0.0, 0.03, 0.0)))
    bench.send(bench.chunk(straight(sim_arm(), (0.0, 0.03, 0.0)), age=0.05))
    bench.offset = np.array([-0.26, 0, 0, 0, 0, 0, 0])
    bench.run(0.01)
    commanded = bench.observer.state(bench.now)[0][0]
    status = bench.executor.status
    assert status.state is ExecutorState.HOLDING and "something is in its way" in status.reason and "joint1" in status.reason
    bench.run(1.0)
    assert bench.observer.state(bench.now)[0][0] < commanded, "it still pushes"
    assert not bench.violations()
    bench.offset[:] = 0.0
    bench.run(0.1)
    with pytest.raises(ChunkRefused, match="give an instruction again"):
        bench.send(bench.chunk(FORWARD))
    bench.send(bench.chunk(FORWARD, epoch=2))


def test_an_arm_that_is_suddenly_elsewhere_is_not_pulled_back(bench):
    keep_moving(bench, 0.6)
    bench.offset = np.array([1.0, 0, 0, 0, 0, 0, 0])
    bench.now += 0.01
    bench.measure()
    trajectory = bench.executor.tick(bench.now)
    assert np.allclose(trajectory.positions, bench.measured[-1][1], atol=1e-9)
    assert "find out who moved it" in bench.executor.status.reason


def test_a_clock_that_goes_back_stops_the_arm(bench):
    keep_moving(bench, 0.9, straight(sim_arm(), (0.02, 0.0, 0.0)))
    velocity = bench.observer.state(bench.now)[1]
    stop = bench.executor.tick(0.1)
    assert bench.executor.status.state is ExecutorState.HOLDING and "clock went back" in bench.executor.status.reason
    assert stop.stamp == 0.1 and (stop.velocities[-1] == 0.0).all()
    assert np.abs(stop.positions[-1] - stop.positions[0]).max() < 0.5 * np.abs(velocity).max()


def test_a_clock_that_leaps_forward_leaves_the_arm_at_rest(bench):
    keep_moving(bench, 0.6)
    assert bench.executor.tick(bench.now + 100.0) is None
    assert bench.executor.status.state is ExecutorState.HOLDING


def test_a_trajectory_that_could_not_be_sent_is_withdrawn(bench):
    keep_moving(bench, 0.3)
    path = bench.executor.path
    bench.executor.on_chunk(bench.chunk(FORWARD), bench.now)
    bench.executor.withdraw("too late to be sent")
    assert bench.executor.path is path
    assert bench.executor.status.chunks_accepted == 1 and bench.executor.status.chunks_refused == 1


def test_a_trajectory_is_late_once_its_motion_should_have_left_the_old_one(bench):
    bench.send(bench.chunk(FORWARD))
    assert bench.now + 0.03 < bench.executor.joins_at < bench.now + 0.1


# ---- emergency stop ----


def test_the_emergency_stop_brakes_at_once_and_stays_latched(bench):
    keep_moving(bench, 0.6, straight(sim_arm(), (0.03, 0.02, 0.0)))
    bench.observer.receive(bench.executor.on_emergency_stop(True, bench.now), bench.now)
    assert bench.observer.at_rest_after - bench.now < 0.3
    assert bench.executor.status.state is ExecutorState.STOPPED
    bench.run(0.5)
    assert bench.executor.on_emergency_stop(False, bench.now) is None
    for _ in range(3):
        with pytest.raises(ChunkRefused, match="emergency stop is latched"):
            bench.send(bench.chunk(FORWARD, epoch=9))
    assert bench.executor.status.state is ExecutorState.STOPPED
    assert not bench.violations()


def test_the_latch_cannot_be_reset_while_the_button_is_pressed(bench):
    bench.executor.on_emergency_stop(True, bench.now)
    with pytest.raises(ValueError, match="still pressed"):
        bench.executor.reset_emergency_stop(bench.now)
    bench.executor.on_emergency_stop(False, bench.now)
    bench.executor.reset_emergency_stop(bench.now)
    assert bench.executor.status.state is ExecutorState.HOLDING


def test_after_a_reset_only_a_chunk_observed_afterwards_moves_the_arm(bench):
    keep_moving(bench, 0.6)
    before = bench.chunk(FORWARD)
    bench.observer.receive(bench.executor.emergency_stop(bench.now), bench.now)
    bench.run(0.3)
    bench.executor.reset_emergency_stop(bench.now)
    bench.run(0.1)
    with pytest.raises(ChunkRefused, match="emergency stop reset"):
        bench.send(before)
    bench.send(bench.chunk(FORWARD))
    assert bench.executor.status.state is ExecutorState.EXECUTING
    assert not bench.violations()


def test_a_stop_that_may_have_been_lost_is_sent_again_when_the_button_repeats(bench):
    keep_moving(bench, 0.6, straight(sim_arm(), (0.03, 0.02, 0.0)))
    first = bench.executor.on_emergency_stop(True, bench.now)
    again = bench.executor.on_emergency_stop(True, bench.now + 0.02)
    assert np.allclose(first.positions[-1], again.positions[-1])


@pytest.mark.parametrize("latch_first", [True, False])
def test_activation_and_deactivation_keep_the_latch(bench, latch_first):
    if latch_first:
        bench.executor.emergency_stop(bench.now)
    bench.executor.deactivate(bench.now)
    bench.executor.emergency_stop(bench.now)
    bench.executor.activate(bench.now)
    assert bench.executor.status.state is ExecutorState.STOPPED
    bench.executor.reset_emergency_stop(bench.now)
    assert bench.executor.status.state is ExecutorState.HOLDING


def test_deactivation_stops_a_moving_arm(bench):
    keep_moving(bench, 0.6)
    stop = bench.executor.deactivate(bench.now)
    assert (stop.velocities[-1] == 0.0).all() and stop.times[-1] < 0.3
    assert bench.executor.status.state is ExecutorState.INACTIVE


def test_shadow_follows_chunks_although_the_arm_does_something_else():
    bench = Bench(sim_arm(), shadow=True)
    for _ in range(4):
        bench.executor.on_chunk(bench.chunk(FORWARD), bench.now)
        bench.offset[0] += 0.2
        bench.run(0.3)
    assert bench.executor.status.state is ExecutorState.SHADOW
    assert bench.executor.status.chunks_accepted == 4
