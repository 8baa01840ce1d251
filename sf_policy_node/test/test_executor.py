"""Which trajectories the chunk executor sends, and when.

Times are simulated; the observer is a perfect controller.
"""

import dataclasses

import numpy as np
import pytest
import yaml
from motion_cases import FORWARD, HOME, STAY, Bench, contract_for, sim_arm, straight

from sf_policy_node.contract import ActionSpace, parse_contract
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.status import ExecutorState

# ---- what comes out ----


def test_a_trajectory_has_stamped_points_with_velocities_and_ends_stationary(bench):
    trajectory = bench.send(bench.chunk(FORWARD))
    assert trajectory.stamp <= bench.now
    assert len(trajectory.times) > 20 and (np.diff(trajectory.times) > 0).all()
    assert trajectory.positions.shape == trajectory.velocities.shape == (len(trajectory.times), 7)
    assert np.abs(trajectory.velocities).max() > 0.05
    assert (trajectory.velocities[-1] == 0.0).all()
    assert trajectory.joint_names == tuple(sim_arm().command_joints)


def test_the_tool_ends_at_the_target_of_the_last_step(bench):
    start = bench.tool()
    bench.send(bench.chunk(FORWARD))
    bench.run(2.0)
    assert np.allclose(bench.tool(), start + FORWARD[-1, :3], atol=2e-3)
    assert not bench.violations()


def test_the_first_motion_starts_at_the_measured_joints():
    bench = Bench(sim_arm(), HOME + [0.1, 0, 0, 0, 0, 0, -0.01])
    trajectory = bench.send(bench.chunk(STAY))
    assert np.allclose(trajectory.positions[0], bench.measured[-1][1], atol=1e-6)


def test_a_controller_at_an_unknown_position_gets_time_to_reach_the_measured_arm():
    bench = Bench(sim_arm())
    bench.run(0.5)  # the controller's last report is too old
    trajectory = bench.send(bench.chunk(FORWARD))
    assert 0.1 < trajectory.stamp + trajectory.times[0] - bench.now < 0.3
    assert trajectory.stamp <= bench.now, (
        "a stamp in the future would leave the old motion in force"
    )


def test_a_trajectory_sent_in_motion_starts_with_the_points_just_before_now(bench):
    """A controller between two points of its newest message does not bridge from its own state."""
    bench.send(bench.chunk(FORWARD))
    bench.run(0.1)
    for _ in range(4):
        bench.run(0.13)
        commanded = bench.executor.path
        trajectory = bench.send(bench.chunk(FORWARD, age=0.1))
        times = trajectory.stamp + trajectory.times
        assert bench.now - 0.07 <= times[0] <= bench.now - 0.03 and (np.diff(times) > 0).all()
        for time, position in zip(times[:4], trajectory.positions[:4], strict=True):
            assert position == pytest.approx(commanded.state(time)[0], abs=1e-9)


def test_a_stationary_arm_starts_as_soon_as_a_command_can_be_delivered(bench):
    bench.send(bench.chunk(FORWARD))
    bench.run(2.5)
    before, received = bench.observer.state(bench.now)[0], bench.now
    bench.send(bench.chunk(straight(sim_arm(), (-0.01, 0.0, 0.0))))
    while np.abs(bench.observer.state(bench.now)[0] - before).max() < 1e-4:
        bench.run(0.005)
    assert bench.now - received <= 0.045


def test_the_next_motion_starts_at_the_commanded_state_not_at_the_noisy_measured_one(bench):
    bench.send(bench.chunk(FORWARD))
    bench.run(0.3)
    commanded = bench.observer.state(bench.now)
    bench.offset = np.array([0.03, -0.02, 0.02, 0.01, 0.0, 0.0, 0.0])
    bench.measure()
    trajectory = bench.send(bench.chunk(FORWARD))
    ahead = trajectory.stamp + trajectory.times - bench.now
    nearest = int(np.abs(ahead).argmin())
    assert (
        np.abs(trajectory.positions[nearest] - commanded[0] - ahead[nearest] * commanded[1]).max()
        < 5e-3
    )


def test_motion_is_continuous_between_chunks_and_the_border_jump_is_reported(bench):
    for n in range(8):
        bench.send(
            bench.chunk(straight(sim_arm(), (0.01 * (-1) ** n, 0.005, 0.0)), age=0.1), transit=0.01
        )
        bench.run(0.2)
    bench.run(2.0)
    assert not bench.violations()
    assert bench.executor.status.border_jump_max > 0.001


def test_the_gripper_opens_or_closes_and_keeps_its_command_while_it_grips(bench):
    bench.send(bench.chunk(straight(sim_arm(), (0.0, 0.0, 0.0), opening=0.1)))
    bench.run(1.5)
    assert bench.observer.state(bench.now)[0][6] == pytest.approx(0.0, abs=1e-3)
    bench.offset = np.array([0, 0, 0, 0, 0, 0, 0.02])  # a cube between the fingers
    bench.run(0.1)
    trajectory = bench.send(bench.chunk(straight(sim_arm(), (0.0, 0.0, 0.01), opening=0.1)))
    assert trajectory.positions[:, 6].max() < 1e-3
    bench.run(0.3)
    assert bench.executor.status.state is ExecutorState.EXECUTING


def test_without_a_gripper_column_the_gripper_does_not_move():
    contract = contract_for(ActionSpace.JOINT_DELTA)
    data = contract.model_dump(mode="json")
    data["action"]["names"] = data["action"]["names"][:-1]
    bench = Bench(
        parse_contract(yaml.safe_dump(data), contract.urdf_xml), HOME - [0, 0, 0, 0, 0, 0, 0.01]
    )
    trajectory = bench.send(bench.chunk(np.full((8, 6), 0.02)))
    assert np.allclose(trajectory.positions[:, 6], 0.025)


# ---- time ----


def test_steps_that_were_due_before_the_start_are_skipped_in_motion(bench):
    bench.send(bench.chunk(FORWARD))
    bench.run(0.5)
    bench.send(bench.chunk(FORWARD, age=0.15))
    assert bench.executor.status.steps_skipped == 2
    # The second of them is due just before the new motion joins.
    assert bench.executor.status.queue_depth == 7


def test_a_stationary_arm_skips_nothing_and_starts_at_the_first_step(bench):
    bench.run(0.5)
    bench.send(bench.chunk(FORWARD, age=0.4))
    assert bench.executor.status.steps_skipped == 0
    bench.run(2.0)
    assert not bench.violations()


def test_only_time_in_motion_since_the_observation_consumes_steps(bench):
    bench.run(0.5)
    late = bench.chunk(FORWARD, age=0.0)  # observed while stationary
    bench.send(bench.chunk(FORWARD, age=0.0, sequence=0))
    bench.run(0.34)
    bench.send(dataclasses.replace(late, sequence=9))
    assert bench.executor.status.steps_skipped == 2


def test_a_chunk_whose_steps_have_all_passed_is_refused():
    data = sim_arm().model_dump(mode="json")
    data["budgets"]["chunk_age_s"] = 5.0
    bench = Bench(parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml))
    bench.send(bench.chunk(FORWARD))
    bench.run(0.02)
    late = bench.chunk(FORWARD)
    bench.run(0.91)
    with pytest.raises(ChunkRefused, match="all its steps have passed"):
        bench.send(late)


def test_a_command_delivered_late_within_the_lead_still_keeps_the_limits(bench):
    for n in range(6):
        bench.send(
            bench.chunk(straight(sim_arm(), (0.01, 0.01 * (-1) ** n, 0.0)), age=0.1), transit=0.015
        )
        bench.run(0.3)
    assert not bench.violations()
