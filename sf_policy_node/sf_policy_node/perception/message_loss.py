"""Count the messages of a topic that were sent but never received, without ROS."""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0  # over which the share of lost messages is measured


class Reception:
    """Count gaps in the sequence numbers of each publisher of one topic.

    The middleware numbers the messages of a publisher: 1, 2, 3, ... A subscriber with best-effort
    delivery, or one whose queue overflows on a busy machine, loses messages without an error.
    """

    def __init__(self) -> None:
        self.received = self.lost = 0
        self._newest: dict[bytes, int] = {}  # sequence number by publisher
        self._losses: deque[tuple[float, int, int]] = deque()  # time, messages lost, messages sent

    def add(self, now: float, sequence: int | None, publisher: bytes = b"") -> int:
        """Count a message; return how many were lost just before it.

        Args:
            now: time of a steady clock [s].
            sequence: number from the publisher's middleware; None if there is none.
            publisher: its identifier; empty if rclpy does not give one (before Kilted).
        """
        self.received += 1
        before = self._newest.get(publisher)
        lost = max(0, sequence - before - 1) if sequence is not None and before is not None else 0
        if sequence is not None:
            # A smaller number comes from a restarted publisher, or another one without identifier.
            self._newest[publisher] = sequence
        self.lost += lost
        self._losses.append((now, lost, lost + 1))
        while self._losses[0][0] < now - WINDOW_S:
            self._losses.popleft()
        return lost

    def recent(self, now: float) -> tuple[int, int]:
        """Return how many messages of the last ``WINDOW_S`` seconds were lost, and how many were
        sent.
        """
        window = [each for each in self._losses if each[0] >= now - WINDOW_S]
        return sum(lost for _, lost, _ in window), sum(sent for _, _, sent in window)
