"""Tests of subscriptions that receive publishers with any QoS, on a node without a graph."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from std_msgs.msg import Bool

from sf_policy_node.nodes.any_qos import AnyQosSubscription, Sequences

BUTTON, OTHER = 16 * [1], 16 * [2]
HOUR_NS = 3600 * 10**9
NOON_NS = 1_700_000_000 * 10**9


class FakeNode:
    """Keep the callbacks of subscriptions; a test passes messages to them."""

    def __init__(self, *endpoints) -> None:
        self.callbacks, self.endpoints = [], list(endpoints)

    def resolve_topic_name(self, topic):
        return f"/{topic}"

    def create_timer(self, period_s, callback, clock):
        return None

    def get_publishers_info_by_topic(self, topic):
        return self.endpoints

    def create_subscription(self, kind, topic, callback, qos):
        self.callbacks.append(callback)
        return callback

    def deliver(self, pressed, number, sent, publisher=BUTTON, copies=2):
        """Pass one message to several subscriptions, as the middleware does."""
        info = {
            "source_timestamp": sent,
            "publication_sequence_number": number,
            "publisher_gid": {"data": bytes(publisher)},
        }
        for callback in self.callbacks[:1] * copies:
            callback(Bool(data=pressed), info)


@pytest.fixture
def button():
    received, node = [], FakeNode()
    take = lambda message, publisher: received.append(message.data)  # noqa: E731
    AnyQosSubscription(node, ExitStack(), Bool, "emergency_stop", take)
    return SimpleNamespace(deliver=node.deliver, received=received)


@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "only timestamps"])
def test_a_press_after_the_clock_was_set_back_is_received_once(button, numbered):
    """Before, a button was deaf for the hour by which NTP had set its clock back."""
    for number in range(1, 4):
        button.deliver(False, number if numbered else None, NOON_NS + number * 10**8)
    button.deliver(True, 4 if numbered else None, NOON_NS - HOUR_NS)
    assert button.received == [False, False, False, True]


def test_a_message_that_arrives_after_a_later_one_is_out_of_date(button):
    """A reliable subscription delivers what best effort had lost: an old release must not count."""
    button.deliver(False, 1, NOON_NS, copies=1)
    button.deliver(True, 3, NOON_NS + 2, copies=1)
    button.deliver(False, 2, NOON_NS + 1)
    assert button.received == [False, True]


def test_each_publisher_has_its_own_numbers(button):
    button.deliver(False, 7, NOON_NS)
    button.deliver(True, 1, NOON_NS, publisher=OTHER)
    assert button.received == [False, True]


def test_messages_of_an_unknown_publisher_are_all_received():
    sequences = Sequences()
    info = {"source_timestamp": NOON_NS, "publication_sequence_number": 1}
    assert sequences.is_new("", info) and sequences.is_new("", info)


@pytest.mark.ros
def test_the_middleware_gives_the_copies_of_a_message_one_number(graph):
    received, resources = [], ExitStack()
    take = lambda message, publisher: received.append(message.data)  # noqa: E731
    subscription = AnyQosSubscription(graph.peer, resources, Bool, "button", take)
    button = graph.peer.create_publisher(Bool, "button", 10)
    graph.until(lambda: button.get_subscription_count() == 2, "best effort and reliable")
    assert subscription.publishers()
    for count, pressed in enumerate((True, False, False, True), start=1):
        button.publish(Bool(data=pressed))
        graph.until(lambda count=count: len(received) >= count, "the message")
    over = graph.now() + 0.3
    graph.until(lambda: graph.now() > over, "late copies")
    assert received == [True, False, False, True]
    resources.close()
