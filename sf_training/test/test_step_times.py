"""Labels per second: over all steps after the warm-up, with their number."""

import pytest

from sf_training.training.loop.step_times import WARM_UP_STEPS, StepTimes


def test_the_first_steps_do_not_count_and_slow_ones_later_do():
    times = StepTimes(labels=16)
    for _ in range(WARM_UP_STEPS):
        assert times.rate is None and times.summary() == {"steps": 0, "warm_up_steps": 10}
        times.add(100.0)
    assert times.rate is None
    for seconds in [*[0.1] * 98, 4.0, 6.2]:
        times.add(seconds)
    assert times.rate == pytest.approx(16 * 100 / 20)
    assert times.summary() == {
        "mean": 80.0,
        "steps": 100,
        "warm_up_steps": WARM_UP_STEPS,
        "step_s_median": 0.1,
        "step_s_95": 0.1,
    }
