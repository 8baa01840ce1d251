"""How much of a chunk's time the arm has spent moving: a row whose time passed while it stood still
was not consumed.
"""

from __future__ import annotations

from collections import deque


class ConsumedTime:
    """When chunks were followed, as spans of time [s]."""

    def __init__(self) -> None:
        self._spans: deque[tuple[float, float]] = deque(maxlen=64)

    def copy(self) -> ConsumedTime:
        """Return an independent copy."""
        other = ConsumedTime()
        other._spans = self._spans.copy()
        return other

    def clear(self) -> None:
        """Nothing was followed."""
        self._spans.clear()

    def follow(self, start: float, end: float) -> None:
        """Record that a chunk is followed from ``start`` to ``end``, unless the next one comes
        before.
        """
        if self._spans and start <= self._spans[-1][1]:
            start = self._spans.pop()[0]
        self._spans.append((start, end))

    def end(self, end: float) -> None:
        """Record that the last chunk is followed no longer than this."""
        if self._spans:
            self._spans[-1] = (self._spans[-1][0], end)

    def between(self, since: float, until: float) -> float:
        """Time in motion between two times."""
        return sum(max(0.0, min(end, until) - max(start, since)) for start, end in self._spans)
