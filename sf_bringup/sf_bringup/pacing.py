"""Keep simulated time at a wanted ratio to wall time (the real-time factor) and measure the ratio
that is reached, without ROS.
"""

from __future__ import annotations

import time
from collections.abc import Callable

RESTART_LAG = 0.1  # s of lag from which the lag is dropped instead of caught up
AT_ONCE = 0.03  # s of lag that are caught up at once, such as the rendering of two images
# Maximum speed of catching up the rest, as a multiple of the wanted factor. If simulated time ran
# faster, commands sent meanwhile would arrive late.
CATCH_UP = 1.2
REPORT_WINDOW = 5.0  # s of wall time over which the reached factor is measured
FACTOR_WANTED = 0.95  # share of the wanted factor below which to warn


class Pacer:
    """Compute how long to wait until a simulated time is due.

    A simulated time s is due at wall time w0 + (s - s0) / factor, where w0 and s0 are the times of
    the last restart.

    Args:
        factor: simulated seconds per wall second; 0 never waits.
        clock: returns the wall time [s].

    Attributes:
        frames_dropped: counted by the caller.
    """

    def __init__(self, factor: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.factor = factor
        self.frames_dropped = 0
        self._clock = clock
        self._wall_total = 0.0
        self._simulated_total = 0.0
        self.restart(0.0)

    def restart(self, simulated: float) -> None:
        """Measure from ``simulated`` [s] and the current wall time on, as after a pause."""
        self._wall = self._window_wall = self._clock()
        self._simulated = self._window_simulated = simulated
        self.stepped(simulated)

    def stepped(self, simulated: float) -> None:
        """Record that the simulation has just reached ``simulated`` [s]."""
        now = self._clock()
        planned = (
            now if self.factor == 0 or simulated == self._simulated else self._allowed(simulated)
        )
        self._last_wall, self._last_simulated = max(planned, now - AT_ONCE), simulated

    def wait_s(self, simulated: float) -> float:
        """Return the wall seconds until the simulation may continue to ``simulated`` [s]; negative
        if it is late, 0 if the factor is 0.
        """
        if self.factor == 0:
            return 0.0
        return self._allowed(simulated) - self._clock()

    def lag_s(self, simulated: float) -> float:
        """Return the wall seconds by which ``simulated`` [s] is late; negative before it is due, 0
        if the factor is 0.
        """
        return self._clock() - self._due(simulated) if self.factor else 0.0

    def give_up_lag(self, simulated: float) -> None:
        """Drop a lag above :data:`RESTART_LAG`, so that time does not run too fast afterwards."""
        if self.lag_s(simulated) > RESTART_LAG:
            self._wall, self._simulated = self._clock(), simulated

    def reached(self, simulated: float) -> float | None:
        """Return the factor reached in the last window once per window, and None in between."""
        wall = self._clock() - self._window_wall
        if wall < REPORT_WINDOW:
            return None
        return self._close_window(simulated)

    def total(self, simulated: float) -> float:
        """Return the factor reached over the whole time, without pauses."""
        self._close_window(simulated)
        return self._simulated_total / max(self._wall_total, 1e-9)

    def pause(self, simulated: float) -> None:
        """Stop measuring until :meth:`restart`."""
        self._close_window(simulated)

    def _allowed(self, simulated: float) -> float:
        soonest = self._last_wall + (simulated - self._last_simulated) / (CATCH_UP * self.factor)
        return max(self._due(simulated), soonest)

    def _due(self, simulated: float) -> float:
        return self._wall + (simulated - self._simulated) / self.factor

    def _close_window(self, simulated: float) -> float:
        now = self._clock()
        wall, passed = now - self._window_wall, simulated - self._window_simulated
        self._wall_total += wall
        self._simulated_total += passed
        self._window_wall, self._window_simulated = now, simulated
        return passed / max(wall, 1e-9)
