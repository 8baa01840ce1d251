"""A text that `ros2 topic pub` repeats is one instruction; what a person sends again is another."""

import pytest

from sf_policy_node.instruction_repeats import InstructionRepeats, Kind

PICK = "pick the red cube"


@pytest.fixture
def repeats():
    return InstructionRepeats()


def test_a_steady_repetition_is_periodic_and_a_message_out_of_rhythm_is_not(repeats):
    assert repeats.receive("a", PICK, 0.0) is Kind.NEW
    assert repeats.receive("a", PICK, 1.0) is Kind.AGAIN, "the second one may be a person's"
    assert [repeats.receive("a", PICK, at) for at in (2.0, 3.05, 4.0)] == [Kind.PERIODIC] * 3
    assert repeats.receive("a", PICK, 40.0) is Kind.AGAIN
    assert repeats.receive("a", "push it", 41.0) is Kind.NEW


def test_publishers_are_told_apart(repeats):
    """Two terminals repeat different texts: neither is new each time that it comes after the other."""
    repeats.receive("a", PICK, 0.0)
    assert repeats.receive("b", "push it", 0.5) is Kind.NEW
    kinds = [(repeats.receive("a", PICK, n), repeats.receive("b", "push it", n + 0.5)) for n in (1, 2, 3)]
    assert kinds[1:] == [(Kind.PERIODIC, Kind.PERIODIC)] * 2


def test_a_stop_lasts_until_its_publisher_sends_another_text(repeats):
    for at in range(4):
        repeats.receive("a", PICK, at)
    repeats.stop()
    assert {repeats.receive("a", PICK, at) for at in (4.0, 5.0, 60.0)} == {Kind.STOPPED}
    assert repeats.receive("b", PICK, 61.0) is Kind.NEW, "somebody else gives the instruction again"
    assert repeats.receive("a", "push it", 62.0) is Kind.NEW
    assert repeats.receive("a", PICK, 63.0) is Kind.NEW
