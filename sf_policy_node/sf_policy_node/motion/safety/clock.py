"""Detects clock jumps by comparing the clock that stamps messages with a monotonic stopwatch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sf_policy_node.motion.refusals import MotionDelayed, MotionRefused

FUTURE_S = 0.05  # how far the clocks of two hosts may differ
# A clock that goes back by more than this has jumped. Messages may overtake each other by less.
BACK_S = 0.05
# A clock that is ahead of the stopwatch by more than this has jumped: a simulated one, and a real
# one until its first readings are known.
FORWARD_S = 0.15
# A real clock and the stopwatch run at one rate (CLOCK_REALTIME and CLOCK_MONOTONIC, slewed or
# not), so their difference changes only when the clock is set. It is read as the clock minus the
# stopwatch, the clock first: a delay in between makes it smaller, and nothing makes it larger.
_SET_S = 0.005  # a real clock whose difference changes by more than this was set
_READINGS = 3  # as many readings must agree that it was set back
STALLED_S = 0.1  # a clock that should have advanced by more than this has stalled
# The fastest rates of a simulated clock, as multiples of the stopwatch.
_UNKNOWN = 50.0  # until its rate has been measured
_FASTER = 1.5  # afterwards, of one that runs faster than real time: times its measured rate
# Of one that runs in real time or slower. The less it may be, the longer a process may be delayed
# while the clock is set without taking the step for its own delay: 1.5 s for a step of 0.3 s.
_CATCHES_UP = 1.1
_REAL_TIME = 1.3  # a clock whose measured rate is not above this runs in real time
_PACE_S, _PACE_STEP_S = 5.0, 0.25  # that rate is measured over 0.5 s to 5 s, between such steps
_LOOK_BACK_S, _KNOWN_S = 1.0, 0.5  # the rate is measured over 0.5 s to 1 s
# The usual rate is the fastest one in this time: a stall of this process looks like a slow clock.
_USUAL_S = 10.0
_OLD_NEWS_S = 0.2  # how long after a stall of this process queued messages may arrive


def future_s(*, simulated: bool) -> float:
    """Return how far stamps may be ahead of a clock [s].

    Of a simulated clock the messages may be that late; no other clock is involved.
    """
    return FORWARD_S if simulated else FUTURE_S


@dataclass(frozen=True)
class _Doubt:
    """A simulated clock advanced further than expected: it was set, or this process was delayed.

    ``at`` [s] on the stopwatch the clock was ``excess`` [s] ahead of the ``expected`` time [s].
    """

    at: float
    expected: float
    excess: float


class ClockWatch:
    """Keeps the latest time [s] and detects jumps and stalls of the clock.

    Args:
        stopwatch: a monotonic clock such as ``time.monotonic``; None: jumps forward and stalls are
            not detected.
        simulated: the clock may run faster than the stopwatch, at a steady rate.
    """

    def __init__(
        self, stopwatch: Callable[[], float] | None = None, *, simulated: bool = False
    ) -> None:
        self._stopwatch, self._simulated = stopwatch, simulated
        self.future_s = future_s(simulated=simulated)
        """How far stamps may be ahead of it [s]."""
        self._is_compared = stopwatch is not None and not simulated  # a real clock, by differences
        self.now = -math.inf
        # Differences between a real clock and the stopwatch [s]: the latest readings, and the
        # largest one of those before.
        self._differences: deque[float] = deque(maxlen=_READINGS)
        self._largest = -math.inf
        # Pairs of stopwatch and clock [s], one for each time that the clock advanced.
        self._seen: deque[tuple[float, float]] = deque()
        self._before_gap: tuple[float, float] | None = None  # the last pair before a stall
        self._gap_ended = -math.inf  # on the stopwatch [s]
        self._stamped = -math.inf  # newest stamp of a message on the same, simulated clock [s]
        self._leap = (-math.inf, 0.0)  # of these stamps, forward: when, on the stopwatch, and size
        self._doubt: _Doubt | None = None  # about the last time that a simulated clock advanced
        # Stopwatch and rate, with falling rates: the first one is the fastest.
        self._rates: deque[tuple[float, float]] = deque()
        self._paced: deque[tuple[float, float]] = deque()  # as _seen, fewer and for longer
        self._pace = _UNKNOWN  # the fastest rate that is no jump

    def jump(self, now: float) -> float:
        """Return by how much the clock jumped if it shows ``now`` [s], without advancing it.

        Negative: back; positive: forward; 0: no jump.
        """
        if self.now == -math.inf or (self._simulated and self.now <= 0.0):
            return 0.0  # a simulated clock shows 0 before its first message
        ahead = now - self.now
        if self._is_compared:
            return self._set_by(now - self._stopwatch(), ahead)
        if ahead < -BACK_S:
            return now - self._expected()
        if not self._seen:
            return 0.0
        stopwatch = self._stopwatch()
        if self._doubt is not None and self._is_leap(self._doubt.excess, stopwatch):
            return now - self._doubt.expected - self._usual_rate * (stopwatch - self._doubt.at)
        if (excess := now - self._expected()) <= FORWARD_S:
            return 0.0
        if not self._is_leap(excess, stopwatch) and any(
            now <= clock + FORWARD_S + self._pace * (stopwatch - seen)
            for seen, clock in self._known(stopwatch)
        ):
            return 0.0
        return excess

    @property
    def is_behind(self) -> bool:
        """Whether the next readings decide if the clock was set, or this process was delayed.

        A real clock: the last reading was earlier than the stopwatch tells. A simulated one: it
        advanced further than expected, and the stamps that tell why have not arrived.
        """
        if self._doubt is not None:
            is_recent = self._stopwatch() - self._doubt.at < _OLD_NEWS_S
            return is_recent and self._stamped < self.now - BACK_S
        return bool(self._differences) and self._differences[-1] < self._largest - _SET_S

    @property
    def is_stalled(self) -> bool:
        """Whether the clock has not advanced when it should have by 0.1 s.

        It is paused, or this process was suspended and has not received a newer time yet.
        """
        return (
            self._stopwatch is not None
            and bool(self._seen)
            and self._usual_rate * (self._stopwatch() - self._seen[-1][0]) > STALLED_S
        )

    @property
    def possible_delay(self) -> float:
        """How far a simulated clock may be ahead of the last time received [s].

        It has advanced since that message, at least to the newest stamp of :meth:`note_stamp`.
        0 for a real clock.
        """
        if not self._simulated or self._stopwatch is None or not self._seen:
            return 0.0
        latest = self._expected()
        if self._stamped <= self.now + FORWARD_S:  # else the clock jumped, or that stamp is wrong
            latest = max(latest, self._stamped)
        return max(0.0, latest - self.now)

    def note_stamp(self, stamp: float) -> None:
        """Take the stamp [s] of a joint state, whose driver uses the same clock.

        On a busy computer it may arrive before the clock message of that time. Joint states are
        queued while this process is delayed, so that only a clock that was set makes their stamps
        leap.
        """
        if not self._simulated or self._stopwatch is None:
            return
        if (leap := stamp - self._stamped) > FORWARD_S:
            self._leap = (self._stopwatch(), leap)
        self._stamped = stamp

    def check(self) -> None:
        """Check that the true time is known, so that a motion can start.

        Raises:
            MotionDelayed: the next readings will tell.
            MotionRefused: the clock has stalled.
        """
        if self.is_stalled:
            raise MotionRefused("the clock or this process has stalled; wait until it continues")
        if self.is_behind:
            raise MotionDelayed("the clock was read late, or set back; the next readings decide")

    @property
    def estimate(self) -> float:
        """The time of a real clock at this moment, by the stopwatch [s]; -inf: unknown."""
        return self._stopwatch() + self._largest if self._is_compared else -math.inf

    def advance(self, now: float) -> float:
        """Take ``now`` [s] as the time and return the latest time passed in.

        An earlier time than the latest is ignored: messages can overtake each other.
        """
        if self._is_compared:
            self._differences.append(now - self._stopwatch())
            self._largest = max(self._largest, self._differences[-1])
        if now > self.now:
            self._note_doubt(now)
            self.now = now
            self._note()
        return self.now

    def begin(self, now: float | None) -> float:
        """Take the time of an activation and return it; None: the latest time.

        A jump is left to the next :meth:`jump`, whose caller can send a stop.
        """
        if now is not None and not self.jump(now):
            self.advance(now)
        return self.now if now is None else now

    def reset(self, now: float, jump: float) -> None:
        """Restart at ``now`` [s] after a jump of the clock by ``jump`` [s].

        Of a real clock it is then known what the next readings must be. If they differ, because it
        was set again or was read late, that is the next jump.
        """
        self.now = now
        self._seen.clear()
        if self._differences:
            self._largest += jump
            self._differences.extend([self._largest] * _READINGS)
        self._before_gap, self._gap_ended = None, -math.inf
        self._stamped, self._leap, self._doubt = -math.inf, (-math.inf, 0.0), None
        self._rates.clear()
        self._paced.clear()
        self._note()

    @property
    def _usual_rate(self) -> float:
        """Return the rate of a clock that may be slower than the stopwatch; 1 until it is known."""
        return min(1.0, self._rates[0][1]) if self._simulated and self._rates else 1.0

    def _known(self, stopwatch: float) -> list[tuple[float, float]]:
        """Return the pairs of stopwatch and clock [s] from which the clock has advanced.

        After a stall of this process, messages from before its end may still arrive, so that the
        clock may be where it would be without the stall.
        """
        is_old_news = stopwatch - self._gap_ended < _OLD_NEWS_S
        return [self._seen[-1], *([self._before_gap] if self._before_gap and is_old_news else [])]

    def _expected(self) -> float:
        """Return the time of a simulated clock at this moment if it was not set [s]."""
        if not self._seen:
            return self.now
        stopwatch, rate = self._stopwatch(), self._usual_rate
        return max(clock + rate * (stopwatch - seen) for seen, clock in self._known(stopwatch))

    def _note_doubt(self, now: float) -> None:
        if not self._simulated or not self._rates:
            return
        stopwatch, expected = self._stopwatch(), self._expected()
        if now - expected > FORWARD_S:
            self._doubt = _Doubt(stopwatch, expected, now - expected)
        elif self._doubt is not None and stopwatch - self._doubt.at > _OLD_NEWS_S:
            self._doubt = None

    def _is_leap(self, excess: float, stopwatch: float) -> bool:
        """Return whether recent stamps leapt forward by about ``excess`` [s]."""
        at, size = self._leap
        return stopwatch - at < _OLD_NEWS_S and abs(size - excess) < FORWARD_S

    def _set_by(self, difference: float, ahead: float) -> float:
        """Return by how much a real clock was set; 0: it was not, or that is not certain yet.

        Args:
            difference: between the clock and the stopwatch now [s].
            ahead: of the clock, of the latest time [s].
        """
        if not self._differences:
            return 0.0
        change = difference - self._largest
        is_known = len(self._differences) == _READINGS
        if change > (_SET_S if is_known else FORWARD_S) or ahead < -BACK_S:
            return change
        is_back = is_known and max(self._differences) < self._largest - _SET_S
        return max(self._differences) - self._largest if is_back and change < -_SET_S else 0.0

    def _note(self) -> None:
        if self._stopwatch is None:
            return
        seen = self._stopwatch()
        if self._seen and seen - self._seen[-1][0] > STALLED_S:
            self._before_gap, self._gap_ended = self._seen[-1], seen
        self._seen.append((seen, self.now))
        while seen - self._seen[0][0] > _LOOK_BACK_S:
            self._seen.popleft()
        (first, start), (last, end) = self._seen[0], self._seen[-1]
        if last - first > _KNOWN_S:
            rate = (end - start) / (last - first)
            # Of equal or lower rates only the newest counts.
            while self._rates and self._rates[-1][1] <= rate:
                self._rates.pop()
            self._rates.append((seen, rate))
        while self._rates and seen - self._rates[0][0] > _USUAL_S:
            self._rates.popleft()
        self._note_pace(seen)

    def _note_pace(self, seen: float) -> None:
        if not self._paced or seen - self._paced[-1][0] > _PACE_STEP_S:
            self._paced.append((seen, self.now))
        while seen - self._paced[0][0] > _PACE_S:
            self._paced.popleft()
        first, start = self._paced[0]
        if seen - first > _KNOWN_S:
            rate = (self.now - start) / (seen - first)
            self._pace = _CATCHES_UP if rate <= _REAL_TIME else _FASTER * rate
