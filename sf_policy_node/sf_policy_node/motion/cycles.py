"""How punctual a loop is."""

from __future__ import annotations


class Cycles:
    """Counts the cycles of a periodic loop, those that came later than half a period, and the
    latest [s].
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._last: float | None = None
        self.count = self.missed = 0
        self.late_max_s = 0.0

    def note(self, now: float) -> float:
        """A cycle begins at ``now`` [s] of a clock that nothing steps; returns how late it is."""
        late = 0.0 if self._last is None else max(0.0, now - self._last - self._period)
        self._last = now
        self.count += 1
        self.missed += late > 0.5 * self._period
        self.late_max_s = max(self.late_max_s, late)
        return late
