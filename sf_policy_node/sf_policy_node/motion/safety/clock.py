"""Notices that the clock was set: time that everything is stamped with must run on as steadily as a
stopwatch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

FUTURE_S = 0.05  # how far the clocks of two hosts may differ
# a clock that goes back by more was set; messages of one moment may overtake each other by less
BACK_S = 0.05
FORWARD_S = 0.15  # ahead of the stopwatch by more: set
STANDS_S = 0.1  # a clock that has not moved for longer
_REAL = 1.1  # times as fast as the stopwatch, at most
_SIMULATED = 50.0  # until its speed is known
_FASTER = 1.5  # times its speed so far ...
_CATCHES_UP = 1.25  # ... or times the stopwatch, after it was late
_LOOK_BACK_S, _KNOWN_S = 1.0, 0.5
_OLD_NEWS_S = 0.2  # after it stood still, a process hears old news of a clock for so long


class ClockWatch:
    """The latest time [s] that was passed in, and by how much the clock was set.

    Args:
        stopwatch: a clock that nothing sets, such as ``time.monotonic``; None: steps forward are
            not looked for.
        simulated: the clock may run faster than the stopwatch, as long as it does so steadily.
    """

    def __init__(
        self, stopwatch: Callable[[], float] | None = None, *, simulated: bool = False
    ) -> None:
        self._stopwatch, self._simulated = stopwatch, simulated
        self.now = -math.inf
        # Stopwatch and clock, whenever the clock had moved.
        self._seen: deque[tuple[float, float]] = deque()
        self._before_gap: tuple[float, float] | None = None
        self._gap_ended = -math.inf
        self._speed: float | None = None  # clock over stopwatch; None: not known yet

    def jump(self, now: float) -> float:
        """By how much the clock was set when it shows ``now`` [s]: negative back, positive forward,
        0 not at all. Does not advance it.
        """
        if self.now == -math.inf or (self._simulated and self.now <= 0.0):
            return 0.0  # before the first message of a simulated clock its time is zero
        ahead = now - self.now
        stopwatch = self._stopwatch() if self._seen else 0.0
        passed = stopwatch - self._seen[-1][0] if self._seen else 0.0
        if ahead < -BACK_S:
            return ahead - passed
        if not self._seen or now <= self._latest(self._seen[-1], stopwatch):
            return 0.0
        # It may catch up with what it was before this process stood still.
        hears_old_news = stopwatch - self._gap_ended < _OLD_NEWS_S
        if hears_old_news and now <= self._latest(self._before_gap, stopwatch):
            return 0.0
        return ahead - passed

    @property
    def stands(self) -> bool:
        """The clock has not moved for a while: it is paused, or this process has just woken up and
        has not heard it yet.
        """
        return (
            self._stopwatch is not None
            and bool(self._seen)
            and self._stopwatch() - self._seen[-1][0] > STANDS_S
        )

    @property
    def unheard(self) -> float:
        """How much later than the clock says it may be [s]: a process that stood still has not
        heard a simulated clock meanwhile.
        """
        if not self._simulated or self._stopwatch is None or not self._seen:
            return 0.0
        freshest = max(clock - seen for seen, clock in self._seen)
        return max(0.0, self._stopwatch() + freshest - self.now)

    def advance(self, now: float) -> float:
        """The time is ``now``, or the latest one when messages overtook each other; returns it."""
        if now > self.now:
            self.now = now
            self._note()
        return self.now

    def reset(self, now: float) -> None:
        """Accept that the clock was set."""
        self.now = now
        self._seen.clear()
        self._before_gap, self._gap_ended, self._speed = None, -math.inf, None
        self._note()

    def _note(self) -> None:
        if self._stopwatch is None:
            return
        seen = self._stopwatch()
        if self._seen and seen - self._seen[-1][0] > STANDS_S:
            self._before_gap, self._gap_ended = self._seen[-1], seen
        self._seen.append((seen, self.now))
        while seen - self._seen[0][0] > _LOOK_BACK_S:
            self._seen.popleft()
        (first, start), (last, end) = self._seen[0], self._seen[-1]
        if last - first > _KNOWN_S:
            self._speed = (end - start) / (last - first)

    def _latest(self, note: tuple[float, float], stopwatch: float) -> float:
        """Return the latest time [s] that a clock can show that nobody set since ``note``."""
        seen, clock = note
        pace = _REAL
        if self._simulated:
            known = max(_CATCHES_UP, _FASTER * (self._speed or 0.0))
            pace = _SIMULATED if self._speed is None else known
        return clock + FORWARD_S + pace * (stopwatch - seen)
