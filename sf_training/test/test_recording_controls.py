"""Tests of keys and buttons of the recorder: calls in each state, and the display."""

import io
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sf_training.recording.screen.controls import (
    KEYS,
    Buttons,
    Press,
    Refusal,
    Service,
    ServiceCall,
    service_call,
)
from sf_training.recording.screen.terminal_view import screen
from sf_training.recording.session.recording_session import State


@pytest.mark.parametrize(
    ("press", "state", "service", "fields"),
    [
        (Press.START, State.IDLE, Service.START, {"countdown_s": 3.0, "instruction": "pick"}),
        (Press.START, State.COUNTDOWN, Service.END, {"outcome": "discarded"}),
        (Press.START, State.RECORDING, Service.END, {"outcome": "success"}),
        (Press.SUCCESS, State.RECORDING, Service.END, {"outcome": "success"}),
        (Press.FAILURE, State.RECORDING, Service.END, {"outcome": "failure"}),
        (Press.DISCARD, State.COUNTDOWN, Service.END, {"outcome": "discarded"}),
        (Press.FAILURE, State.IDLE, Service.LABEL, {"outcome": "failure"}),
        (Press.UNDO, State.IDLE, Service.LABEL, {"undo": True}),
    ],
)
def test_a_press_calls_its_service(press, state, service, fields):
    assert service_call(press, state, countdown_s=3.0, instruction="pick") == ServiceCall(
        service, fields
    )


@given(st.sampled_from(Press), st.sampled_from(State))
def test_every_press_in_every_state_gives_a_call_or_one_sentence(press, state):
    call = service_call(press, state, countdown_s=3.0)
    assert isinstance(call, ServiceCall) or (isinstance(call, Refusal) and call.sentence)
    if state in (State.INACTIVE, State.FINISHING):
        assert not isinstance(call, ServiceCall) or call.service == Service.LABEL


def test_a_held_button_counts_once():
    buttons = Buttons({Press.START: 1, Press.FAILURE: 0, Press.UNDO: -1})
    states = [[0, 1], [0, 1], [0, 0], [0, 1], [0, 1], [1, 1], [0, 0]]
    assert [buttons.read(state) for state in states] == [
        [],
        [],
        [],
        [Press.START],
        [],
        [Press.FAILURE],
        [],
    ]


@given(st.lists(st.lists(st.integers(0, 1), max_size=12), min_size=1, max_size=20))
def test_a_gamepad_with_missing_buttons_is_tolerated(messages):
    buttons = Buttons({Press.START: 7, Press.SUCCESS: 0})
    pressed = [buttons.read(message) for message in messages]
    assert pressed[0] == []
    assert sum(Press.SUCCESS in each for each in pressed) <= sum(
        bool(message and message[0]) for message in messages
    )


def test_two_presses_on_one_button_are_refused_and_missing_buttons_named():
    with pytest.raises(
        ValueError, match="start and success are both on button 0; give each its own"
    ):
        Buttons({Press.START: 0, Press.SUCCESS: 0})
    assert Buttons({Press.START: 7, Press.UNDO: 1}).missing([0] * 4) == ["start"]


def test_every_press_has_a_key():
    assert set(KEYS.values()) == set(Press)


def shown(status, **options):
    console = Console(file=io.StringIO(), width=100)
    console.print(screen(status, options.pop("said", []), **options))
    return console.file.getvalue()


def status(**changes):
    stream = SimpleNamespace(
        topic="/scene_camera/image_raw",
        expected_hz=30.0,
        measured_hz=14.9,
        longest_gap_s=0.4,
        age_s=0.012,
        received=44,
        lost=2,
        verdict=2,
        reason="",
    )
    values = {
        "state": State.RECORDING,
        "verdict": 2,
        "instruction": "pick the red cube",
        "episodes": 3,
        "outcomes": ["success 3"],
        "countdown_s": 2.2,
        "duration_s": 4.25,
        "queue_share": 0.1,
        "written_bytes": 5_000_000,
        "disk_free_bytes": 10**10,
        "disk_left_s": 600.0,
        "camera_skew_s": 0.004,
        "reasons": ["/scene_camera/image_raw: 14.9 Hz instead of 30 Hz"],
        "streams": [stream],
    }
    return SimpleNamespace(**values | changes)


def test_the_display_shows_state_and_streams_while_recording():
    text = shown(status(), said=[(True, "recording x: pick the red cube")])
    for part in (
        "RECORDING   4.2 s   FAIL",
        "pick the red cube",
        "14.9/30 Hz",
        "400 ms",
        "12 ms",
        "10 min left",
        "success 3",
        "instead of 30 Hz",
    ):
        assert part in text, text


@pytest.mark.parametrize(
    ("state", "part"),
    [
        (State.IDLE, "READY   last: FAIL"),
        (State.COUNTDOWN, "GET READY   2"),
        (State.FINISHING, "WRITING"),
        (State.INACTIVE, "NOT"),
    ],
)
def test_every_state_has_its_banner(state, part):
    assert part in shown(status(state=state))


def test_the_display_before_a_recorder_answers_and_while_typing():
    assert "waiting for the recorder" in shown(None)
    assert "instruction: pick the gr▏" in shown(status(), typing="pick the gr")


def test_the_banner_shows_the_current_instruction():
    """Between two episodes the banner shows the instruction typed for the next one.

    During an episode it shows its own, beside the next one.
    """
    assert "pick the red cube" in shown(status(state=State.IDLE))
    idle = shown(status(state=State.IDLE), next_instruction="fold the towel")
    assert "fold the towel" in idle and "pick the red cube" not in idle
    running = shown(status(), next_instruction="fold the towel")
    assert "pick the red cube   (next: fold the towel)" in running
    assert "next" not in shown(status(), next_instruction="pick the red cube")
