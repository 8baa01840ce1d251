"""Measure how regularly an event occurs: rate reached, cycles over budget, worst cycle."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CadenceReport:
    """Hold rates [Hz], 0 before the first complete cycle, and times [s]."""

    rate_hz: float
    rate_wanted_hz: float
    cycles: int
    over_budget: int
    worst_s: float

    def __str__(self) -> str:
        if not self.cycles:
            return f"too short for a rate, {self.rate_wanted_hz:.2f} chunks per second wanted"
        share = 100.0 * self.over_budget / self.cycles
        return (
            f"{self.rate_hz:.2f} of {self.rate_wanted_hz:.2f} chunks per second, {self.over_budget}"
            f" of {self.cycles} cycles ({share:.1f} %) over budget, worst {self.worst_s:.3f} s"
        )


class Cadence:
    """Measure the cycles, the times from one event to the next.

    Args:
        wanted_s: time between two events [s].
        tolerance_s: a cycle is over budget when it takes this much longer [s].
    """

    def __init__(self, wanted_s: float, tolerance_s: float = 0.0) -> None:
        self._wanted_s, self._budget_s = wanted_s, wanted_s + tolerance_s
        self._last: float | None = None
        self._cycles = self._over_budget = 0
        self._total_s = self._worst_s = 0.0

    def add(self, now: float) -> None:
        """Record an event at ``now`` [s]; if the clock went back, a new first cycle starts."""
        if self._last is not None and now > self._last:
            took = now - self._last
            self._cycles += 1
            self._over_budget += took > self._budget_s
            self._total_s += took
            self._worst_s = max(self._worst_s, took)
        self._last = now

    def interrupt(self) -> None:
        """Discard the current cycle, as for a pause, so that it is not measured."""
        self._last = None

    def report(self, now: float) -> CadenceReport:
        """Return the report up to ``now`` [s]. The current cycle counts once it is over budget, so
        that missing events at the end are included.
        """
        cycles, over, total, worst = self._cycles, self._over_budget, self._total_s, self._worst_s
        if self._last is not None and (open_s := now - self._last) > self._budget_s:
            cycles, over, total, worst = cycles + 1, over + 1, total + open_s, max(worst, open_s)
        return CadenceReport(
            cycles / total if cycles else 0.0, 1.0 / self._wanted_s, cycles, over, worst
        )
