"""Tests of the simulated arm's trajectory controller and its limits."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_policy_node.controller.parameters import ControllerParameters
from sf_policy_node.controller.validation import TrajectoryRejected
from sf_training.simulation.trajectory_controller import JointTrajectoryController

NAMES = ("a", "b")
PERIOD = 0.005


def make(**options):
    limits = np.array([-2.0, -1.0]), np.array([2.0, 1.0]), np.array([1.0, 2.0])
    return JointTrajectoryController(NAMES, *limits, **options)


def trajectory(times, positions, velocities=None, stamp=0.0):
    return SimpleNamespace(
        stamp=stamp,
        joint_names=NAMES,
        times=np.array(times, float),
        positions=np.array(positions, float),
        velocities=None if velocities is None else np.array(velocities, float),
    )


def run(controller, start, end):
    """Return samples from ``start`` to ``end``: times, positions, velocities."""
    times = np.arange(start, end + PERIOD / 2, PERIOD)
    states = [controller.sample(now) for now in times]
    return times, np.array([state[0] for state in states]), np.array([state[1] for state in states])


def test_the_controller_holds_from_the_start_and_after_hold():
    controller = make()
    controller.accept(trajectory([1.0], [[1.0, 1.0]]), 0.0)
    run(controller, 0.0, 0.2)
    controller.hold(np.array([0.5, -0.25]))
    for now in (0.3, 10.0):
        position, speed = controller.sample(now)
        assert position.tolist() == [0.5, -0.25] and not speed.any()


@pytest.mark.parametrize("desired", [False, True])
def test_a_trajectory_starts_from_measured_or_desired_joints(desired):
    controller = make(parameters=ControllerParameters(interpolate_from_desired_state=desired))
    still = np.zeros(2)
    controller.accept(trajectory([0.5], [[0.4, 0.4]], [[0.0, 0.0]]), 0.0)
    run(controller, 0.0, 0.6)
    controller.accept(trajectory([0.2], [[0.4, 0.4]], [[0.0, 0.0]], stamp=0.6), 0.6)
    position, _ = controller.sample(0.605, (np.array([0.39, 0.38]), still))
    # Deviations of 0.01 and 0.02, cut at the speed limit: 0.005 and 0.01 in a period.
    assert position.tolist() == pytest.approx([0.4, 0.4] if desired else [0.395, 0.39])


def test_a_controller_with_a_clock_ahead_refuses_ended_trajectories():
    with pytest.raises(TrajectoryRejected, match="past"):
        make(clock_offset_s=0.2).accept(trajectory([0.1], [[0.0, 0.0]], stamp=1.0), 1.0)


def test_a_deactivated_controller_holds_its_last_command():
    controller = make()
    controller.sample(0.0)
    controller.accept(trajectory([1.0], [[0.5, 0.5]]), 0.0)
    last = run(controller, PERIOD, 0.2)[1][-1]
    controller.deactivate()
    controller.accept(trajectory([1.0], [[-0.5, -0.5]]), 0.2)
    assert (run(controller, 0.2 + PERIOD, 0.3)[1] == last).all()
    controller.activate()
    assert (run(controller, 0.3 + PERIOD, 0.4)[1] == last).all() and controller.accepted == 1


def test_a_jump_is_limited_to_the_maximum_velocity_and_counted():
    controller = make()
    controller.sample(0.0)
    controller.accept(trajectory([0.0], [[1.0, 1.5]]), 0.0)  # upper limit of b: 1.0
    times, positions, velocities = run(controller, PERIOD, 1.1)
    np.testing.assert_allclose(positions[:, 0], np.minimum(times, 1.0), atol=1e-6)
    np.testing.assert_allclose(velocities[: len(times) // 2, 0], 1.0, atol=1e-6)
    assert positions[-1].tolist() == [1.0, 1.0]
    assert controller.position_clips[1] > 0 and not controller.position_clips[0]
    assert (controller.velocity_clips > 0).all()


values = st.floats(-5, 5, allow_nan=False)


@settings(deadline=None, max_examples=60)
@given(
    messages=st.lists(
        st.tuples(
            st.floats(-0.3, 0.3),  # stamp relative to now
            st.lists(
                st.tuples(st.floats(0.01, 0.5), values, values, values, values),
                min_size=1,
                max_size=5,
            ),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_commands_stay_within_limits_for_any_messages(messages):
    controller, now = make(), 1.0
    last = controller.sample(now)[0]
    for offset, points, with_velocities in messages:
        times = np.cumsum([point[0] for point in points])
        velocities = np.array([point[3:] for point in points])
        velocities[-1] = 0.0
        positions = [point[1:3] for point in points]
        velocities = velocities if with_velocities else None
        try:
            controller.accept(trajectory(times, positions, velocities, now + offset), now)
        except TrajectoryRejected:
            assert now + offset + times[-1] <= now
        for _ in range(30):
            now += PERIOD
            position, speed = controller.sample(now)
            assert (position >= [-2, -1]).all() and (position <= [2, 1]).all()
            assert (np.abs(position - last) <= np.array([1.0, 2.0]) * PERIOD + 1e-12).all()
            assert np.isfinite(speed).all()
            last = position
