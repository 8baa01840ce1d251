"""Receives the emergency stop buttons on their topics.

Every button is tracked separately. If the contract requires a heartbeat, a silent button is a stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from std_msgs.msg import Bool

from sf_policy_node.contract import Contract
from sf_policy_node.nodes.any_qos import UNKNOWN
from sf_policy_node.nodes.lifecycle import ManagedNode

SHARED_TOPIC = "/emergency_stop"
"""The topic on which the arms of all namespaces receive a button."""
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

    def receive(self, publisher: str, pressed: bool, now: float, present: set[str]) -> bool:
        """Take a message; return False if a publisher with a heartbeat is gone, which is a stop.

        A release also releases buttons whose publishers are no longer ``present``, because they
        cannot be released otherwise. A ``ros2 topic pub --once`` is an example.
        """
        self._received[publisher] = now
        if pressed:
            self._pressed.add(publisher)
            return True
        gone = self._received.keys() - present - {publisher}
        self._pressed -= gone | {publisher}
        for each in gone:
            del self._received[each]
        return self._age_s is None or not gone

    def silence(self, now: float) -> float | None:
        """Return the longest silence of any publisher [s]; None before the first message."""
        return now - min(self._received.values()) if self._received else None

    @property
    def pressed(self) -> bool:
        """Whether a button is pressed."""
        return bool(self._pressed)


class EmergencyStop:
    """Subscribes to ``topics.emergency_stop`` of a contract and to :data:`SHARED_TOPIC`.

    In a namespace these are two topics. A publisher of either is a button.

    Args:
        change: called with True when a button reports that it is pressed or the heartbeat stops,
            and with False when a message arrives while every button is released.
    """

    def __init__(
        self, node: ManagedNode, contract: Contract, change: Callable[[bool], None]
    ) -> None:
        self._node, self._change = node, change
        self._age_s = contract.budgets.emergency_stop_age_s
        self._buttons, self._silent, self._begun = Buttons(self._age_s), False, time.monotonic()
        topics = dict.fromkeys(
            node.resolve_topic_name(each) for each in (contract.topics.emergency_stop, SHARED_TOPIC)
        )
        self._topics = " or ".join(topics)
        self._subscriptions = [node.subscribe_any_qos(Bool, each, self._receive) for each in topics]
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
        return self._buttons.pressed or self._silent

    @property
    def problem(self) -> str:
        """What is wrong with the heartbeat; empty when nothing is."""
        if not self._silent:
            return ""
        what = (
            "nothing was received" if self._buttons.silence(0.0) is None else "a button is silent"
        )
        return (
            f"emergency stop: {what} on {self._topics} for longer than budgets.emergency_stop_age_s"
            f" allows ({self._age_s:g} s); check the button and its driver"
        )

    def _receive(self, message: Bool, publisher: str) -> None:
        present = set() if message.data else self._present()
        if publisher == UNKNOWN and len(present) > 1:
            self._node.get_logger().warning(
                f"{self._topics} has {len(present)} publishers, which this version of rclpy cannot"
                " distinguish, so a release is ignored; use only one publisher",
                throttle_duration_sec=5.0,
            )
            return
        complete = self._buttons.receive(publisher, message.data, time.monotonic(), present)
        if message.data or not complete:
            self._change(True)
        self._check_heartbeat()
        if not self.pressed:
            self._change(False)

    def _present(self) -> set[str]:
        """Return the GIDs of the buttons that are present now."""
        return set[str]().union(*(each.publishers() for each in self._subscriptions))

    def _check_heartbeat(self) -> None:
        if self._age_s is None:
            return
        now = time.monotonic()
        silence = self._buttons.silence(now)
        silent = (now - self._begun if silence is None else silence) > self._age_s
        if silent and not self._silent:
            self._silent = True
            self._node.get_logger().error(self.problem)
            self._change(True)
        self._silent = silent
