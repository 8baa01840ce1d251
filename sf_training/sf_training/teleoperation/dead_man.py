"""The switch that a hand must hold: without it nothing is sent, and the arm comes to rest."""

from __future__ import annotations

import math

_UNHEARD, _OPEN = "nothing has been heard of the dead-man switch", "the dead-man switch is open"


class DeadMan:
    """Held only between a press that was seen as it happened and whatever ends it. Times [s] on a
    clock that nothing sets.

    A switch that is down when it is first heard, or still down after :meth:`trip`, moves nothing:
    the hand must open once.

    Args:
        age_s: silent for longer counts as open: a cable is out, a battery empty, a driver dead.
        unchanged_s: a device off centre that says exactly the same for longer counts as open too:
            its radio is gone and
            its driver repeats the last it heard. None: not looked for.
    """

    def __init__(self, age_s: float, unchanged_s: float | None = None) -> None:
        self._age_s, self._unchanged_s = age_s, unchanged_s
        self._heard = self._changed = -math.inf
        self._said: object = None
        self._open_seen = self._held = False
        self._why = _UNHEARD

    def hear(self, pressed: bool, now: float, said: object = None) -> None:
        """A message of the switch; ``said``: all that it holds when the device is off centre, None
        when it is at rest.
        """
        self.held(now)  # a silence that ends with this message counts
        if said is None or said != self._said:
            self._said, self._changed = said, now
        self._heard = now
        if not pressed:
            self._open_seen, self._held = True, False
            self._why = _OPEN
        elif self._open_seen:
            self._open_seen, self._held = False, True
        elif not self._held and self._why in (_UNHEARD, _OPEN):
            self._why = "the dead-man switch was down before it was heard: release it once"

    def trip(self, reason: str) -> None:
        """Counts as open until it has been released and pressed again."""
        if self._held:
            self._held, self._why = False, f"{reason}: release the switch and press it again"

    def held(self, now: float) -> bool:
        """A hand holds it."""
        if self._held and now - self._heard > self._age_s:
            self.trip(f"the switch has been silent for {now - self._heard:.2f} s")
        if self._held and self._unchanged_s is not None and now - self._changed > self._unchanged_s:
            self.trip(f"the device has said exactly the same for {now - self._changed:.1f} s")
        return self._held

    @property
    def why_open(self) -> str:
        """Why it is not held, in a sentence; empty when it is."""
        return "" if self._held else self._why
