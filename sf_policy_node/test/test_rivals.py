"""Tests of finding a second executor, on a node without a graph."""

from types import SimpleNamespace

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from sf_msgs.msg import ExecutorStatus
from sf_policy_node.nodes.any_qos import UNKNOWN
from sf_policy_node.nodes.surroundings import Rivals

OWN, OTHER = bytes(16 * [1]), bytes(16 * [2])
RESET = "/other/reset_emergency_stop"


class FakeNode:
    """A node whose status topic has an own publisher and that of the node /other."""

    def __init__(self, *services):
        self._services = services

    def resolve_topic_name(self, topic):
        return f"/{topic}"

    def get_publishers_info_by_topic(self, topic):
        return [
            SimpleNamespace(endpoint_gid=gid, node_name=name, node_namespace="/")
            for gid, name in ((OWN, "chunk_executor"), (OTHER, "other"))
        ]

    def get_service_names_and_types(self):
        return [(name, []) for name in self._services]


def rivals(*services):
    return Rivals(FakeNode(*services), "executor/status", {OWN.hex()})


def status(second, **fields):
    message = ExecutorStatus(state=ExecutorStatus.HOLDING, **fields)
    message.header.stamp.sec = second
    return message


def test_own_messages_are_no_rival():
    assert not rivals(RESET).find(status(3), OWN.hex(), late=True)


@pytest.mark.parametrize("publisher", [OTHER.hex(), UNKNOWN], ids=["known", "Jazzy"])
def test_a_late_message_counts_if_its_node_is_an_executor(publisher):
    found = rivals(RESET)
    assert found.possible and found.find(status(3), publisher, late=True) == "/other"
    assert not rivals("/other/play").find(status(3), publisher, late=True), "a recording"
    assert rivals("/other/play").find(status(3), publisher, late=False) == "/other"


def test_without_publishers_of_messages_the_content_tells_own_from_other_ones():
    """Before, every message counted as own on Jazzy, and two executors commanded one arm."""
    found = rivals(RESET)
    sent = status(3, reason="waiting for the first chunk", joint_state_age_s=np.nan)
    found.sent(sent)
    received = deserialize_message(serialize_message(sent), ExecutorStatus)
    assert not found.find(received, UNKNOWN, late=False)
    assert found.find(status(3, reason="paused"), UNKNOWN, late=False) == "/other"
