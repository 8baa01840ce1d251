"""Evaluate the dead-man switch: teleoperation sends commands only while the operator holds it."""

from __future__ import annotations

import math

_OPEN = "the dead-man switch is open"


class DeadManSwitch:
    """A switch that is held from an observed press until its release. Times [s] on a monotonic
    clock.

    A switch that is pressed in its first message, or still pressed after :meth:`trip`, counts as
    open until it is released once.

    Args:
        age_s: silence after which the switch counts as open: broken cable, empty battery.
        topic: of the switch, for messages.
        unchanged_s: a deflected device that reports the same values for longer counts as open:
            its radio is out of range and its driver repeats the last message. None: not checked.
    """

    def __init__(self, age_s: float, topic: str, unchanged_s: float | None = None) -> None:
        self._age_s, self._unchanged_s = age_s, unchanged_s
        self._received_at = self._changed_at = -math.inf
        self._values: object = None
        self._open_seen = self._held = False
        self._nothing_received = f"no message of the dead-man switch on {topic}; start its driver"
        self._why = self._nothing_received

    def receive(self, pressed: bool, now: float, values: object = None) -> None:
        """Take a message of the switch.

        Args:
            values: all axes and buttons while the device is deflected; None while it is centred.
        """
        self.held(now)  # a silence that ends with this message counts
        if values is None or values != self._values:
            self._values, self._changed_at = values, now
        self._received_at = now
        if not pressed:
            self._open_seen, self._held = True, False
            self._why = _OPEN
        elif self._open_seen:
            self._open_seen, self._held = False, True
        elif not self._held and self._why in (self._nothing_received, _OPEN):
            self._why = (
                "the dead-man switch was pressed before the node received it; release it once"
            )

    def trip(self, reason: str) -> None:
        """Count the switch as open until it has been released and pressed again."""
        if self._held:
            self._held, self._why = False, f"{reason}: release the switch and press it again"

    def held(self, now: float) -> bool:
        """Whether the operator holds the switch."""
        if self._held and now - self._received_at > self._age_s:
            self.trip(f"the switch has been silent for {now - self._received_at:.2f} s")
        if (
            self._held
            and self._unchanged_s is not None
            and now - self._changed_at > self._unchanged_s
        ):
            self.trip(
                f"the device reported exactly the same values for {now - self._changed_at:.1f} s"
            )
        return self._held

    @property
    def why_open(self) -> str:
        """Why it is not held, in a sentence; empty when it is."""
        return "" if self._held else self._why
