"""A subscription that receives publishers with any QoS, including earlier latched messages.

A reliable subscription does not match best-effort publishers, and a transient-local one does not
match volatile ones. Such publishers also log a warning that "no messages will be sent". So one
permanent subscription requests the least (best effort, volatile), which matches all publishers.
Others are added only while suitable publishers are present:

- a reliable one while all publishers are reliable, so that no message is lost;
- a transient-local one for a short time when a transient-local publisher appears, to receive the
  messages that it keeps.

Several subscriptions receive most messages twice. :class:`Sequences` drops the copies by the
numbers that the middleware gives to the messages of a publisher. Source timestamps are wall-clock
times of the publisher's host, and a clock that is set back must not silence a button.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

_LOOK_S = 0.2  # period in which publishers are checked
_KEPT_S = 1.0  # how long to wait for messages that a transient-local publisher keeps
_DEPTH = 5
_ALWAYS = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
_RELIABLE = QoSProfile(depth=_DEPTH)
_LATCHED = QoSProfile(depth=_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)

_PARTICIPANT = 24  # hex digits of a GID that identify the DDS participant
NAMELESS = "_NODE_NAME_UNKNOWN_"
"""The name in rmw of a node that is not discovered yet, or not a node of ROS."""
UNKNOWN = ""
"""The publisher of a message if rclpy does not report it."""

_REMEMBERED = 64  # timestamps of one publisher, more than the queues of the subscriptions hold


class Sequences:
    """Tells copies and overtaken messages of each publisher from new messages, without a clock.

    A message that arrives after a later one of the same publisher is out of date: a best-effort
    subscription may have lost it, and a reliable one delivers it late. Where the middleware does
    not number messages (rmw_cyclonedds_cpp; rclpy then gives None), only copies are found, by equal
    timestamps. rmw_fastrtps numbers them (``rmw_take.cpp``: the sample identity).
    """

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}  # number by publisher
        self._sent: dict[str, deque[int]] = {}  # source timestamps by publisher [ns]

    def is_new(self, publisher: str, info: dict) -> bool:
        """Record a message and return whether it is later than those received so far.

        Args:
            publisher: as :func:`publisher_of` returns it; True for :data:`UNKNOWN`.
            info: message information from rclpy.
        """
        if publisher == UNKNOWN:
            return True
        if number := info.get("publication_sequence_number"):
            newest = self._newest.get(publisher, 0)
            self._newest[publisher] = max(number, newest)
            return number > newest
        if not (sent := info.get("source_timestamp", 0)):
            return True
        recent = self._sent.setdefault(publisher, deque(maxlen=_REMEMBERED))
        is_new = sent not in recent
        recent.append(sent)
        return is_new


class AnyQosSubscription:
    """Calls ``callback(message, publisher)`` once for every message until ``resources`` close.

    ``publisher`` is the GID of the message's publisher in hex digits. Before Kilted rclpy does not
    report it; it is :data:`UNKNOWN` then.

    Args:
        message_type: class of the messages, such as ``std_msgs.msg.Bool``. Publishers of other
            types on the topic are ignored.
    """

    def __init__(
        self,
        node: Node,
        resources: ExitStack,
        message_type: type[Any],
        topic: str,
        callback: Callable[[Any, str], None],
    ) -> None:
        self._node, self._message_type, self._callback = node, message_type, callback
        self._topic = node.resolve_topic_name(topic)
        self._sequences = Sequences()
        # Transient-local publishers whose kept messages were requested.
        self._asked: set[str] = set()
        self._reliable: Subscription | None = None
        self._latched: Subscription | None = None
        self._latched_until = 0.0
        self.names: dict[str, str] = {}
        """Full names of the nodes of publishers that are or were present, by GID."""
        self._always = self._create(_ALWAYS)
        self._timer = node.create_timer(
            _LOOK_S, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        resources.callback(self._destroy)
        self.look()

    def publishers(self) -> set[str]:
        """Return the GIDs of the publishers that are present now."""
        return {_hex(each.endpoint_gid) for each in self._infos()}

    def look(self) -> None:
        """Adapt the subscriptions to the publishers that are present."""
        infos = self._infos()
        reliable = bool(infos) and all(
            each.qos_profile.reliability is ReliabilityPolicy.RELIABLE for each in infos
        )
        if reliable and self._reliable is None:
            self._reliable = self._create(_RELIABLE)
        elif not reliable:
            self._drop(self._reliable)
            self._reliable = None
        keeping = {
            _hex(each.endpoint_gid)
            for each in infos
            if each.qos_profile.durability is DurabilityPolicy.TRANSIENT_LOCAL
        }
        now = time.monotonic()
        if new := keeping - self._asked:
            self._asked |= new
            self._latched_until = now + _KEPT_S
            # Kept messages are only sent to a new subscription.
            self._drop(self._latched)
            self._latched = self._create(_LATCHED)
        elif now > self._latched_until:
            self._drop(self._latched)
            self._latched = None

    def _infos(self) -> list:
        own = type_name(self._message_type)
        infos = self._node.get_publishers_info_by_topic(self._topic)
        found = [each for each in infos if each.topic_type == own]
        for each in found:
            if each.node_name != NAMELESS:
                self.names[_hex(each.endpoint_gid)] = full_name(each)
        return found

    def _create(self, qos: QoSProfile) -> Subscription:
        def receive(message: Any, info: Any) -> None:
            publisher = publisher_of(info)
            if self._sequences.is_new(publisher, info):
                self._callback(message, publisher)

        return self._node.create_subscription(self._message_type, self._topic, receive, qos)

    def _drop(self, subscription: Subscription | None) -> None:
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def _destroy(self) -> None:
        self._node.destroy_timer(self._timer)
        for each in (self._always, self._reliable, self._latched):
            self._drop(each)


def publisher_of(info: dict) -> str:
    """Return the GID of a message's publisher in hex digits, or :data:`UNKNOWN`."""
    gid = info.get("publisher_gid")
    return _hex(gid["data"]) if gid else UNKNOWN


def same_process(publisher: str, other: str) -> bool:
    """Return whether two publishers belong to one DDS participant; True if one is unknown.

    The first 12 bytes of a GID identify the participant.
    """
    return UNKNOWN in (publisher, other) or publisher[:_PARTICIPANT] == other[:_PARTICIPANT]


def full_name(endpoint: TopicEndpointInfo) -> str:
    """Return the full name of the node of a publisher or subscription."""
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def type_name(message_type: type) -> str:
    """Return the ROS name of a message type, such as ``std_msgs/msg/Bool``."""
    return f"{message_type.__module__.split('.')[0]}/msg/{message_type.__name__}"


def _hex(gid: Iterable[int]) -> str:
    return bytes(gid).hex()
