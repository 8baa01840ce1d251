"""Tests of the dead-man switch: without a current press, nothing is sent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teleoperation_cases import PERIOD, Pad

from sf_training.teleoperation.dead_man import DeadManSwitch


def test_nothing_is_sent_without_the_switch_for_any_sticks():
    pad = Pad()
    assert not pad.press(1.0, grip=False, axes={0: 1.0, 1: -1.0, 3: 0.5})
    assert "dead-man switch is open" in pad.session.state


def test_a_press_starts_and_a_release_ends_commands_at_once():
    pad = Pad()
    assert len(pad.press(0.5, axes={1: 1.0})) == 25
    assert pad.session.state.startswith("teleoperation has control")
    assert not pad.press(0.5, grip=False, axes={1: 1.0})


def test_a_switch_that_is_down_at_first_must_be_released_once():
    pad = Pad()
    # As after a restart of the node, with the button taped down.
    pad.session._switch = DeadManSwitch(0.25, "joy")
    assert not pad.press(1.0, axes={1: 1.0})
    assert "release it once" in pad.session.state
    pad.press(0.1, grip=False)
    assert pad.press(0.5, axes={1: 1.0})


def test_missing_messages_release_the_switch_until_the_next_press():
    pad = Pad()
    pad.press(0.5, axes={1: 1.0})
    silent = pad.run(1.0, lambda: None)  # the cable is disconnected
    assert len(silent) * PERIOD <= 0.25 + PERIOD
    assert "silent" in pad.session.state
    assert not pad.run(0.5), "the cable is back, with the button still down"
    pad.press(0.1, grip=False)
    assert pad.press(0.1)


def test_a_driver_that_repeats_unchanged_messages_releases_the_switch():
    pad = Pad()
    sent = pad.press(10.0, axes={1: 0.8})
    assert len(sent) * PERIOD == pytest.approx(3.0, abs=0.1)  # unchanged_s
    assert "exactly the same" in pad.session.state
    pad.press(0.1, grip=False)
    assert len(pad.press(6.0)) * PERIOD == pytest.approx(6.0), (
        "a hand that only holds the switch may do so for long"
    )


def test_after_an_executor_stop_the_switch_must_be_released_first():
    pad = Pad()
    pad.press(0.5, axes={1: 1.0})
    pad.session.trip("the executor reports: emergency stop")
    assert not pad.run(1.0)
    assert "emergency stop" in pad.session.state and "press it again" in pad.session.state
    pad.press(0.1, grip=False)
    assert pad.press(0.1, axes={1: 1.0})


def test_the_stop_button_works_without_the_switch():
    pad = Pad()
    pad.press(0.1, grip=False, buttons=(4,))
    assert pad.session.emergency_stop
    pad.press(0.1, grip=False)
    assert not pad.session.emergency_stop


def test_lost_joint_states_end_teleoperation_until_the_next_press():
    pad = Pad()
    pad.press(0.3, axes={1: 1.0})
    for _ in range(50):
        pad.now += PERIOD
        pad.say()
        last = pad.session.command(pad.now, PERIOD)
    assert last is None and "joint states" in pad.session.state
    assert not pad.run(0.5), "joint states are back, with the button still down"


def test_the_status_names_the_next_action_not_an_earlier_obstacle():
    pad = Pad()
    pad.now += 1.0  # joint states are late
    pad.press(0.0)
    for _ in range(3):
        pad.now += PERIOD
        pad.say()
        assert pad.session.command(pad.now, PERIOD) is None
    assert "joint states" in pad.session.state
    pad.run(0.5, lambda: None)  # and the switch sends nothing
    assert "press it again" in pad.session.state


@settings(max_examples=200, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.sampled_from(["down", "up", "trip", "silence"]), st.floats(0.001, 0.6)),
        max_size=40,
    )
)
def test_the_switch_is_held_only_by_a_recent_press(events):
    """Compare with the rule.

    The last change was a press after a release, within ``age_s``.
    """
    switch, now, armed, held, received = DeadManSwitch(0.25, "joy"), 0.0, False, False, -np.inf
    for event, seconds in events:
        now += seconds
        if now - received > 0.25:
            held = False
        if event in ("down", "up"):
            switch.receive(event == "down", now)
            received = now
            if event == "up":
                armed, held = True, False
            elif armed:
                armed, held = False, True
        elif event == "trip":
            switch.trip("a reason")
            held = False
        assert switch.held(now) == held
        assert bool(switch.why_open) != held
