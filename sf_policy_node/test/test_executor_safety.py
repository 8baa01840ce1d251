"""When the chunk executor does not move the arm, stops it, and starts it again.

Times are simulated; the observer is a perfect controller.
"""

import dataclasses

import numpy as np
import pytest
from motion_cases import (
    FORWARD,
    HOME,
    STAY,
    Bench,
    keep_moving,
    kinematics,
    make_chunk,
    sim_arm,
    stop_time,
    straight,
)

from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.safety.leads import Leads
from sf_policy_node.motion.status import ExecutorState

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
    with pytest.raises(ChunkRefused, match="no joint states on joint_states"):
        executor.on_chunk(make_chunk(sim_arm(), FORWARD), 0.01)
    executor.on_joint_state(0.01, np.full(7, np.nan), np.zeros(7))
    with pytest.raises(ChunkRefused, match="no joint states on joint_states"):
        executor.on_chunk(make_chunk(sim_arm(), FORWARD), 0.02)


def test_nothing_moves_on_old_or_invalid_joint_states(bench):
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


def test_an_arm_that_another_publisher_moves_is_not_taken_over(bench):
    for n in range(30):
        bench.executor.on_joint_state(bench.now + 0.01 * n, HOME + 0.005 * n, np.zeros(7))
    bench.now, bench.stopwatch = bench.now + 0.3, bench.stopwatch + 0.3
    with pytest.raises(ChunkRefused, match="is moving and not by this executor"):
        bench.send(bench.chunk(FORWARD, reference=HOME + 0.145))


def test_an_arm_outside_its_limits_is_not_moved():
    with pytest.raises(ChunkRefused, match="joint5 is measured outside its limits"):
        bench = Bench(sim_arm(), HOME + [0, 0, 0, 0, 1.7, 0, 0])
        bench.send(bench.chunk(FORWARD))


# ---- holds ----


def test_without_new_chunks_the_arm_stops_and_the_status_reports_it(bench):
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


def test_without_joint_states_the_arm_brakes_inside_the_limits(bench):
    keep_moving(bench, 0.6, straight(sim_arm(), (0.0, 0.02, 0.0)))
    bench.joint_states = False
    bench.send(bench.chunk(straight(sim_arm(), (0.0, 0.02, 0.0)), age=0.05))
    bench.run(0.105)
    assert bench.executor.status.reason.startswith("stopped: the newest joint state is")
    assert bench.observer.at_rest_after - bench.now < 0.25
    bench.run(0.5)
    assert not bench.violations()


def test_a_blocked_arm_retreats_and_needs_a_new_instruction(bench):
    keep_moving(bench, 0.6, straight(sim_arm(), (0.0, 0.03, 0.0)))
    bench.send(bench.chunk(straight(sim_arm(), (0.0, 0.03, 0.0)), age=0.05))
    for _ in range(30):  # the obstacle holds it back more and more
        bench.offset[0] -= 0.01
        bench.run(0.01)
    commanded = bench.observer.state(bench.now)[0][0]
    status = bench.executor.status
    assert (
        status.state is ExecutorState.HOLDING
        and "something is in its way" in status.reason
        and "joint1" in status.reason
    )
    bench.run(1.0)
    assert bench.observer.state(bench.now)[0][0] < commanded, "it still pushes"
    assert not bench.violations()
    bench.offset[:] = 0.0
    bench.run(0.1)
    with pytest.raises(ChunkRefused, match="give an instruction again"):
        bench.send(bench.chunk(FORWARD))
    bench.send(bench.chunk(FORWARD, epoch=2))


def test_one_bad_reading_stops_nothing(bench):
    keep_moving(bench, 0.6)
    position = bench.observer.state(bench.now)[0]
    bench.executor.on_joint_state(
        bench.now + 0.001, position + [0.4, 0, 0, 0, 0, 0, 0], np.zeros(7)
    )
    bench.run(0.1)
    assert bench.executor.status.state is ExecutorState.EXECUTING


