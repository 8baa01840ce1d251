"""How far ahead of the present a motion begins, so that its message arrives before that.

A message that arrives later than the motion begins makes a trajectory controller jump onto it:
20 ms at the full acceleration are a step of 0.3 rad/s. So the lead grows with the delays that this
process has seen recently. A busy machine delays the delivery of a message about as much as it
delays the calls of this process (measured on two cores beside 20 busy processes, n = 134: half of
the messages took longer than 26 ms and one in ten longer than 56 ms; of the calls 25 and 61 ms).
"""

from __future__ import annotations

import math

JOIN_S = 0.06
"""While the arm moves, a new motion starts this long after its chunk arrived [s].

Until then the old motion continues, so that a command that is delivered late still joins it.
"""
_STOP_S = 0.04  # the controller's clock may be 30 ms ahead
# From standstill the lead only has to cover the delivery, because the first steps are tiny.
_START_S = 0.02
_AHEAD_MOST_S = 0.03  # how far a controller's clock may be ahead
_LATE_MOST_S = 0.08  # the longest delay that a lead covers: a stop must not wait for longer
_PLANNING_MOST_S = 0.06
# The longest planning time decays by the first factor with each chunk, the largest delay of a call
# by the second factor with each call.
_PLANNING_DECAY, _LATENESS_DECAY, _AHEAD_DECAY = 0.9, 0.99, 0.999


class Leads:
    """Computes leads from the recent delays of this process.

    Args:
        period: of the grid on which motions begin [s].
        delivered: whether commands are sent ahead as messages; False: this process streams them
            one by one, so no message can be late.
    """

    def __init__(self, period: float, *, delivered: bool) -> None:
        self._period, self._delivered = period, delivered
        self._planning_s = 0.0  # the longest recent one
        self._late_s = 0.0
        self._ahead_s = 0.0  # of the arm's clock

    def note_planning(self, seconds: float) -> None:
        """Take how long the planning of a chunk took [s]."""
        self._planning_s = max(_PLANNING_DECAY * self._planning_s, seconds)

    def note_delay(self, seconds: float) -> None:
        """Take by how much a regular call of this process was late [s]; negative: it was early."""
        self._late_s = max(_LATENESS_DECAY * self._late_s, min(seconds, _LATE_MOST_S))

    def note_stamp(self, ahead: float) -> None:
        """Take how far the stamp of a joint state is ahead of this process's clock [s].

        Joint states are stamped on the controller's host, so its clock is at least as far ahead.
        """
        self._ahead_s = max(_AHEAD_DECAY * self._ahead_s, min(ahead, _AHEAD_MOST_S))

    @property
    def join(self) -> int:
        """Grid periods after which a motion can replace one in progress."""
        return self._periods(JOIN_S)

    @property
    def stop(self) -> int:
        """Grid periods after which a stop can begin."""
        return self._periods(_STOP_S)

    @property
    def start_s(self) -> float:
        """Time after which an arm at rest can start [s]."""
        planning = min(self._planning_s, _PLANNING_MOST_S)
        return _START_S + planning + self._late_s + self._ahead_s

    def _periods(self, seconds: float) -> int:
        # Delays shorter than half a period are covered already: leads are rounded up, and a motion
        # begins at a grid point after the present.
        late = self._late_s if self._delivered else 0.0
        return max(
            1, math.ceil((seconds + max(0.0, late - 0.5 * self._period)) / self._period - 1e-9)
        )
