"""Tests of counting lost messages by the publishers' sequence numbers."""

import pytest

from sf_policy_node.perception.message_loss import WINDOW_S, Reception


def test_gaps_are_counted_for_each_publisher():
    reception = Reception()
    lost = [
        reception.add(0.0, number, name)
        for number, name in (
            (7, b"a"),
            (8, b"a"),
            (900, b"b"),
            (12, b"a"),
            (901, b"b"),
            (904, b"b"),
        )
    ]
    assert lost == [0, 0, 0, 3, 0, 2]
    assert (reception.received, reception.lost) == (6, 5) and reception.recent(0.0) == (5, 11)


@pytest.mark.parametrize("numbers", [(None, None, None), (50, 51, 1, 2), (5, 5, 4, 5)])
def test_missing_numbers_restarts_and_reordering_are_no_loss(numbers):
    reception = Reception()
    assert [reception.add(0.0, number) for number in numbers] == [0] * len(numbers)


def test_old_losses_expire():
    reception = Reception()
    reception.add(0.0, 1)
    reception.add(1.0, 11)
    assert reception.recent(2.0) == (9, 11)
    reception.add(1.5 + WINDOW_S, 12)
    assert reception.recent(1.5 + WINDOW_S) == (0, 1) and reception.lost == 9
    assert reception.recent(9 * WINDOW_S) == (0, 0)
