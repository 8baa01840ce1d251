"""Notices that the clock was stepped: time that everything is stamped with must run on as steadily as a stopwatch."""

from __future__ import annotations

import math
from collections.abc import Callable

BACK_S = 0.05  # a clock that goes back by more has jumped; messages of one moment may overtake each other by less
FORWARD_S = 0.15  # ahead of the stopwatch by more: jumped


class ClockWatch:
    """The latest time [s] that was passed in, and how far the clock jumped.

    Args:
        stopwatch: a clock that nothing steps, such as ``time.monotonic``; None: jumps forward are not looked for.
        fastest: how many times faster than the stopwatch the clock may run. Simulated time may run fast.
    """

    def __init__(self, stopwatch: Callable[[], float] | None = None, fastest: float = 1.1) -> None:
        self._stopwatch, self._fastest = stopwatch, fastest
        self.now = -math.inf
        self._seen = 0.0  # on the stopwatch

    def jump(self, now: float) -> float:
        """By how much the clock was set when it shows ``now`` [s]: negative back, positive forward, 0 not at all. Does not advance it."""
        if self.now == -math.inf:
            return 0.0
        ahead = now - self.now
        passed = 0.0 if self._stopwatch is None else self._stopwatch() - self._seen
        if ahead < -BACK_S:
            return ahead - passed
        if self._stopwatch is not None and ahead > FORWARD_S + self._fastest * passed:
            return ahead - passed
        return 0.0

    def advance(self, now: float) -> float:
        """The time is ``now``, or the latest one when messages overtook each other; returns it."""
        self.now = max(self.now, now)
        self._note()
        return self.now

    def reset(self, now: float) -> None:
        """Accept a jump."""
        self.now = now
        self._note()

    def _note(self) -> None:
        if self._stopwatch is not None:
            self._seen = self._stopwatch()
