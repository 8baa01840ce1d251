"""Keeps simulated time at a wanted ratio to wall time, and measures the ratio that is reached. No ROS."""

from __future__ import annotations

import time
from collections.abc import Callable

RESTART_LAG = 0.25  # s: further behind than this, the lost time is given up instead of caught up
REPORT_WINDOW = 5.0  # s of wall time over which the reached factor is judged
FACTOR_WANTED = 0.95  # share of the wanted factor below which a warning is due


class Pacer:
    """Says how long to wait for a simulated time.

    Args:
        factor: simulated seconds per wall second; 0 never waits.
        clock: wall time [s].
    """

    def __init__(self, factor: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.factor = factor
        self.frames_dropped = 0
        self._clock = clock
        self._wall_total = 0.0
        self._simulated_total = 0.0
        self.restart(0.0)

    def restart(self, simulated: float) -> None:
        """Count from here, as at the start and after a pause."""
        self._wall = self._window_wall = self._clock()
        self._simulated = self._window_simulated = simulated

    def wait_s(self, simulated: float) -> float:
        """Wall seconds until ``simulated`` [s] is due; negative when it is late; 0 without pacing."""
        if self.factor == 0:
            return 0.0
        return self._wall + (simulated - self._simulated) / self.factor - self._clock()

    def give_up_lag(self, simulated: float) -> None:
        """Forget a lag that is too long to catch up, so that time does not race afterwards."""
        if self.wait_s(simulated) < -RESTART_LAG:
            self._wall, self._simulated = self._clock(), simulated

    def reached(self, simulated: float) -> float | None:
        """Factor reached in the last window, once per window; None in between."""
        wall = self._clock() - self._window_wall
        if wall < REPORT_WINDOW:
            return None
        return self._close_window(simulated)

    def total(self, simulated: float) -> float:
        """Factor reached over all time that was not paused."""
        self._close_window(simulated)
        return self._simulated_total / max(self._wall_total, 1e-9)

    def pause(self, simulated: float) -> None:
        """Stop counting until :meth:`restart`."""
        self._close_window(simulated)

    def _close_window(self, simulated: float) -> float:
        now = self._clock()
        wall, passed = now - self._window_wall, simulated - self._window_simulated
        self._wall_total += wall
        self._simulated_total += passed
        self._window_wall, self._window_simulated = now, simulated
        return passed / max(wall, 1e-9)
