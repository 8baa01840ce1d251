"""A subscription that receives every publisher, whatever its QoS, and what a latched one sent
before.

A reliable subscription does not match best-effort publishers, and a transient-local one does not
match volatile ones; such publishers are also warned that "no messages will be sent" to it. So the
subscription that is always there asks for
nothing (best effort, volatile: it matches all), and others are added only for publishers that are
there:

- a reliable one as long as all publishers are reliable, so that nothing is lost on the way;
- a transient-local one for a moment when a transient-local publisher appears, to receive what it
  keeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

_LOOK_S = 0.2  # for publishers that came or went
_KEPT_S = 1.0  # for what a transient-local publisher keeps to arrive
_DEPTH = 5
_ALWAYS = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
_RELIABLE = QoSProfile(depth=_DEPTH)
_LATCHED = QoSProfile(depth=_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)

_PARTICIPANT = 24  # hex digits of a GID
UNKNOWN = ""  # the publisher of a message where rclpy does not tell it


class AnyQosSubscription:
    """Calls ``callback(message, publisher)`` once for every message; ``publisher`` is its GID in
    hex digits.

    Before Kilted rclpy does not tell the GID: then it is :data:`UNKNOWN`. Lives until the node is
    cleaned up.
    """

    def __init__(
        self, node, kind: type, topic: str, callback: Callable[[object, str], None]
    ) -> None:
        self._node, self._kind, self._topic, self._callback = (
            node,
            kind,
            node.resolve_topic_name(topic),
            callback,
        )
        self._last: dict[str, int] = {}  # source timestamp by publisher
        self._asked: set[str] = set()  # transient-local publishers
        self._reliable: Subscription | None = None
        self._latched: Subscription | None = None
        self._latched_until = 0.0
        self._always = self._create(_ALWAYS)
        self._timer = node.create_timer(
            _LOOK_S, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        node.resources.callback(self._destroy)
        self.look()

    def publishers(self) -> set[str]:
        """Return the GIDs of the publishers that are present now."""
        return {_hex(each.endpoint_gid) for each in self._infos()}

    def look(self) -> None:
        """Adapt to the publishers that are there."""
        infos = self._infos()
        reliable = bool(infos) and all(
            each.qos_profile.reliability is ReliabilityPolicy.RELIABLE for each in infos
        )
        if reliable and self._reliable is None:
            self._reliable = self._create(_RELIABLE)
        elif not reliable:
            self._reliable = self._drop(self._reliable)
        keeping = {
            _hex(each.endpoint_gid)
            for each in infos
            if each.qos_profile.durability is DurabilityPolicy.TRANSIENT_LOCAL
        }
        now = time.monotonic()
        if new := keeping - self._asked:
            self._asked |= new
            self._latched_until = now + _KEPT_S
            self._latched = self._drop(
                self._latched
            )  # what is kept is sent to new subscriptions only
            self._latched = self._create(_LATCHED)
        elif now > self._latched_until:
            self._latched = self._drop(self._latched)

    def _infos(self) -> list:
        own = type_name(self._kind)
        return [
            each
            for each in self._node.get_publishers_info_by_topic(self._topic)
            if each.topic_type == own
        ]

    def _create(self, qos: QoSProfile) -> Subscription:
        def receive(message, info) -> None:
            publisher, sent = publisher_of(info), info.get("source_timestamp", 0)
            if publisher and sent:
                if sent <= self._last.get(publisher, 0):
                    return  # it came through another of the subscriptions
                self._last[publisher] = sent
            self._callback(message, publisher)

        return self._node.create_subscription(self._kind, self._topic, receive, qos)

    def _drop(self, subscription: Subscription | None) -> None:
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def _destroy(self) -> None:
        self._node.destroy_timer(self._timer)
        for each in (self._always, self._reliable, self._latched):
            self._drop(each)


def publisher_of(info: dict) -> str:
    """Return the GID of a message's publisher as hex digits; :data:`UNKNOWN` where rclpy does not
    report it.
    """
    gid = info.get("publisher_gid")
    return _hex(gid["data"]) if gid else UNKNOWN


def same_process(publisher: str, other: str) -> bool:
    """Two publishers belong to one participant: a GID of DDS begins with 12 bytes for it. True
    where they are not known.
    """
    return UNKNOWN in (publisher, other) or publisher[:_PARTICIPANT] == other[:_PARTICIPANT]


def type_name(kind: type) -> str:
    """Return the ROS name of a message type, such as ``std_msgs/msg/Bool``."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def _hex(gid) -> str:
    return bytes(gid).hex()
