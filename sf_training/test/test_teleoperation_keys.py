"""Tests of keyboard teleoperation without key-up events: hold, release, tap."""

import os
import pty

import pytest
from teleoperation_cases import PERIOD, Pad

from sf_training.teleoperation.keys import CLOSE, HELD_S, HOLD, OPEN, RESUME, STOP, Keys

DELAY, REPEAT = 0.5, 0.033  # s, of a common keyboard


def held(keys, key, begin, seconds):
    """Return the times at which a held key is received."""
    keys.press(key, begin)
    yield begin
    now = begin + DELAY
    while now < begin + seconds:
        keys.press(key, now)
        yield now
        now += REPEAT


def moving(keys, now):
    axes, buttons = keys.joy(now)
    return any(axes), bool(buttons[HOLD])


def test_a_tap_moves_an_inch():
    keys = Keys()
    keys.press("w", 10.0)
    assert moving(keys, 10.0) == (True, True)
    assert moving(keys, 10.0 + HELD_S) == (False, False)


def test_a_held_key_keeps_moving_and_a_released_one_stops():
    keys = Keys()
    for now in held(keys, "a", 10.0, 2.0):
        last = now
        if now > 10.0 + DELAY:
            assert moving(keys, now) == (True, True) and keys.joy(now)[0][1] > 0
    assert moving(keys, last + HELD_S) == (False, False)


def test_the_space_bar_counts_as_held_from_its_first_repeat():
    keys = Keys()
    keys.press(" ", 10.0)
    assert not keys.joy(10.01)[1][HOLD]
    keys.press(" ", 12.0)
    assert not keys.joy(12.01)[1][HOLD], "two taps"
    times = list(held(keys, " ", 20.0, 1.0))
    assert keys.joy(times[-1])[1][HOLD] and not any(keys.joy(times[-1])[0])
    assert not keys.joy(times[-1] + HELD_S)[1][HOLD]


def test_other_keys_select_axes_speed_and_stop():
    keys = Keys()
    keys.press("]", 5.0)
    assert keys.joy(5.5)[1][CLOSE] and keys.joy(5.5)[1][HOLD] and not keys.joy(7.0)[1][HOLD]
    keys.press("[", 8.0)
    assert keys.joy(8.1)[1][OPEN] and not keys.joy(8.1)[1][CLOSE]
    keys.press("p", 9.5)
    assert keys.joy(9.5)[1][RESUME] and not keys.joy(9.5)[1][HOLD]
    keys.press("w", 9.55)
    keys.press("x", 9.56)
    assert keys.joy(9.57)[1][STOP] and not keys.joy(9.57)[1][HOLD]
    slow = keys.speed
    keys.press("+", 9.6)
    assert keys.speed > slow
    assert not keys.quit
    keys.press("q", 9.7)
    assert keys.quit


def test_keys_move_the_tool_through_the_shipped_keyboard_file():
    pad, keys = Pad("keyboard", axes=6, buttons=5), Keys()
    start = pad.tool

    def say():
        keys.press("r", pad.now)
        pad.session.on_joy("/teleop/keys", *keys.joy(pad.now), pad.now)

    pad.run(1.0, say)
    assert (pad.tool - start)[2] == pytest.approx(0.2 * 0.2, abs=2 * 0.2 * PERIOD)
    pad.run(0.2, lambda: pad.session.on_joy("/teleop/keys", *keys.joy(pad.now), pad.now))
    assert not pad.session.engaged


def test_a_terminal_is_read_key_by_key_and_restored():
    import termios

    from sf_training.recording.screen.terminal_keys import raw_keys

    other, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    with os.fdopen(terminal) as stream:
        with raw_keys(stream) as typed:
            assert typed() == []
            os.write(other, b"w\x1b[D")
            assert typed(5.0) == ["w"]
        assert termios.tcgetattr(stream.fileno()) == before
        with raw_keys(stream) as typed:
            os.close(other)
            assert typed(5.0) is None
