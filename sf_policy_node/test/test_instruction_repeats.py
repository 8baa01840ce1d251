"""Tests of repeated instructions: `ros2 topic pub -r` gives one, later messages a new one."""

import pytest

from sf_policy_node.session.instruction_repeats import InstructionRepeats, Repetition

PICK = "pick the red cube"


@pytest.fixture
def repeats():
    return InstructionRepeats()


@pytest.mark.parametrize("period", [0.1, 1.0, 2.5])
def test_a_stream_of_one_text_is_one_instruction(repeats, period):
    assert repeats.receive("a", PICK, 0.0) is Repetition.NEW
    assert repeats.receive("a", PICK, period) is Repetition.AGAIN, (
        "the second one may be a person's"
    )
    assert {repeats.receive("a", PICK, n * period) for n in range(2, 20)} == {Repetition.REPEATED}
    assert repeats.receive("a", PICK, 100.0) is Repetition.AGAIN
    assert repeats.receive("a", "push it", 100.5) is Repetition.NEW


def test_occasional_repetitions_count_as_new_instructions(repeats):
    repetitions = []
    for at in range(0, 60, 12):
        repetitions.append(repeats.receive("a", PICK, at))
        repeats.stop()
    assert repetitions == [Repetition.NEW, *[Repetition.AGAIN] * 4]


def test_publishers_are_distinguished(repeats):
    """Two terminals repeat different texts: neither is new each time that it follows the other."""
    repetitions = [
        (repeats.receive("a", PICK, n), repeats.receive("b", "push it", n + 0.5)) for n in range(5)
    ]
    assert repetitions[0] == (Repetition.NEW, Repetition.NEW) and set(repetitions[2:]) == {
        (Repetition.REPEATED, Repetition.REPEATED)
    }


@pytest.mark.parametrize("before", [1, 2, 5])
def test_a_stop_lasts_while_the_text_is_repeated(repeats, before):
    for at in range(before):
        repeats.receive("a", PICK, at)
    repeats.stop()
    delayed = [before, before + 1.0, before + 1.2, before + 3.9, before + 9.0]
    assert {repeats.receive("a", PICK, at) for at in delayed} == {Repetition.STOPPED}, (
        "also when it is late now and then"
    )
    assert repeats.receive("b", PICK, 61.0) is Repetition.NEW, (
        "somebody else gives the instruction again"
    )
    assert repeats.receive("a", "push it", 62.0) is Repetition.NEW
    assert repeats.receive("a", PICK, 63.0) is Repetition.NEW
