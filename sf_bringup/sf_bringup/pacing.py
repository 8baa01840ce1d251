"""Keeps simulated time at a wanted ratio to wall time, and measures the ratio that is reached. No
ROS.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# s: further behind than this, the lost time is given up: it passed for nobody in the simulated
# world
RESTART_LAG = 0.1
AT_ONCE = 0.03  # s of lag that are made up for at once, such as two cameras' images
# times the wanted factor at most for the rest: were time to race, commands on their way would come
# late
CATCH_UP = 1.2
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
        self.stepped(simulated)

    def stepped(self, simulated: float) -> None:
        """Note that the simulation has just got to ``simulated`` [s]."""
        now = self._clock()
        planned = (
            now if self.factor == 0 or simulated == self._simulated else self._allowed(simulated)
        )
        self._last_wall, self._last_simulated = max(planned, now - AT_ONCE), simulated

    def wait_s(self, simulated: float) -> float:
        """Wall seconds until the simulation may continue to ``simulated`` [s]; negative when it is
        late; 0 without pacing.
        """
        if self.factor == 0:
            return 0.0
        return self._allowed(simulated) - self._clock()

    def lag_s(self, simulated: float) -> float:
        """Wall seconds by which ``simulated`` [s] is late; negative before it is due; 0 without
        pacing.
        """
        return self._clock() - self._due(simulated) if self.factor else 0.0

    def give_up_lag(self, simulated: float) -> None:
        """Forget a lag that is too long to catch up, so that time does not race afterwards."""
        if self.lag_s(simulated) > RESTART_LAG:
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