@pytest.mark.parametrize("step", [-50.0, -0.3, 0.3, 100.0])
def test_after_a_clock_jump_the_motion_ends_and_the_arm_is_commanded_to_hold(bench, step):
    """The controller continues on its own clock; a stop that starts beside its motion would make
    the arm jump.
    """
    keep_moving(bench, 0.6)
    late, sent = bench.chunk(FORWARD, age=0.1), len(bench.observer.sent)
    bench.set_by = step
    bench.run(0.05)
    assert len(bench.observer.sent) == sent
    assert bench.executor.status.state is ExecutorState.HOLDING
    assert ("forward" if step > 0 else "back") in bench.executor.status.reason
    with pytest.raises(ChunkRefused):
        bench.executor.on_chunk(late, bench.clock)
    with pytest.raises(ChunkRefused, match="has not been stationary"):
        bench.send(bench.chunk(FORWARD))
    bench.run(sim_arm().budgets.hold_s)
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
    assert len(bench.observer.sent) == sent + 1
    bench.send(bench.chunk(straight(sim_arm(), (-0.01, 0.0, 0.0))))
    bench.run(0.3)
    assert bench.executor.status.state is ExecutorState.EXECUTING
    assert not bench.violations()


def test_after_a_clock_jump_a_gripper_keeps_its_grip_and_joints_their_setpoint(bench):
    """An object keeps the fingers from their commanded position, and servos droop a little."""
    closed = FORWARD.copy()
    closed[:, 3] = 0.0
    keep_moving(bench, 0.6, closed)
    bench.offset = np.array([0.0, 0.02, 0.0, 0.0, 0.0, 0.0, 0.018])
    bench.set_by = 5.0
    bench.run(sim_arm().budgets.hold_s + 0.3)
    stay, sent_at = bench.observer.sent[-1], bench.received[-1]
    assert stay.stamp == pytest.approx(bench.now, abs=1.5)
    assert stay.stamp + stay.times[0] < sent_at, "a controller would start at the measured joints"
    assert np.allclose(stay.positions, bench.observer.state(bench.now)[0], atol=1e-9)
    assert not bench.violations()


def test_delayed_messages_of_a_simulated_clock_are_no_clock_jump(bench):
    keep_moving(bench, 0.6)
    bench.stopwatch += 5.0
    bench.executor.tick(bench.now + 0.01)
    bench.stopwatch += 0.02
    bench.executor.tick(bench.now + 5.02)
    assert "clock" not in bench.executor.status.reason


def test_ages_are_not_checked_while_this_process_has_not_received_the_clock(bench):
    """After SIGCONT the simulated time is old for some ticks; joint states are 2 s newer."""
    keep_moving(bench, 0.6)
    bench.stopwatch += 2.0
    bench.executor.on_joint_state(bench.now + 2.0, HOME, np.zeros(7))
    assert bench.executor.tick(bench.now) is None
    assert bench.executor.status.state is ExecutorState.EXECUTING


def test_an_emergency_stop_after_a_clock_jump_brakes_from_the_measured_position(
    bench,
):
    keep_moving(bench, 0.9, straight(sim_arm(), (0.02, 0.0, 0.0)))
    bench.set_by = 30.0
    bench.run(0.05)
    point, _ = bench.observer.state(bench.now)
    stop = bench.executor.emergency_stop(bench.clock)
    bench.post(stop)
    bench.run(0.3)
    assert stop_time(stop, 30.0 + bench.now) < 0.2 and (stop.velocities[-1] == 0.0).all()
    assert np.abs(bench.observer.state(bench.now)[0] - point).max() < 0.25
    assert not bench.violations()


def test_an_emergency_stop_after_a_clock_jump_ignores_joint_states_far_from_the_path(
    bench,
):
    keep_moving(bench, 0.9, straight(sim_arm(), (0.02, 0.0, 0.0)))
    bench.set_by = -3.0
    far = np.array([0.8, -0.5, 0.6, 0, 0, 0, 0])
    bench.driver = lambda stamp, joints, speed: [
        (stamp, joints + far * np.cos(30.0 * stamp), speed)
    ]
    bench.run(1.6)  # the motion has ended, but the joint states do not show it
    bench.post(bench.executor.emergency_stop(bench.clock))
    bench.run(1.5)
    assert not bench.violations() and (bench.observer.state(bench.now)[1] == 0.0).all()


