"""Tests of the cadence report: reached and wanted rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_policy_node.session.cadence import Cadence

TIMES = st.lists(st.floats(0.001, 5.0), min_size=1, max_size=60)


def run(gaps, wanted=0.3, tolerance=0.03):
    cadence, now = Cadence(wanted, tolerance), 10.0
    cadence.add(now)
    for gap in gaps:
        now += gap
        cadence.add(now)
    return cadence, now


@given(TIMES)
def test_rate_slow_cycles_and_worst_cycle_follow_from_the_gaps(gaps):
    cadence, now = run(gaps)
    report = cadence.report(now)
    assert report.cycles == len(gaps)
    assert report.rate_hz == pytest.approx(len(gaps) / sum(gaps))
    assert report.worst_s == pytest.approx(max(gaps))
    sure = np.abs(np.array(gaps) - 0.33) > 1e-9  # at the budget, rounding decides
    assert np.sum(np.array(gaps)[sure] > 0.33) <= report.over_budget <= report.cycles


@given(TIMES, TIMES, st.floats(0.0, 1000.0))
def test_a_pause_is_no_cycle(before, after, pause):
    cadence, now = run(before)
    cadence.interrupt()
    now += pause
    assert cadence.report(now).worst_s == pytest.approx(max(before))
    cadence.add(now)
    for gap in after:
        now += gap
        cadence.add(now)
    report = cadence.report(now)
    assert report.cycles == len(before) + len(after)
    assert report.worst_s == pytest.approx(max(before + after)) and report.rate_hz == pytest.approx(
        report.cycles / sum(before + after)
    )


@given(TIMES, st.floats(0.34, 100.0))
def test_a_missing_chunk_counts_too(gaps, silence):
    cadence, now = run(gaps)
    before, report = cadence.report(now), cadence.report(now + silence)
    assert report.over_budget == before.over_budget + 1 and report.worst_s == pytest.approx(
        max(*gaps, silence)
    )
    assert (
        cadence.report(now + 0.2).over_budget == before.over_budget
    )  # it may still arrive in time


def test_before_the_second_chunk_there_is_no_rate():
    report = Cadence(0.3).report(5.0)
    assert (report.rate_hz, report.cycles, report.worst_s) == (
        0.0,
        0,
        0.0,
    ) and report.rate_wanted_hz == pytest.approx(1 / 0.3)
    assert "too short for a rate" in str(report)


def test_a_backward_clock_jump_is_no_cycle():
    cadence, _ = run([0.3, 0.3])
    cadence.add(2.0)
    cadence.add(2.3)
    report = cadence.report(2.3)
    assert report.cycles == 3 and report.worst_s == pytest.approx(0.3)


def test_the_report_is_one_readable_line():
    cadence, now = run([0.3] * 9 + [0.6])
    assert (
        str(cadence.report(now))
        == "3.03 of 3.33 chunks per second, 1 of 10 cycles (10.0 %) over budget, worst 0.600 s"
    )
