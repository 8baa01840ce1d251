"""Notices other nodes that send commands on a topic of this node."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from sf_policy_node.nodes.any_qos import full_name, publisher_of

_COMMANDED_S = 1.0  # how long a command of another node keeps this one from commanding
# Matches every publisher. The own commands are received as well, and must not displace others.
_COMMANDS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


class OtherCommanders:
    """Watches for other publishers of a topic on which only one node may command.

    There is a subscription only while there are such publishers. :meth:`look` must be called at
    least twice a second. Before Kilted rclpy does not report who sent a message; there the other
    nodes are only named.

    Args:
        node: publishes commands on the topic.
        resources: when they are closed, the subscription ends.
        topic: fully resolved.
        own: GIDs of the node's own publishers; the set may grow. If it is empty, publishers of the
            node's name are its own, although a second node may have that name.
        on_command: called with one sentence when another node begins to send commands.
    """

    def __init__(
        self,
        node: Node,
        resources: ExitStack,
        message_type: type[Any],
        topic: str,
        own: Collection[str],
        on_command: Callable[[str], None],
    ) -> None:
        self._node, self._message_type, self.topic = node, message_type, topic
        self._own, self._on_command = own, on_command
        self._name = f"{node.get_namespace().rstrip('/')}/{node.get_name()}"
        self._others: dict[str, str] = {}  # names of their nodes by the GID of their publisher
        self._subscription: Subscription | None = None
        self._commanded, self._commanded_at = "", -math.inf
        resources.callback(self._end)

    @property
    def names(self) -> set[str]:
        """Full names of the nodes that publish on the topic.

        One of this node's own name is left out: it may be an earlier process that was killed, which
        remains in the graph for a while. Its commands are noticed all the same.
        """
        return set(self._others.values()) - {self._name}

    @property
    def refusal(self) -> str:
        """Which node has just sent a command, with the cure; empty when none has."""
        return self._commanded if time.monotonic() - self._commanded_at < _COMMANDED_S else ""

    def look(self) -> None:
        """Check the topic's publishers."""
        infos = self._node.get_publishers_info_by_topic(self.topic)
        found = {bytes(each.endpoint_gid).hex(): full_name(each) for each in infos}
        self._others = {
            gid: name
            for gid, name in found.items()
            if (gid not in self._own if self._own else name != self._name)
        }
        if not self._others:
            self._end()
        elif self._subscription is None:
            self._subscription = self._node.create_subscription(
                self._message_type, self.topic, self._receive, _COMMANDS, raw=True
            )

    def _receive(self, message: bytes, info: Any) -> None:
        if (sender := self._others.get(publisher_of(info))) is None:
            return
        is_known, self._commanded_at = bool(self.refusal), time.monotonic()
        self._commanded = f"{sender} sent a command on {self.topic}; stop it"
        if not is_known:
            self._on_command(self._commanded)

    def _end(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