def test_an_emergency_stop_while_the_clock_settles_keeps_a_drooping_arm_in_its_box(bench):
    """The arm droops below the box: a stop where it is measured would command it outside."""
    bench.offset = np.array([0.0, 0.03, 0.04, 0.0, 0.0, 0.0, 0.0])
    down = straight(sim_arm(), (0.0, 0.0, -0.05))
    for _ in range(3):
        keep_moving(bench, 0.6, down)
    box = Workspace(sim_arm(), kinematics())
    assert box.outside(bench.measured[-1][1]) > 0.01, "the arm droops out of the box"
    bench.set_by = 5.0
    bench.run(0.3)
    bench.post(bench.executor.emergency_stop(bench.clock))
    bench.run(1.5)
    assert not bench.violations() and (bench.observer.state(bench.now)[1] == 0.0).all()


def test_a_joint_state_from_the_future_stops_the_arm_until_a_valid_one_arrives(bench):
    keep_moving(bench, 0.6)
    position, velocity = bench.observer.state(bench.now)
    bench.executor.on_joint_state(bench.now + 3600.0, position, velocity)
    bench.post(bench.executor.tick(bench.clock))
    assert "joint states are stamped" in bench.executor.status.reason
    bench.run(0.6)
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
    bench.send(bench.chunk(FORWARD))
    assert bench.executor.status.state is ExecutorState.EXECUTING and not bench.violations()


@pytest.mark.parametrize("ahead", [0.005, 2.0])
def test_after_a_clock_jump_the_arm_can_be_stopped_with_joint_states_from_the_future(bench, ahead):
    keep_moving(bench, 0.9)
    bench.set_by = -30.0
    assert bench.executor.tick(bench.clock) is None  # the current motion ends on its own
    position, velocity = bench.observer.state(bench.now)
    bench.executor.on_joint_state(bench.clock + ahead, position, velocity)
    stop = bench.executor.emergency_stop(bench.clock)
    assert stop is not None and (stop.velocities[-1] == 0.0).all()


def test_an_executor_that_replaces_another_inherits_its_emergency_stop(bench):
    bench.executor.on_emergency_stop(True, bench.now)
    bench.executor.on_emergency_stop(False, bench.now)
    after = Bench(sim_arm())
    after.executor.inherit_emergency_stop(bench.executor)
    after.executor.activate(after.now)
    with pytest.raises(ChunkRefused, match="the emergency stop is latched"):
        after.send(after.chunk(FORWARD))
    assert after.executor.status.state is ExecutorState.STOPPED
    after.executor.reset_emergency_stop(after.now)
    after.run(0.1)
    after.send(after.chunk(FORWARD, epoch=2))


def test_a_chunk_that_reveals_a_clock_jump_is_refused(bench):
    keep_moving(bench, 0.6)
    with pytest.raises(ChunkRefused, match="the clock jumped by"):
        bench.executor.on_chunk(bench.chunk(FORWARD), bench.now + 5.0)


def test_a_suspended_process_detects_no_clock_jump(bench):
    keep_moving(bench, 0.6)
    bench.stopwatch += 2.0
    assert bench.executor.tick(bench.now + 2.0) is None
    assert "no new chunk" in bench.executor.status.reason


def test_a_chunk_received_before_the_watchdog_reports_that_the_motion_ended(bench):
    keep_moving(bench, 0.6)
    bench.now, bench.stopwatch = bench.now + 2.0, bench.stopwatch + 2.0
    bench.measure()
    bench.send(bench.chunk(STAY))
    status = bench.executor.status
    assert status.state is ExecutorState.EXECUTING and status.reason.startswith(
        "resumes; no new chunk for 2."
    )
    bench.run(0.2)
    bench.send(bench.chunk(FORWARD))
    assert "no new chunk" not in bench.executor.status.reason


def test_a_trajectory_that_could_not_be_sent_is_withdrawn(bench):
    keep_moving(bench, 0.3)
    path = bench.executor.path
    bench.executor.on_chunk(bench.chunk(FORWARD), bench.now)
    bench.executor.withdraw("too late to be sent")
    assert bench.executor.path is path
    assert bench.executor.status.chunks_accepted == 1 and bench.executor.status.chunks_refused == 1


def test_a_trajectory_is_too_late_once_its_start_has_passed(bench):
    bench.send(bench.chunk(FORWARD))
    assert not bench.executor.is_too_late(bench.now + 0.02)
    assert bench.executor.is_too_late(bench.now + 0.05)
    bench.run(0.4)
    bench.send(bench.chunk(FORWARD, age=0.1))
    assert not bench.executor.is_too_late(bench.now + 0.02)
    assert bench.executor.is_too_late(bench.now + 0.1)


