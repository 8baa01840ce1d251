"""Tests of jumps of measured joints away from the commanded path: which count, which end."""

import numpy as np
import pytest

from sf_policy_node.motion.safety.displacement import DisplacementWatch

BAND, ACCELERATION = np.full(2, 0.025), np.full(2, 12.0)


def watch(errors, period=0.01):
    found = DisplacementWatch(BAND, ACCELERATION)
    for n, error in enumerate(errors):
        found.add(n * period, np.array([error, 0.0]))
    return found


@pytest.mark.parametrize("after", [2, 5, 100])
@pytest.mark.parametrize("before", [1, 2, 30])
@pytest.mark.parametrize("droop", [0.0, 0.06])
def test_a_jump_between_two_joint_states_is_a_displacement(droop, before, after):
    errors = [droop] * before + [droop + 0.16] * after
    assert watch(errors).displaced(np.array([droop + 0.16, 0.0])).tolist() == [True, False]


@pytest.mark.parametrize("wrong", [[0.4], [0.4, 0.4, 0.4], [0.4] * 20, [-1.0, 2.0, -0.7]])
@pytest.mark.parametrize("droop", [0.0, 0.06])
def test_wrong_readings_that_have_ended_are_no_displacement(droop, wrong):
    found = watch([droop] * 30 + wrong + [droop] * 5)
    assert not found.displaced(np.array([droop, 0.0])).any()


def test_a_slowly_yielding_servo_is_not_displaced_even_after_wrong_readings():
    errors = [0.0] * 10 + [0.4] * 3 + [0.0] * 50 + list(np.linspace(0.0, 0.2, 40))
    assert not watch(errors).displaced(np.array([0.2, 0.0])).any()


def test_a_servo_that_lags_by_100_ms_is_not_displaced_by_the_hardest_stop():
    times = np.arange(0.0, 1.0, 0.01)
    speed = np.clip(2.0 - 12.0 * np.maximum(times - 0.3, 0.0), 0.0, 2.0)
    path = np.cumsum(speed) * 0.01
    measured = np.interp(times - 0.1, times, path)
    for every in (1, 4):
        found = watch((measured - path)[::every], 0.01 * every)
        assert not found.displaced(np.array([0.0, 0.0])).any()


@pytest.mark.parametrize(("rested_s", "is_displaced"), [(1.0, True), (0.0, False)])
def test_lost_joint_states_do_not_hide_that_a_resting_arm_was_moved(rested_s, is_displaced):
    """On a busy computer a reset of the simulated arm takes 0.15 s without joint states."""
    found = DisplacementWatch(BAND, ACCELERATION)
    ends = 1.0 - rested_s
    for stamp in (0.96, 0.97, 0.98, 0.99):
        found.add(stamp, np.zeros(2), ends)
    for stamp in (1.14, 1.15, 1.16):
        found.add(stamp, np.array([0.19, 0.0]), ends)
    assert found.displaced(np.array([0.19, 0.0])).tolist() == [is_displaced, False]


def test_old_readings_do_not_count():
    found = watch([0.0] * 5 + [0.2] * 5)
    found.forget()
    assert not found.displaced(np.array([0.2, 0.0])).any()
