"""Finds publishers that a node cannot receive, and a second executor, on the node's topics."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message

from sf_policy_node.nodes.any_qos import UNKNOWN, full_name, type_name

_SENT = 50  # own messages that may not have arrived yet
_SOURCE_S = 1.0  # a publisher that was silent for longer does not count


@dataclass(frozen=True)
class Input:
    """A subscription; ``qos`` is None if it receives publishers with any QoS."""

    message_type: type
    topic: str
    qos: QoSProfile | None


class Unmatched:
    """Finds publishers on a node's topics whose messages cannot be received.

    Args:
        inputs: the node's subscriptions; the list may change.
    """

    def __init__(self, node: Node, inputs: list[Input]) -> None:
        self._node, self._inputs, self._next = node, inputs, 0
        self._found: dict[str, list[str]] = {}

    def look(self) -> None:
        """Check the next topic. Only one per call, because a query takes a fraction of a
        millisecond.
        """
        topics = list(
            dict.fromkeys(self._node.resolve_topic_name(each.topic) for each in self._inputs)
        )
        if not topics:
            return
        self._next = (self._next + 1) % len(topics)
        topic = topics[self._next]
        own = [each for each in self._inputs if self._node.resolve_topic_name(each.topic) == topic]
        self._found[topic] = list(dict.fromkeys(self._faults(topic, own)))

    @property
    def problems(self) -> list[str]:
        """One sentence for each publisher that does not match, with the cure."""
        return [each for found in self._found.values() for each in found]

    def _faults(self, topic: str, own: list[Input]) -> Iterator[str]:
        types = {type_name(each.message_type) for each in own}
        for publisher in self._node.get_publishers_info_by_topic(topic):
            who = full_name(publisher)
            fitting = [each for each in own if type_name(each.message_type) == publisher.topic_type]
            faults = [qos_fault(publisher.qos_profile, each.qos) for each in fitting]
            if not fitting:
                yield _wrong_type(topic, who, publisher.topic_type, types)
            elif all(faults):
                yield (
                    f"{topic}: {who} publishes {faults[0]}, so its messages do not arrive; change"
                    " its QoS"
                )


def _wrong_type(topic: str, who: str, found: str, wanted: set[str]) -> str:
    cure = "correct the topic in the contract, or the publisher"
    if {found, *wanted} == {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}:
        transport = "compressed" if found.endswith("CompressedImage") else "raw"
        cure = f"give the camera `transport: {transport}` in the contract, or name its other topic"
    return (
        f"{topic}: {who} publishes {found}, and {' or '.join(sorted(wanted))} is expected; {cure}"
    )


def qos_fault(offered: QoSProfile, requested: QoSProfile | None) -> str:
    """Return which requested QoS policy a publisher does not offer; empty when it matches.

    Only reliability and durability are compared: ROS 2 reports no others of a remote publisher.
    """
    if requested is None:
        return ""
    if (
        offered.reliability is ReliabilityPolicy.BEST_EFFORT
        and requested.reliability is ReliabilityPolicy.RELIABLE
    ):
        return "best effort and reliable is needed"
    if (
        offered.durability is DurabilityPolicy.VOLATILE
        and requested.durability is DurabilityPolicy.TRANSIENT_LOCAL
    ):
        return "volatile and transient local is needed"
    return ""


class JointSources:
    """Finds joints that several publishers of one topic report.

    Args:
        joints: names to look at. Publishers of different joints may share the topic.
    """

    def __init__(self, node: Node, topic: str, joints: Iterable[str]) -> None:
        self._node, self._topic = node, node.resolve_topic_name(topic)
        # By joint: its publishers with the time of the last message [s].
        self._received: dict[str, dict[str, float]] = {joint: {} for joint in joints}

    def receive(self, names: Iterable[str], publisher: str) -> None:
        """Note who published a message with these joints."""
        now = time.monotonic()
        for name in names:
            if (received := self._received.get(name)) is not None:
                received[publisher] = now

    def problem(self, *, suspected: bool = False) -> str:
        """Return which joints have several publishers, and the cure; empty when none has.

        Args:
            suspected: the joint states are known to be wrong. Before Kilted rclpy does not report
                publishers of messages; then all publishers of the topic are named.
        """
        old = time.monotonic() - _SOURCE_S
        joints, found = [], set()
        for name, received in self._received.items():
            recent = {publisher for publisher, at in received.items() if at > old}
            # A single known publisher of a joint is innocent, whatever others do.
            if len(recent) > 1 or (suspected and UNKNOWN in recent):
                found |= recent
                joints += [name] * (len(recent) > 1)
        if not joints and not (suspected and UNKNOWN in found):
            return ""
        infos = self._node.get_publishers_info_by_topic(self._topic)
        if joints:
            infos = [each for each in infos if bytes(each.endpoint_gid).hex() in found]
        elif len(infos) < 2:
            return ""
        names = ", ".join(sorted(full_name(each) for each in infos))
        count = len(found) if joints else len(infos)
        what = f"report {', '.join(joints)}" if joints else "may report the same joints"
        return (
            f"{self._topic}: {count} publishers ({names}) {what}; stop all but one of them, or give"
            " the others another topic"
        )


class Rivals:
    """Finds other publishers of a topic on which only one node may publish: the status of an arm's
    executor.

    Another publisher should only count once it has sent a message: a killed process remains in the
    graph for a while.

    Args:
        own: GIDs of the node's own publishers; the set may grow.
    """

    def __init__(self, node: Node, topic: str, own: Collection[str]) -> None:
        self._node, self._topic, self._own = node, node.resolve_topic_name(topic), own
        self._sent: deque[Any] = deque(maxlen=_SENT)

    @property
    def possible(self) -> bool:
        """Whether another publisher is in the graph; its process may have ended."""
        return not self._publishers().keys() <= set(self._own)

    def sent(self, message: Any) -> None:
        """Record a message that this node has published on the topic."""
        self._sent.append(message)

    def find(self, message: Any, publisher: str, *, late: bool) -> str:
        """Return the name of the other executor that sent a message; empty if none did.

        Args:
            publisher: as :func:`publisher_of` returns it. Of an unknown one the content decides
                whether the message is this node's own.
            late: its stamp is not of this time. So it may be played back from a recording, unless
                its node offers the services of an executor: that may run on another clock.
        """
        others = {gid: name for gid, name in self._publishers().items() if gid not in self._own}
        if publisher == UNKNOWN:
            if not others or serialize_message(message) in map(serialize_message, self._sent):
                return ""
        elif not self._own or publisher in self._own:
            return ""
        elif publisher in others:
            others = {publisher: others[publisher]}
        services = {f"{name}/reset_emergency_stop" for name in others.values()}
        if late and services.isdisjoint(
            name for name, _ in self._node.get_service_names_and_types()
        ):
            return ""
        return " or ".join(sorted(set(others.values()))) or "a node"

    def _publishers(self) -> dict[str, str]:
        infos = self._node.get_publishers_info_by_topic(self._topic)
        return {bytes(each.endpoint_gid).hex(): full_name(each) for each in infos}
