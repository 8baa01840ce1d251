"""The model of joint_trajectory_controller: one test for each rule on which the executor relies.

The values were compared with the compiled sources (4.42.1, 5.17.0, 6.9.0, master 94e74de35),
outside of this project.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from sf_policy_node.controller.control_loop import ControlLoop
from sf_policy_node.controller.limiter import JointLimiter
from sf_policy_node.controller.parameters import ControllerParameters, Replacement
from sf_policy_node.controller.trajectory_controller import (
    JointTrajectoryController,
    TrajectoryRejected,
)

NAMES = ("a", "b")
ORIGIN = np.zeros(2)


def both(values):
    """Return the same column for both joints."""
    return None if values is None else np.repeat(np.array(values, float)[:, None], 2, axis=1)


def trajectory(times, positions, velocities=None, stamp=0.0, names=NAMES, **more):
    points = {
        "times": np.array(times, float),
        "positions": both(positions),
        "velocities": both(velocities),
    }
    return SimpleNamespace(stamp=stamp, joint_names=names, **points, **more)


def make(positions=ORIGIN, velocities=ORIGIN, rate=100.0, **parameters):
    controller = JointTrajectoryController(
        NAMES, ControllerParameters(**parameters), update_rate_hz=rate
    )
    controller.activate(positions, velocities)
    return controller


def follow(controller, times, measured=None):
    """Return commands of the first joint, cycle by cycle.

    ``measured`` None: the joints are at their commands.
    """
    commands = []
    for now in times:
        joints = (
            (ORIGIN if controller.command is None else controller.command)
            if measured is None
            else measured
        )
        commands.append(controller.update(now, joints, ORIGIN)[0])
    return np.array(commands)


def cycles(start, end, rate=100.0):
    return start + np.arange(round((end - start) * rate)) / rate


def test_commands_are_sampled_at_the_end_of_the_cycle_from_cubics_between_points():
    controller = make()
    controller.update(1.0, ORIGIN, ORIGIN)
    controller.accept(trajectory([0.0, 1.0], [0.0, 1.0], [0.0, 0.0], stamp=1.01), 1.0)
    times = cycles(1.01, 2.0)
    s = times + 0.01 - 1.01
    np.testing.assert_allclose(follow(controller, times), 3 * s**2 - 2 * s**3, atol=1e-9)
    assert follow(controller, [2.0, 2.5]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("velocities", "accelerations", "middle"),
    [
        (None, None, 0.5),
        ([0.0, 0.0], None, 0.5),
        ([2.0, 0.0], None, 0.75),
        ([0.0, 0.0], [8.0, 0.0], 0.5 + 8.0 / 64),
        (None, [0.0, 0.0], 0.0),  # zero: as in the real controller
    ],
)
def test_the_fields_of_the_points_decide_the_degree_of_the_spline(
    velocities, accelerations, middle
):
    controller = make()
    controller.update(0.0, ORIGIN, ORIGIN)
    controller.accept(
        trajectory(
            [0.0, 1.0], [0.0, 1.0], velocities, stamp=1.0, accelerations=both(accelerations)
        ),
        0.99,
    )
    assert follow(controller, [1.0, 1.49])[-1] == pytest.approx(middle)


@pytest.mark.parametrize("desired", [False, True])
def test_the_approach_starts_at_the_measured_joints_or_at_the_last_command(desired):
    controller = make(interpolate_from_desired_state=desired)
    controller.accept(trajectory([0.0], [1.0], stamp=0.0), 0.0)
    follow(controller, [1.0, 1.01], measured=ORIGIN + 0.9)
    controller.accept(trajectory([0.0], [2.0], stamp=1.06), 1.011)
    commanded = follow(controller, [1.02], measured=ORIGIN + 0.9)[0]
    # Commanded 1.0 for 1.02, dated 1.01: two fifths of the way from there are past at 1.03; from
    # the measured 0.9 at 1.02 a quarter.
    assert commanded == pytest.approx(1.0 + 1.0 * 2 / 5 if desired else 0.9 + 1.1 / 4)


def test_a_first_point_at_or_before_now_needs_no_approach():
    for desired in (False, True):
        controller = make(interpolate_from_desired_state=desired)
        follow(controller, [1.0])
        controller.accept(trajectory([0.0, 0.5], [0.0, 1.0], [2.0, 0.0], stamp=0.995), 1.0)
        s = (1.02 - 0.995) / 0.5
        assert follow(controller, [1.01], measured=ORIGIN - 0.3)[0] == pytest.approx(
            3 * s**2 - 2 * s**3 + (s - 2 * s**2 + s**3) * 1.0
        )


def test_without_velocity_states_the_approach_starts_stationary():
    controller = make(velocities=None)
    controller.update(1.0, ORIGIN)
    controller.accept(trajectory([0.1], [1.0], [0.0], stamp=1.0), 1.0)
    commanded = controller.update(1.01, ORIGIN)[0]
    s = 0.01 / 0.09
    assert commanded == pytest.approx(3 * s**2 - 2 * s**3)


def test_a_stamp_of_zero_is_the_next_cycle():
    controller = make()
    follow(controller, [1.0])
    controller.accept(trajectory([0.1], [1.0]), 1.003)
    assert follow(controller, [1.01])[0] == pytest.approx(0.1)


def test_the_last_of_several_messages_before_a_cycle_is_used():
    controller = make()
    controller.accept(trajectory([0.0], [1.0]), 0.0)
    controller.accept(trajectory([0.0], [2.0]), 0.0)
    assert follow(controller, [0.01])[0] == 2.0


def test_a_trajectory_that_ends_in_the_past_is_dropped_and_the_current_one_continues():
    controller = make()
    controller.accept(trajectory([1.0], [1.0], stamp=10.0), 10.0)
    follow(controller, [10.0])
    with pytest.raises(
        TrajectoryRejected, match=r"ends in the past: its last point was due 0\.500 s ago"
    ):
        controller.accept(trajectory([0.5], [-1.0], stamp=9.0), 10.0)
    controller.accept(trajectory([1.0], [1.0], stamp=9.0), 10.0)  # ends now: in time
    assert follow(controller, [10.01])[0] == 1.0
    assert (controller.accepted, controller.rejected) == (2, 1)


def test_after_the_end_the_last_point_is_held_even_if_it_has_a_velocity():
    controller = make(allow_nonzero_velocity_at_trajectory_end=True)
    controller.accept(trajectory([0.0, 0.1], [0.0, 0.1], [1.0, 1.0], stamp=1.0), 1.0)
    assert follow(controller, cycles(1.0, 1.5))[-1] == 0.1
    assert controller.velocity[0] == 1.0


def test_without_interpolation_the_next_point_is_commanded_at_once():
    controller = make(interpolation_method="none")
    controller.accept(trajectory([0.1, 0.2, 0.3], [1.0, 2.0, 3.0], stamp=1.0), 1.0)
    assert follow(controller, cycles(1.0, 1.32))[[0, 8, 9, 19, 31]].tolist() == [
        0.0,
        0.0,
        2.0,
        3.0,
        3.0,
    ]


def test_retiming_shifts_a_trajectory_from_the_past_to_now_and_keeps_a_future_one():
    def second_begins(stamp):
        controller = make(replacement=Replacement.RETIME)
        controller.accept(trajectory([0.0, 1.0], [0.0, 0.0], [0.0, 0.0], stamp=1.0), 1.0)
        follow(controller, [1.0])
        controller.accept(trajectory([0.0, 0.1], [1.0, 1.0], [0.0, 0.0], stamp=stamp), 1.0)
        return 1.0 + 0.01 * int(np.argmax(follow(controller, cycles(1.01, 1.6)) > 0.999) + 2)

    assert second_begins(1.3) == pytest.approx(1.29, abs=0.011)
    assert second_begins(0.95) == pytest.approx(1.02, abs=0.011)

    controller = make(replacement=Replacement.RETIME)
    controller.accept(trajectory([0.0, 1.0], [0.0, 1.0], stamp=1.0), 1.0)
    follow(controller, cycles(1.0, 1.2))
    controller.accept(trajectory([0.0, 0.8], [0.2, 1.0], stamp=1.2), 1.2)
    late = follow(controller, [1.25])[0]
    assert late == pytest.approx(0.2, abs=0.011)  # on its stamp it would be at 0.26 here


def test_upsampling_adds_missing_times_and_velocities():
    controller = make(positions_upsampling=True, policy_frequency=10.0)
    controller.accept(trajectory([0.0, 0.0, 0.0], [0.1, 0.2, 0.3]), 0.0)
    commands = follow(controller, cycles(1.0, 1.4))
    assert commands[[8, 9, 18, 19, 29]] == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3], abs=0.015)
    assert np.diff(commands)[19] == pytest.approx(0.015, abs=1e-3)  # 1.5 rad/s in the middle
    assert np.abs(np.diff(commands)[[9, -1]]).max() < 2e-3  # at rest at both ends


def test_a_motion_whose_end_is_repeated_is_accepted_late():
    controller = make()
    controller.accept(trajectory([0.0, 0.1], [0.0, 1.0], [0.0, 0.0], stamp=1.0, hold_s=1.0), 1.5)
    assert follow(controller, [1.5])[0] == 1.0
    with pytest.raises(TrajectoryRejected, match="past"):
        controller.accept(trajectory([0.0, 0.1], [0.0, 1.0], stamp=1.0, hold_s=1.0), 2.2)


def test_deferring_keeps_the_current_trajectory_until_the_stamp_of_the_new_one():
    first, second = (
        trajectory([0.0, 1.0], [0.0, 1.0], stamp=1.0),
        trajectory([0.1, 0.2], [5.0, 5.0], stamp=1.5),
    )
    for replacement, at_1_3 in ((Replacement.DEFER, 0.3), (Replacement.REPLACE, 1.6)):
        controller = make(replacement=replacement)
        controller.accept(first, 1.0)
        follow(controller, cycles(1.0, 1.2))
        controller.accept(second, 1.2)
        assert follow(controller, cycles(1.2, 1.3))[-1] == pytest.approx(at_1_3, abs=0.25)
        assert follow(controller, cycles(1.3, 1.8))[-1] == 5.0


def test_a_violated_tolerance_holds_the_measured_position_until_the_next_message():
    controller = make(trajectory_tolerance={"b": 0.05})
    controller.accept(trajectory([0.0, 1.0], [0.0, 1.0], stamp=1.0), 1.0)
    follow(controller, cycles(1.0, 1.2))
    stuck = np.array([0.19, 0.1])
    assert follow(controller, cycles(1.2, 1.3), measured=stuck)[-1] == 0.19
    assert controller.holding and "state tolerance violation" in controller.messages[-1]
    controller.accept(trajectory([0.0], [0.5]), 1.3)
    assert not controller.holding


def test_the_goal_tolerance_is_checked_only_with_a_goal_time():
    for goal_time, held in ((0.0, False), (0.1, True)):
        controller = make(goal_tolerance={"a": 0.01}, goal_time=goal_time)
        controller.accept(trajectory([0.0, 0.1], [0.0, 1.0], stamp=1.0), 1.0)
        follow(controller, cycles(1.0, 1.5), measured=ORIGIN + 0.5)
        assert controller.holding is held and controller.command[0] == (0.5 if held else 1.0)


def test_the_command_timeout_starts_at_the_end_and_holds_the_measured_position():
    controller = make(cmd_timeout=0.2)
    controller.accept(trajectory([0.0, 0.1], [0.0, 1.0], stamp=1.0), 1.0)
    assert follow(controller, cycles(1.0, 1.28), measured=ORIGIN + 0.9)[-1] == 1.0
    assert follow(controller, cycles(1.28, 1.35), measured=ORIGIN + 0.9)[-1] == 0.9
    assert controller.messages == ["Aborted due to command timeout"]
    assert ControllerParameters(cmd_timeout=0.1, goal_time=0.2).timeout == 0.0


@pytest.mark.parametrize(("from_command", "position"), [(True, 0.2), (False, 0.15)])
def test_inactive_it_accepts_nothing_and_reactivated_it_holds_its_last_command(
    from_command, position
):
    controller = make(set_last_command_interface_value_as_state_on_activation=from_command)
    controller.accept(trajectory([0.0, 1.0], [0.0, 1.0], stamp=1.0), 1.0)
    follow(controller, cycles(1.0, 1.2))
    controller.deactivate()
    controller.accept(trajectory([0.0], [2.0]), 1.2)
    measured = ORIGIN + 0.15
    assert controller.update(1.2, measured, ORIGIN)[0] == pytest.approx(0.2)
    controller.activate(measured, ORIGIN)
    assert (
        follow(controller, cycles(1.25, 1.35), measured=measured)[-1] == pytest.approx(position)
        and controller.holding
    )


def test_speed_scaling_slows_the_playback():
    controller = make()
    controller.accept(trajectory([0.0, 1.0], [0.0, 1.0], stamp=1.0), 1.0)
    follow(controller, [1.0])
    controller.scaling = 0.5
    assert follow(controller, cycles(1.01, 1.41))[-1] == pytest.approx(0.2 + 0.01)


def test_continuous_joints_take_the_shorter_direction():
    controller = make(positions=np.array([6.2, 6.2]), continuous=frozenset({"a"}))
    controller.accept(trajectory([0.1], [0.0], stamp=1.0), 1.0)
    command = controller.update(1.0, np.array([6.2, 6.2]), ORIGIN)
    assert -0.1 < command[0] < 0.0 and 5.5 < command[1] < 6.2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (trajectory([1.0], [0.0], names=("a", "c")), "joint_names must be a, b"),
        (trajectory([1.0], [0.0], names=("a",)), "joint_names"),
        (trajectory([], []), "no points"),
        (trajectory([1.0, 1.0], [0.0, 0.0]), "rise from point to point"),
        (trajectory([1.0], [np.nan]), "positions has a value that is not finite"),
        (trajectory([np.nan], [0.0]), "not finite"),
        (trajectory([1.0], [0.0], [0.1]), "the last point of a still moves"),
    ],
)
def test_invalid_trajectories_are_refused_with_a_reason(bad, message):
    controller = make()
    with pytest.raises(TrajectoryRejected, match=message):
        controller.accept(bad, 0.0)
    assert follow(controller, [0.01])[0] == 0.0


def test_joint_order_is_free():
    controller = make()
    controller.accept(
        SimpleNamespace(
            stamp=0.0, joint_names=("b", "a"), times=[0.0], positions=[[1.0, 2.0]], velocities=None
        ),
        0.0,
    )
    assert controller.update(0.01, ORIGIN, ORIGIN).tolist() == [2.0, 1.0]


# ---- the loop around it ----

SLOPE = trajectory([0.0, 10.0], [0.0, 10.0], stamp=1.0)


def test_servos_lag_behind_a_steady_motion_by_their_time_constant():
    loop = ControlLoop(NAMES, ORIGIN, 1.0, update_rate_hz=500.0, servo_lag_s=0.05)
    assert loop.receive(SLOPE, 1.0)
    loop.advance(2.0)
    assert 1.0 - loop.position[0] == pytest.approx(0.05, abs=0.003) and loop.velocity[
        0
    ] == pytest.approx(1.0, abs=1e-3)
    assert len(loop.take().times) == 500 and not len(loop.take().times)


def test_a_controller_clock_that_is_behind_starts_later_and_one_ahead_refuses_ended_trajectories():
    loop = ControlLoop(NAMES, ORIGIN, 1.0, clock_offset_s=-0.03)
    loop.receive(SLOPE, 1.0)
    loop.advance(1.5 - 1e-9)
    assert loop.commanded[0] == pytest.approx(0.5 - 0.03)
    loop = ControlLoop(NAMES, ORIGIN, 1.0, clock_offset_s=0.2)
    assert (
        not loop.receive(trajectory([0.1], [1.0], stamp=1.0), 1.0) and "past" in loop.messages[-1]
    )


def test_the_limiter_clips_commands_without_informing_the_controller():
    loop = ControlLoop(
        NAMES, ORIGIN, 1.0, limiter=JointLimiter(ORIGIN - 1, ORIGIN + 1, np.array([0.5, 2.0]))
    )
    loop.receive(SLOPE, 1.0)
    loop.advance(1.5)
    commands = loop.take()
    assert np.abs(commands.velocities[1:]).max(axis=0).tolist() == pytest.approx([0.5, 1.0])
    assert loop.controller.command[0] == pytest.approx(0.5)


def test_commands_give_their_velocities_and_accelerations():
    loop = ControlLoop(NAMES, ORIGIN, 1.0, update_rate_hz=250.0)
    loop.receive(trajectory([0.0, 1.0], [0.0, 1.0], [0.0, 0.0], stamp=1.0), 1.0)
    loop.advance(2.0)
    commands = loop.take()
    assert commands.velocities.max() == pytest.approx(1.5, rel=1e-3) and np.abs(
        commands.accelerations
    ).max() == pytest.approx(6.0, rel=0.02)
