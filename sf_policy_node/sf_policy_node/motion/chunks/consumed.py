"""Records how long the arm has executed chunks.

A chunk step whose time passed while the arm was stationary was not consumed: it is executed later
instead of being skipped.
"""

from __future__ import annotations

from collections import deque


class ConsumedTime:
    """Intervals [s] in which the arm executed chunks."""

    def __init__(self) -> None:
        self._spans: deque[tuple[float, float]] = deque(maxlen=64)

    def copy(self) -> ConsumedTime:
        """Return an independent copy."""
        other = ConsumedTime()
        other._spans = self._spans.copy()
        return other

    def clear(self) -> None:
        """Forget all intervals."""
        self._spans.clear()

    def follow(self, start: float, end: float) -> None:
        """Record that a chunk is executed from ``start`` to ``end`` [s].

        An interval that overlaps the previous one extends or shortens it to ``end``: the new chunk
        replaces the rest of the one before.
        """
        if self._spans and start <= self._spans[-1][1]:
            start = self._spans.pop()[0]
        self._spans.append((start, end))

    def end(self, end: float) -> None:
        """Cut the last interval at ``end`` [s], when its motion was stopped."""
        if self._spans:
            self._spans[-1] = (self._spans[-1][0], end)

    def between(self, since: float, until: float) -> float:
        """Return how long chunks were executed between two times [s]."""
        return sum(max(0.0, min(end, until) - max(start, since)) for start, end in self._spans)
