"""Receives the emergency stop buttons on their topics.

Every button is tracked separately. If the contract requires a heartbeat, a silent button is a stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable

from rclpy.clock import Clock, ClockType
from std_msgs.msg import Bool

from sf_policy_node.contract import Contract
from sf_policy_node.nodes.any_qos import UNKNOWN, AnyQosSubscription
from sf_policy_node.nodes.lifecycle import ManagedNode

SHARED_TOPIC = "/emergency_stop"
"""The topic on which the arms of all namespaces receive a button."""
_RESET_S = 1.0  # longer than a status of the executor is on its way
_CHECKS = 4  # heartbeat checks in the time that a button may be silent


class Buttons:
    """Tracks which publishers of the emergency stop are pressed.

    Args:
        age_s: the longest allowed silence of a publisher [s]; None: there is no heartbeat.
    """

    def __init__(self, age_s: float | None = None) -> None:
        self._age_s = age_s
        self._pressed: set[str] = set()
        self._received: dict[str, float] = {}  # time of the last message by publisher

    def receive(self, publisher: str, pressed: bool, now: float, present: Collection[str]) -> bool:
        """Take a message; return False if a publisher with a heartbeat is gone, which is a stop.

        A message changes only its own button. One that was pressed when its program ended remains
        pressed until :meth:`release_all_but`.
        """
        self._received[publisher] = now
        if pressed:
            self._pressed.add(publisher)
            return True
        self._pressed.discard(publisher)
        gone = self._received.keys() - present - {publisher}
        for each in gone:
            del self._received[each]
        return self._age_s is None or not gone

    def held(self, present: Collection[str]) -> set[str]:
        """Return the pressed buttons whose publishers are ``present``.

        The others can no longer be released by a message; a ``ros2 topic pub --once`` is an
        example. An unknown publisher may be any that is present.
        """
        return self._pressed & (set(present) | ({UNKNOWN} if present else set()))

    def release_all_but(self, held: Collection[str]) -> None:
        """Release the buttons that are not ``held``."""
        self._pressed &= set(held)

    def inherit(self, before: Buttons) -> None:
        """Take over the pressed buttons of the object that this one replaces."""
        self._pressed |= before._pressed

    def silence(self, now: float) -> float | None:
        """Return the longest silence of any publisher [s]; None before the first message."""
        return now - min(self._received.values()) if self._received else None

    @property
    def pressed(self) -> set[str]:
        """The publishers of pressed buttons."""
        return set(self._pressed)


class EmergencyStop:
    """Subscribes to ``topics.emergency_stop`` of a contract and to :data:`SHARED_TOPIC`.

    In a namespace these are two topics. A publisher of either is a button.

    Args:
        change: called with True when a button reports that it is pressed or the heartbeat stops,
            and with False when the last pressed button is released, and with later messages.
        before: the object of an earlier configuration, whose buttons remain pressed.
    """

    def __init__(
        self,
        node: ManagedNode,
        contract: Contract,
        change: Callable[[bool], None],
        before: EmergencyStop | None = None,
    ) -> None:
        self._node, self._change = node, change
        self._age_s = contract.budgets.emergency_stop_age_s
        self._buttons, self._silent, self._begun = Buttons(self._age_s), False, time.monotonic()
        self._is_unknown = False  # rclpy does not report publishers of messages
        self._indistinct = False  # for this reason the heartbeat is of no use
        self._names: dict[str, str] = {}  # of the nodes of pressed buttons, by publisher
        self._pressed_at = -math.inf  # when a button last reported that it is pressed [s]
        if before is not None:
            self._buttons.inherit(before._buttons)
            self._names.update(before._names)
            for each in before._subscriptions:
                self._names |= each.names
        topics = dict.fromkeys(
            node.resolve_topic_name(each) for each in (contract.topics.emergency_stop, SHARED_TOPIC)
        )
        self._topics = " or ".join(topics)
        self._subscriptions: list[AnyQosSubscription] = [
            node.subscribe_any_qos(Bool, each, self._receive) for each in topics
        ]
        if self._age_s is not None:
            timer = node.create_timer(
                self._age_s / _CHECKS,
                self._check_heartbeat,
                clock=Clock(clock_type=ClockType.STEADY_TIME),
            )
            node.resources.callback(node.destroy_timer, timer)

    @property
    def pressed(self) -> bool:
        """Whether a button is pressed or the heartbeat is missing."""
        return bool(self._buttons.pressed) or self._silent

    @property
    def problem(self) -> str:
        """What is wrong with the heartbeat; empty when nothing is."""
        if not self._silent:
            return ""
        if self._indistinct:
            return (
                f"emergency stop: {self._topics} has several publishers, which this version of"
                " rclpy cannot distinguish, so the silence of one would not be noticed; use only"
                " one publisher, or ROS 2 Kilted or later"
            )
        what = (
            "nothing was received" if self._buttons.silence(0.0) is None else "a button is silent"
        )
        return (
            f"emergency stop: {what} on {self._topics} for longer than budgets.emergency_stop_age_s"
            f" allows ({self._age_s:g} s); check the button and its driver"
        )

    def reset(self) -> str:
        """Release pressed buttons whose programs have ended; return the names of their nodes.

        Raises:
            ValueError: another button is pressed, or the heartbeat is missing; none is released.
        """
        if held := self._buttons.held(self._present()):
            raise ValueError(
                f"the emergency stop is still pressed by {self._named(held)}; release it first (a"
                " program that was killed counts for up to 20 s)"
            )
        if self._silent:
            raise ValueError(self.problem)
        gone = self._buttons.pressed
        self._release_gone()
        return self._named(gone)

    def note_executor(self, *, stopped: bool) -> None:
        """Take whether the executor is in an emergency stop, in a node that nobody resets.

        An executor that is not stopped, a second after the last press, was reset. So buttons whose
        programs have ended are released here, too.
        """
        if not stopped and time.monotonic() - self._pressed_at > _RESET_S:
            self._release_gone()

    def _release_gone(self) -> None:
        if self._buttons.pressed:
            self._buttons.release_all_but(self._buttons.held(self._present()))
            if not self.pressed:
                self._change(False)

    def _named(self, publishers: Iterable[str]) -> str:
        names = dict(self._names)
        for each in self._subscriptions:
            names |= each.names
        return ", ".join(sorted({names.get(each, "a node") for each in publishers}))

    def _receive(self, message: Bool, publisher: str) -> None:
        present = self._present()
        self._is_unknown |= publisher == UNKNOWN
        if message.data:
            self._pressed_at = time.monotonic()
        elif publisher == UNKNOWN and len(present) > 1:
            self._node.get_logger().warning(
                f"{self._topics} has {len(present)} publishers, which this version of rclpy cannot"
                " distinguish, so a release is ignored; use only one publisher",
                throttle_duration_sec=5.0,
            )
            self._check_heartbeat()
            return
        complete = self._buttons.receive(publisher, message.data, time.monotonic(), present)
        if message.data or not complete:
            self._change(True)
        self._check_heartbeat()
        if not self.pressed:
            self._change(False)

    def _present(self) -> set[str]:
        """Return the GIDs of the buttons that are present now, and note their names."""
        return set[str]().union(*(each.publishers() for each in self._subscriptions))

    def _check_heartbeat(self) -> None:
        if self._age_s is None:
            return
        now = time.monotonic()
        silence = self._buttons.silence(now)
        self._indistinct = self._is_unknown and len(self._present()) > 1
        silent = (now - self._begun if silence is None else silence) > self._age_s
        silent |= self._indistinct
        if silent and not self._silent:
            self._silent = True
            self._node.get_logger().error(self.problem)
            self._change(True)
        self._silent = silent
