"""Measures the jitter of a periodic loop."""

from __future__ import annotations


class Cycles:
    """Counts the cycles of a periodic loop and how late they start.

    ``count``: all cycles; ``missed``: those later than half a period; ``late_max_s``: the largest
    delay [s].
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._last: float | None = None
        self.count = self.missed = 0
        self.late_max_s = 0.0

    def note(self, now: float) -> float:
        """Record that a cycle starts at ``now`` [s] of a monotonic clock; return its delay [s]."""
        late = 0.0 if self._last is None else max(0.0, now - self._last - self._period)
        self._last = now
        self.count += 1
        self.missed += late > 0.5 * self._period
        self.late_max_s = max(self.late_max_s, late)
        return late
