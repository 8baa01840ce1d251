"""Tests of terminal keys: arrows and other sequences are no keys, however split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_training.recording.screen.controls import DRIVING_KEYS, KEYS
from sf_training.recording.screen.terminal_keys import ESCAPE, KeyDecoder
from sf_training.teleoperation.keys import MOTIONS

SEQUENCES = {
    "left": "\x1b[D",
    "left in application mode": "\x1bOD",
    "delete": "\x1b[3~",
    "shift and arrow": "\x1b[1;2D",
    "F5": "\x1b[15~",
    "F1 of a console": "\x1b[[A",
    "Alt and d": "\x1bd",
    "cursor position": "\x1b[24;80R",
}


@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES)
@given(cut=st.integers(0, 8))
def test_a_sequence_is_no_key_between_two_keys(sequence, cut):
    decoder, data = KeyDecoder(), f"a{sequence}s".encode()
    keys = decoder.feed(data[:cut], 0.0) + decoder.feed(data[cut:], 0.05) + decoder.feed(b"", 9.0)
    assert keys == ["a", "s"]


def test_escape_alone_is_a_key_after_a_moment_and_later_keys_count():
    decoder = KeyDecoder()
    assert decoder.feed(b"\x1b", 0.0) == [] and decoder.feed(b"", 0.1) == []
    assert decoder.feed(b"f", 1.0) == [ESCAPE, "f"]
    assert decoder.feed(b"\x1b[", 2.0) == [] and decoder.feed(b"d", 9.0) == [
        "d"
    ]  # an unfinished sequence


def test_characters_of_several_bytes_may_be_cut():
    decoder, data = KeyDecoder(), "wähle „rot“".encode()
    assert (
        "".join(key for byte in data for key in decoder.feed(bytes([byte]), 0.0)) == "wähle „rot“"
    )


@given(st.binary(max_size=40))
def test_any_bytes_give_keys_or_nothing(data):
    assert all(len(key) == 1 for key in KeyDecoder().feed(data, 0.0))


def test_keys_of_the_recorder_and_the_arm_do_not_clash():
    assert not set(DRIVING_KEYS) & (set(MOTIONS) | set(" []px+-=_"))
    assert set(DRIVING_KEYS.values()) == set(KEYS.values())
