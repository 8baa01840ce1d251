"""Judges from observations whether the controller runs, is active, is suitable and has no other
publisher.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sf_policy_node.controller.requirements import objections, remarks, version

_SILENT_S = 0.5  # a controller reports its state every cycle while it is active
_CONFIRM_S = 0.05  # time to process reports that arrived while this process was suspended
_FULL_SPEED = 0.99  # share of the full speed from which a controller counts as not scaled down
_ACTIVE = "active"
_NAMELESS = "_NODE_NAME_UNKNOWN_"  # rmw's name of a node that is not discovered yet, or not ROS


class ControllerPresence:
    """Keeps what is known of one controller.

    Methods that take an observation return why the controller's current motion has ended; empty
    when it has not.

    Args:
        topic: of the trajectories, fully resolved.
        joints: that are commanded, in any order.
        tracking_error: largest distance of each joint from its command [rad or m].
    """

    def __init__(
        self, topic: str, joints: Sequence[str], tracking_error: Mapping[str, float]
    ) -> None:
        self.topic, self._joints, self._tracking_error = topic, joints, tracking_error
        self.parameters: Mapping[str, object] = {}
        self._name = topic.rpartition("/")[0]
        self._is_known = False  # a node of that name was seen, so no other node is the controller
        self._subscribers: dict[str, str] = {}
        self._others: list[str] = []
        self.endpoint = ""
        """GID of the controller's subscription; a new GID means that the controller restarted."""
        self._state = ""  # lifecycle state from controller_manager; empty: unknown
        self._reported_at: float | None = None
        self._overdue_at: float | None = (
            None  # when a report was first overdue, on the steady clock
        )
        self._is_silent = False
        self._speed = 0.0  # share of the full speed at which trajectories are played; 0: unknown

    @property
    def name(self) -> str:
        """Fully qualified name of the controller's node; empty while there is none.

        It is the node whose ``~/joint_trajectory`` is the topic, otherwise the only subscriber.
        """
        names = set(self._subscribers.values())
        if self._is_known or self._name in names:
            return self._name if self._name in names else ""
        return next(iter(names)) if len(names) == 1 else ""

    def saw_topic(self, subscribers: Mapping[str, str], publishers: Iterable[str]) -> str:
        """Take the subscribers and publishers of the topic.

        Args:
            subscribers: name of the node of each subscription, by GID.
            publishers: names of the other nodes that publish on the topic.
        """
        before, name, known = self.endpoint, self.name, self._subscribers
        self._subscribers, self._others = dict(subscribers), sorted(set(publishers))
        self._is_known |= self._name in subscribers.values()
        own = {gid for gid, who in subscribers.items() if who == self.name}
        # A killed process remains in the graph for a while, next to the process that replaces it.
        if new := own - known.keys():
            self.endpoint = min(new)
        elif self.endpoint not in own:
            self.endpoint = min(own, default="")
        if not before or before == self.endpoint:
            return ""
        self.parameters, self._state = {}, ""
        self._reported_at, self._overdue_at, self._is_silent, self._speed = None, None, False, 0.0
        if name != self.name and before in subscribers:
            return ""  # a listener that was taken for the controller while it was the only one
        if name.endswith(_NAMELESS) and self.name and not self.name.endswith(_NAMELESS):
            return ""  # its name is known now
        return f"{name} was restarted" if self.endpoint else f"{name} has left {self.topic}"

    def saw_parameters(self, values: Mapping[str, object]) -> None:
        """Take the controller's parameters."""
        self.parameters = values

    def saw_state(self, state: str) -> str:
        """Take the controller's lifecycle state."""
        before, self._state = self._state, state
        return f"{self._label} was deactivated" if before == _ACTIVE and state != _ACTIVE else ""

    def saw_report(self, now: float, speed: float = 0.0) -> None:
        """Record that the controller published its state, as it does while it is active.

        Args:
            now: on a clock that pauses with the controller: simulated time in simulation [s].
            speed: share of the full speed at which it plays trajectories; 0: it does not say.
        """
        self._reported_at, self._overdue_at, self._is_silent = now, None, False
        self._speed = speed

    @property
    def is_overdue(self) -> bool:
        """Whether the last :meth:`check_silence` missed a report and must be repeated soon."""
        return self._overdue_at is not None

    def check_silence(self, now: float, steady: float) -> str:
        """Check whether the controller has stopped publishing its state.

        The first check that misses a report returns nothing. After a stall of this process it may
        run before the callbacks of reports that have arrived.

        Args:
            now: on the clock of :meth:`saw_report` [s].
            steady: on the host's monotonic clock [s].
        """
        if self._reported_at is None or self._is_silent:
            return ""
        if now - self._reported_at < _SILENT_S:
            self._overdue_at = None
            return ""
        if self._overdue_at is None:
            self._overdue_at = steady
        if steady - self._overdue_at < _CONFIRM_S:
            return ""
        self._overdue_at, self._is_silent = None, True
        return (
            f"{self._label} no longer reports its state: it was deactivated, or its process ended"
        )

    @property
    def is_absent(self) -> bool:
        """Whether no controller subscribes to the topic."""
        return not self._subscribers or (self._is_known and not self.name)

    @property
    def refusal(self) -> str:
        """Why the controller cannot be commanded now, and the cure; empty when it can."""
        if self.is_absent:
            return (
                f"no controller subscribes to {self.topic}: load and activate the controller, "
                "or correct command.topic in the contract"
            )
        if self._state not in ("", _ACTIVE):
            return f"{self._label} is {self._state}: activate it"
        if self._is_silent:
            return f"{self._label} reports no state: activate it"
        if 0.0 < self._speed < _FULL_SPEED:  # it would leap onto every new trajectory
            return (
                f"{self._label} plays trajectories at {self._speed:.0%} of their speed: set the "
                "speed scaling of the robot to 100 %"
            )
        return self.unfit

    @property
    def unfit(self) -> str:
        """Why its parameters are unsuitable, with the cure; empty while they are unknown."""
        found = objections(self.parameters, self._joints, self._tracking_error)
        return f"{self._label}: {'; '.join(found)}" if found else ""

    @property
    def remarks(self) -> list[str]:
        """Warnings for the operator, one sentence each."""
        found = [
            f"{each} publishes on {self.topic} too: only one node may command the controller; "
            "stop it, or give it another topic"
            for each in self._others
        ]
        return found + [f"{self._label}: {each}" for each in remarks(self.parameters)]

    @property
    def summary(self) -> dict[str, str]:
        """Names and values about the controller, for diagnostics."""
        state = "silent" if self._is_silent else self._state
        if not state:
            state = "unknown" if self._reported_at is None else _ACTIVE
        values = {"controller": self.name or "none", "controller state": state}
        if self.parameters:
            values["controller version"] = version(self.parameters)
        return values

    @property
    def _label(self) -> str:
        return self.name or "the controller"
