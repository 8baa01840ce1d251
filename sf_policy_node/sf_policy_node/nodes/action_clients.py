"""Notices that the clients of an action have ended without cancelling their goal."""

from __future__ import annotations

from rclpy.node import Node

GONE = "the client of the action is gone"


class ActionClients:
    """Counts the clients of an action by their subscriptions to its feedback.

    Every client subscribes to it. One that ends removes its subscription at once; one that was
    killed disappears after its DDS lease (20 s by default in Fast DDS).

    Args:
        action: name of the action; a relative or private one is resolved by the node.
    """

    def __init__(self, node: Node, action: str) -> None:
        self._node, self._feedback = node, f"{action}/_action/feedback"
        self._has_client = False

    def begin(self) -> None:
        """Start to watch for a new goal, whose client may not be discovered yet."""
        self._has_client = False

    def are_gone(self) -> bool:
        """Return whether there was a client at the last check and there is none now."""
        is_watched = self._node.count_subscribers(self._feedback) > 0
        are_gone = self._has_client and not is_watched
        self._has_client = is_watched
        return are_gone
