"""Tests of pacing simulated time by a manual wall clock."""

import pytest

from sf_bringup.pacing import CATCH_UP, REPORT_WINDOW, RESTART_LAG, Pacer


class Wall:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def make(factor=1.0):
    wall = Wall()
    return Pacer(factor, wall), wall


def test_pacing_waits_until_a_simulated_time_is_due():
    pacer, wall = make(factor=2.0)
    assert pacer.wait_s(1.0) == pytest.approx(0.5)
    wall.now += 0.8
    assert pacer.wait_s(1.0) == pytest.approx(-0.3)


def test_as_fast_as_possible_never_waits():
    pacer, _ = make(factor=0.0)
    assert pacer.wait_s(1e6) == 0.0


def test_a_short_lag_is_caught_up_and_a_long_one_dropped():
    pacer, wall = make()
    wall.now += 0.9 * RESTART_LAG
    pacer.give_up_lag(0.0)
    assert pacer.wait_s(0.0) == pytest.approx(-0.9 * RESTART_LAG)
    wall.now += 0.2 * RESTART_LAG
    pacer.give_up_lag(0.0)
    assert pacer.wait_s(0.0) == 0.0


def test_after_a_stall_time_does_not_race_and_the_lag_is_made_up_for():
    pacer, wall = make()
    simulated = 0.0
    for cycle in range(300):
        wall.now += 0.09 if cycle == 100 else 0.0  # the process stalled
        wall.now += (
            max(0.0, pacer.wait_s(simulated + 0.01)) + 0.001
        )  # and every sleep is a little too long
        simulated += 0.01
        pacer.stepped(simulated)
        if cycle == 105:
            before, begin = simulated, wall.now
        if cycle == 120:
            assert 1.1 < (simulated - before) / (wall.now - begin) <= CATCH_UP + 1e-6
    assert pacer.lag_s(simulated) < 0.01


def test_the_factor_is_reported_once_per_window_without_pauses():
    pacer, wall = make()
    wall.now += REPORT_WINDOW - 0.1
    assert pacer.reached(2.0) is None
    wall.now += 0.1
    assert pacer.reached(REPORT_WINDOW / 2) == pytest.approx(0.5)
    pacer.pause(REPORT_WINDOW / 2)
    wall.now += 60.0
    pacer.restart(REPORT_WINDOW / 2)
    wall.now += REPORT_WINDOW
    assert pacer.total(1.5 * REPORT_WINDOW) == pytest.approx(0.75)