def test_a_suspended_process_starts_motions_later_by_the_possible_clock_delay():
    bench = Bench(sim_arm(), simulated=True)
    keep_moving(bench, 0.6)
    bench.stopwatch += 0.06  # the chunk arrives before the clock's messages are processed
    bench.send(bench.chunk(FORWARD))
    assert not bench.executor.is_too_late(bench.now + 0.02)
    bench.stopwatch += 0.06  # planning took as long
    assert bench.executor.is_too_late(bench.now)


def test_a_process_that_is_called_late_gives_the_first_motion_a_longer_lead(bench):
    def start_s():
        """Return how long after its chunk a motion from standstill starts [s]."""
        sent = bench.send(bench.chunk(straight(sim_arm(), (-0.003, 0.0, 0.0))))
        moving = np.flatnonzero(np.abs(sent.velocities).max(axis=1) > 0.0)[0]
        begins = sent.stamp + sent.times[moving - 1] - bench.now
        bench.run(2.0)
        return begins

    start_s()  # the first one after activation waits longer
    assert start_s() < 0.03
    bench.stopwatch += 0.06
    bench.now += 0.06
    bench.run(0.02)
    assert start_s() > 0.04 and start_s() < 0.03


def test_the_first_message_of_a_simulated_clock_is_no_jump():
    bench = Bench(sim_arm(), simulated=True)
    assert bench.executor.tick(0.0) is None
    bench.now = bench.stopwatch = 20.0
    assert bench.executor.tick(20.0) is None and "clock" not in bench.executor.status.reason


def test_a_chunk_is_refused_while_a_simulated_clock_is_stalled():
    bench = Bench(sim_arm(), simulated=True)
    keep_moving(bench, 0.6)
    bench.stopwatch += 0.5
    with pytest.raises(ChunkRefused, match="clock or this process has stalled"):
        bench.send(bench.chunk(FORWARD))


# ---- emergency stop ----


def test_the_emergency_stop_brakes_at_once_and_remains_latched(bench):
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


def test_after_a_reset_only_a_new_instruction_moves_the_arm(bench):
    keep_moving(bench, 0.6)
    before = bench.chunk(FORWARD, epoch=2)
    bench.observer.receive(bench.executor.emergency_stop(bench.now), bench.now)
    bench.run(0.3)
    with pytest.raises(ChunkRefused, match="latched"):
        bench.send(bench.chunk(FORWARD, epoch=3))
    bench.executor.reset_emergency_stop(bench.now)
    bench.run(0.1)
    for epoch in (1, 2, 3):  # the last two were given while the emergency stop was latched
        with pytest.raises(ChunkRefused, match=r"was reset .*; give an instruction again"):
            bench.send(bench.chunk(FORWARD, epoch=epoch))
    with pytest.raises(ChunkRefused, match="observation is from before"):
        bench.send(dataclasses.replace(before, epoch=4, sequence=bench.sequence + 1))
    bench.send(bench.chunk(FORWARD, epoch=4))
    assert bench.executor.status.state is ExecutorState.EXECUTING
    assert not bench.violations()


def test_a_stop_is_sent_again_when_the_button_repeats_its_message(bench):
    keep_moving(bench, 0.6, straight(sim_arm(), (0.03, 0.02, 0.0)))
    first = bench.executor.on_emergency_stop(True, bench.now)
    bench.stopwatch += 0.02
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


def test_shadow_mode_plans_chunks_although_the_operator_moves_the_arm():
    bench = Bench(sim_arm(), shadow=True)
    for _ in range(4):
        bench.executor.on_chunk(bench.chunk(FORWARD), bench.now)
        bench.offset[0] += 0.2
        bench.run(0.3)
    assert bench.executor.status.state is ExecutorState.SHADOW
    assert bench.executor.status.chunks_accepted == 4


def test_a_process_suspended_for_long_does_not_delay_stops_longer_than_a_busy_one():
    """Before, stops began 80 ms later for 14 s after a suspension of 10 s, 25 s after an hour."""
    leads = {suspended_s: Leads(0.02, delivered=True) for suspended_s in (0.08, 10.0, 3600.0)}
    for suspended_s, each in leads.items():
        each.note_delay(suspended_s)
    for _ in range(300):
        for each in leads.values():
            each.note_delay(0.0)
        assert len({(each.stop, each.join) for each in leads.values()}) == 1
    assert leads[10.0].stop == 2
