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
    repetitions = [repeats.receive("a", PICK, at) for at in range(0, 60, 12)]
    assert repetitions == [Repetition.NEW, *[Repetition.AGAIN] * 4]


@pytest.mark.parametrize("period", [0.2, 1.0, 5.0, 60.0, 3600.0])
def test_a_stop_lasts_at_every_period_of_repetition(repeats, period):
    """Before, `ros2 topic pub -r 0.2` moved the arm again within 5 s of a stop."""
    repeats.receive("a", PICK, 0.0)
    repeats.stop()
    assert {repeats.receive("a", PICK, n * period) for n in range(1, 9)} == {Repetition.STOPPED}


def test_a_stopped_text_counts_when_the_executor_asks_for_it(repeats):
    for publisher, text in (("a", PICK), ("b", "push it")):
        repeats.receive(publisher, text, 0.0)
    repeats.stop()
    repeats.ask_for(PICK)
    assert repeats.receive("a", PICK, 5.0) is Repetition.AGAIN
    assert repeats.receive("b", "push it", 5.0) is Repetition.STOPPED


def test_without_identifiers_only_a_publisher_that_appears_lifts_a_stop(repeats):
    """rclpy of Jazzy does not say who sent a message."""
    repeats.receive("", PICK, 0.0, {"p"})
    repeats.stop({"p"})
    assert repeats.receive("", PICK, 20.0, {"p"}) is Repetition.STOPPED
    assert repeats.receive("", PICK, 40.0, set()) is Repetition.STOPPED, "one that has gone"
    assert repeats.receive("", PICK, 60.0, {"p", "q"}) is Repetition.NEW
    repeats.stop({"p", "q"})
    assert repeats.receive("", PICK, 80.0, {"p", "q"}) is Repetition.STOPPED


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
