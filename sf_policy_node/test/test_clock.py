"""Tests of the clock monitor with a manual stopwatch and clock."""

import numpy as np
import pytest

from sf_policy_node.motion.safety.clock import ClockWatch


class Time:
    """A simulated clock that is received every 0.01 s of its own."""

    def __init__(self) -> None:
        self.stopwatch, self.clock, self.stalls = 100.0, 50.0, 0
        self.watch = ClockWatch(lambda: self.stopwatch, simulated=True)
        self.watch.advance(self.clock)

    def run(self, seconds: float, rate: float) -> float:
        """Advance the time; return the largest possible delay during it."""
        worst, end = 0.0, self.clock + seconds
        while self.clock < end - 1e-9:
            self.clock += 0.01
            self.stopwatch += 0.01 / rate
            self.stalls += self.clock > 51.1 and self.watch.is_stalled  # once the rate is known
            self.watch.advance(self.clock)
            worst = max(worst, self.watch.possible_delay)
        return worst


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25, 0.5, 0.9, 1.0, 4.0])
def test_a_slow_simulation_is_neither_a_delay_nor_a_stall(rate):
    time = Time()
    time.run(1.0, rate)
    assert time.run(3.0, rate) < 0.02
    assert not time.stalls


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_a_clock_that_stops_has_stalled(rate):
    time = Time()
    time.run(3.0, rate)
    time.stopwatch += 0.09 / rate
    assert not time.watch.is_stalled
    time.stopwatch += 0.02 / rate
    assert time.watch.is_stalled


@pytest.mark.parametrize("rate", [0.25, 1.0])
@pytest.mark.parametrize("seconds", [0.6, 2.0])
def test_a_suspended_process_counts_the_missed_time(rate, seconds):
    time = Time()
    time.run(3.0, rate)
    time.stopwatch += seconds
    assert time.watch.possible_delay == pytest.approx(seconds * rate, abs=0.02)
    time.watch.advance(time.clock + 0.01)  # outdated messages
    assert time.watch.possible_delay == pytest.approx(seconds * rate, abs=0.03)


def test_a_stamp_shows_how_late_a_simulated_clock_is():
    time = Time()
    time.run(2.0, 1.0)
    time.watch.note_stamp(time.clock + 0.1)
    assert time.watch.possible_delay == pytest.approx(0.1)
    time.watch.note_stamp(time.clock + 0.2)  # a jump, or a wrong stamp
    assert time.watch.possible_delay < 0.02


@pytest.mark.parametrize("late_s", [0.0, 0.05, 0.3])
@pytest.mark.parametrize(
    ("rate", "stall_s"), [(1.0, 0.0), (1.0, 0.3), (1.0, 1.2), (0.9, 0.6), (0.5, 0.2)]
)
def test_a_clock_set_during_a_stall_of_this_process_has_jumped_by_that_step(rate, stall_s, late_s):
    """Before, up to 0.3 s the step counted as the delay, and a stop began 0.3 rad away."""
    time = Time()
    time.run(3.0, rate)
    time.stopwatch += stall_s
    if late_s <= stall_s:
        time.watch.advance(time.clock + rate * (stall_s - late_s))  # a message from before
    assert time.watch.jump(time.clock + rate * stall_s) == 0.0
    found = time.watch.jump(time.clock + rate * stall_s + 0.3)
    assert found == pytest.approx(0.3, abs=0.001)


@pytest.mark.parametrize("clock_first", [True, False])
def test_stamps_tell_a_set_clock_from_a_delay_of_this_process(clock_first):
    """A simulation at half speed may have caught up during the delay."""
    for is_set in (False, True):
        time = Time()
        for _ in range(300):
            time.run(0.01, 0.5)
            time.watch.note_stamp(time.clock)
        time.stopwatch += 0.5
        stamps = time.clock + np.arange(0.01, 0.251 if is_set else 0.501, 0.01)
        if is_set:
            stamps[20:] += 0.25
        now = stamps[-1]
        if clock_first:
            assert time.watch.jump(now) == 0.0
            time.watch.advance(now)
            assert time.watch.is_behind
        for stamp in stamps:
            time.watch.note_stamp(stamp)
        assert time.watch.jump(now) == pytest.approx(0.25 if is_set else 0.0)
        if not is_set:
            time.watch.advance(now)
            assert not time.watch.is_behind


def test_a_fast_simulation_of_unsteady_speed_has_not_jumped():
    time = Time()
    for rate in (4.0, 2.0, 4.0, 5.0):
        time.run(3.0, rate)
        time.stopwatch += 0.2
        time.clock += 0.2 * 4.0
        assert time.watch.jump(time.clock) == 0.0
        time.watch.advance(time.clock)


def test_a_slowed_simulation_is_no_delay_after_a_while():
    time = Time()
    time.run(2.0, 1.0)
    time.run(3.0, 0.25)
    assert time.run(1.0, 0.25) < 0.02


def test_a_simulation_of_unsteady_speed_is_no_delay():
    """A busy machine slows it down again and again; before, joins were up to 0.3 s late."""
    time = Time()
    time.run(2.0, 1.0)
    assert max(time.run(0.3, rate) for _ in range(10) for rate in (0.6, 1.0)) < 0.02


@pytest.mark.parametrize("steps", [(-0.045, -0.02), (-3.0, 0.02), (2.0, 0.02)])
def test_jumps_of_a_real_clock_that_is_set_twice_or_read_late_add_up(steps):
    """The second step follows before the first is noticed, or it is the delay of a reading."""
    time = Time()
    watch = ClockWatch(lambda: time.stopwatch)
    found = 0.0
    for reading in range(20):
        time.stopwatch += 0.01
        now = time.stopwatch + sum(steps[: (reading > 8) + (reading > 9)])
        if jump := watch.jump(now):
            found += jump
            watch.reset(now, jump)
        watch.advance(now)
    assert found == pytest.approx(sum(steps))
