"""The controller's behaviour, one test for each rule of joint_trajectory_controller that the suite relies on."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_training.simulation.trajectory_controller import JointTrajectoryController, TrajectoryRejected

NAMES = ("a", "b")
PERIOD = 0.004


def make(**options):
    return JointTrajectoryController(NAMES, np.array([-2.0, -1.0]), np.array([2.0, 1.0]), np.array([1.0, 2.0]), **options)


def trajectory(times, positions, velocities=None, stamp=0.0, names=NAMES):
    return SimpleNamespace(
        stamp=stamp,
        joint_names=names,
        times=np.array(times, float),
        positions=np.array(positions, float),
        velocities=None if velocities is None else np.array(velocities, float),
    )


def run(controller, start, end):
    """Samples of the control loop from ``start`` to ``end``: (times, positions, velocities)."""
    times = np.arange(start, end + PERIOD / 2, PERIOD)
    states = [controller.sample(now) for now in times]
    return times, np.array([state[0] for state in states]), np.array([state[1] for state in states])


def test_holds_from_the_start_and_after_hold():
    controller = make()
    controller.hold(np.array([0.5, -0.25]))
    for now in (0.0, 10.0):
        position, speed = controller.sample(now)
        assert position.tolist() == [0.5, -0.25] and not speed.any()


def test_without_velocities_the_motion_is_linear_and_starts_on_arrival():
    controller = make()
    controller.sample(5.0)
    controller.accept(trajectory([1.0], [[0.5, -0.5]]), 5.0)
    times, positions, velocities = run(controller, 5.0, 6.0)
    np.testing.assert_allclose(positions[:, 0], 0.5 * (times - 5.0), atol=1e-9)
    np.testing.assert_allclose(velocities[1:-1, 1], -0.5, atol=1e-9)


def test_with_velocities_the_motion_is_a_cubic_through_the_points():
    controller = make()
    controller.sample(0.0)
    controller.accept(trajectory([1.0, 2.0], [[0.3, 0.1], [0.6, 0.1]], [[0.4, 0.0], [0.0, 0.0]]), 0.0)
    position, speed = run(controller, 0.0, 1.0)[1:]
    np.testing.assert_allclose(position[-1], [0.3, 0.1], atol=1e-9)
    np.testing.assert_allclose(speed[-1], [0.4, 0.0], atol=1e-9)
    assert np.abs(np.diff(speed[:, 0])).max() < 0.01  # no step in the velocity


def test_holds_the_last_point():
    controller = make()
    controller.accept(trajectory([0.5], [[0.2, 0.1]]), 0.0)
    run(controller, 0.0, 0.6)
    position, speed = controller.sample(100.0)
    assert position.tolist() == [0.2, 0.1] and not speed.any()


def test_a_past_stamp_drops_the_points_that_have_passed():
    controller = make()
    controller.sample(10.0)
    controller.accept(trajectory([0.1, 0.2, 0.6], [[1.0, 1.0], [1.0, 1.0], [0.2, 0.2]], stamp=9.7), 10.0)
    times, positions, _ = run(controller, 10.0, 10.3)
    np.testing.assert_allclose(positions[:, 0], 0.2 * (times - 10.0) / 0.3, atol=1e-9)


def test_a_trajectory_of_the_past_is_rejected_and_the_old_one_goes_on():
    controller = make()
    controller.accept(trajectory([1.0], [[0.5, 0.5]]), 10.0)
    with pytest.raises(TrajectoryRejected, match=r"all points have passed: the last one was due 0\.500 s ago"):
        controller.accept(trajectory([0.5], [[-1.0, -1.0]], stamp=9.0), 10.0)
    assert run(controller, 10.0, 11.0)[1][-1].tolist() == pytest.approx([0.5, 0.5])
    assert (controller.accepted, controller.rejected) == (1, 1)


def test_a_future_stamp_defers_and_the_old_trajectory_is_followed_until_then():
    controller, reference = make(), make()
    for each in (controller, reference):
        each.sample(0.0)
        each.accept(trajectory([1.0], [[0.8, 0.4]]), 0.0)
    controller.accept(trajectory([0.5], [[0.0, 0.0]], stamp=0.5), 0.1)
    _, positions, _ = run(controller, 0.0, 1.0)
    _, expected, _ = run(reference, 0.0, 0.5)
    np.testing.assert_allclose(positions[: len(expected)], expected, atol=1e-12)
    np.testing.assert_allclose(positions[-1], [0.0, 0.0], atol=1e-9)


def test_the_last_of_two_deferred_trajectories_wins():
    controller = make()
    controller.sample(0.0)
    controller.accept(trajectory([0.5], [[0.5, 0.5]], stamp=1.0), 0.0)
    controller.accept(trajectory([0.5], [[-0.25, -0.25]], stamp=0.5), 0.1)
    _, positions, _ = run(controller, 0.0, 3.0)
    assert positions.max() == 0.0 and positions[-1].tolist() == [-0.25, -0.25]


def test_joins_from_the_desired_state_without_a_step():
    controller = make()
    controller.sample(0.0)
    controller.accept(trajectory([1.0], [[0.5, 0.5]], [[0.0, 0.0]]), 0.0)
    _, before, speed_before = run(controller, 0.0, 0.5)
    controller.accept(trajectory([0.4], [[0.3, 0.0]], [[0.0, 0.0]]), 0.5 + 0.7 * PERIOD)
    _, after, speed_after = run(controller, 0.5 + PERIOD, 1.0)
    assert np.abs(after[0] - before[-1] - PERIOD * speed_before[-1]).max() < 3e-4
    assert np.abs(speed_after[0] - speed_before[-1]).max() < 0.1  # a stale start would show as a step of the whole speed


def test_joint_order_is_free():
    controller = make()
    controller.accept(trajectory([0.5], [[0.1, 0.2]], names=("b", "a")), 0.0)
    assert run(controller, 0.0, 0.6)[1][-1].tolist() == pytest.approx([0.2, 0.1])


def test_limits_clip_and_are_counted():
    controller = make()
    controller.sample(0.0)
    controller.accept(trajectory([1.0], [[0.0, 1.5]]), 0.0)  # upper limit 1.0
    _, positions, _ = run(controller, 0.0, 1.5)
    assert positions[-1].tolist() == [0.0, 1.0]
    assert controller.position_clips[1] > 0 and not controller.position_clips[0] and not controller.velocity_clips.any()


def test_a_jump_is_taken_at_the_velocity_limit():
    controller = make()
    controller.sample(0.0)
    controller.accept(trajectory([0.0], [[1.0, 1.0]]), 0.0)
    times, positions, velocities = run(controller, PERIOD, 1.1)
    np.testing.assert_allclose(positions[:, 0], np.minimum(times, 1.0), atol=1e-6)
    np.testing.assert_allclose(velocities[: len(times) // 2, 0], 1.0, atol=1e-6)
    assert (controller.velocity_clips > 0).all()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (trajectory([1.0], [[0.0, 0.0]], names=("a", "c")), "joint_names must be a, b"),
        (trajectory([1.0], [[0.0]], names=("a",)), "joint_names"),
        (trajectory([], np.zeros((0, 2))), "no points"),
        (trajectory([1.0], [[0.0, 0.0, 0.0]]), "positions must be 1 points of 2 joints"),
        (trajectory([1.0], [[0.0, 0.0]], [[0.0]]), "velocities must be"),
        (trajectory([1.0, 1.0], [[0.0, 0.0]] * 2), "rise from point to point"),
        (trajectory([-0.1, 1.0], [[0.0, 0.0]] * 2), "0 or more"),
        (trajectory([1.0], [[np.nan, 0.0]]), "positions has a value that is not finite"),
        (trajectory([1.0], [[0.0, 0.0]], [[0.0, np.inf]]), "velocities has a value"),
        (trajectory([np.nan], [[0.0, 0.0]]), "not finite"),
        (trajectory([1.0], [[0.0, 0.0]], [[0.0, 0.1]]), "the last point of b still moves"),
    ],
)
def test_bad_trajectories_are_rejected_with_a_reason(bad, says):
    controller = make()
    before = controller.sample(0.0)[0]
    with pytest.raises(TrajectoryRejected, match=says):
        controller.accept(bad, 0.0)
    assert (controller.sample(0.1)[0] == before).all()


def test_a_moving_end_can_be_allowed():
    make(allow_moving_end=True).accept(trajectory([1.0], [[0.0, 0.0]], [[0.0, 0.1]]), 0.0)


values = st.floats(-5, 5, allow_nan=False)


@settings(deadline=None, max_examples=60)
@given(
    messages=st.lists(
        st.tuples(
            st.floats(-0.3, 0.3),  # stamp relative to now
            st.lists(st.tuples(st.floats(0.01, 0.5), values, values, values, values), min_size=1, max_size=5),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_arrives_the_commands_stay_inside_the_limits(messages):
    controller, now = make(), 1.0
    last = controller.sample(now)[0]
    for offset, points, with_velocities in messages:
        times = np.cumsum([point[0] for point in points])
        velocities = np.array([point[3:] for point in points])
        velocities[-1] = 0.0
        try:
            controller.accept(
                trajectory(times, [point[1:3] for point in points], velocities if with_velocities else None, now + offset), now
            )
        except TrajectoryRejected:
            assert now + offset + times[-1] <= now
        for _ in range(30):
            now += PERIOD
            position, speed = controller.sample(now)
            assert (position >= [-2, -1]).all() and (position <= [2, 1]).all()
            assert (np.abs(position - last) <= np.array([1.0, 2.0]) * PERIOD + 1e-12).all()
            assert np.isfinite(speed).all()
            last = position
