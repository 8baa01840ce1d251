"""Whether the controller is there, active, fit and ours alone, from what was observed of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sf_policy_node.controller.requirements import objections, remarks, version

_SILENT_S = 0.5  # a controller reports its state every cycle while it is active
_CONFIRM_S = 0.05  # for reports that arrived while this process did not run
_ACTIVE = "active"


class ControllerPresence:
    """Takes observations; each that ends the controller's present motion is returned as a reason.

    Args:
        topic: of the trajectories, fully resolved.
        joints: that are sent, in any order.
        tracking_error: how far each joint may be from its command [rad or m].
    """

    def __init__(
        self, topic: str, joints: Sequence[str], tracking_error: Mapping[str, float]
    ) -> None:
        self.topic, self._joints, self._tracking_error = topic, joints, tracking_error
        self.parameters: Mapping[str, object] = {}
        self._name = topic.rpartition("/")[0]
        self._is_known = False  # by that name: then nobody else is taken for it
        self._subscribers: dict[str, str] = {}
        self._others: list[str] = []
        self.endpoint = ""
        """Identity of the controller's subscription; another one is another start of it."""
        self._state = ""  # as controller_manager says; empty: nothing known
        self._reported_at: float | None = None
        self._overdue_at: float | None = None  # steady; of the check that found it overdue
        self._is_silent = False

    @property
    def name(self) -> str:
        """Fully qualified name of the node that takes the trajectories; empty while there is none.

        That is the node whose ``~/joint_trajectory`` the topic is, else the only subscriber.
        """
        names = set(self._subscribers.values())
        if self._is_known or self._name in names:
            return self._name if self._name in names else ""
        return next(iter(names)) if len(names) == 1 else ""

    def saw_topic(self, subscribers: Mapping[str, str], publishers: Iterable[str]) -> str:
        """Take who is on the topic; return why the controller's motion has ended, if it has.

        Args:
            subscribers: endpoint -> name of the node, of all subscriptions.
            publishers: names of the other nodes that publish there.
        """
        before, name, known = self.endpoint, self.name, self._subscribers
        self._subscribers, self._others = dict(subscribers), sorted(set(publishers))
        self._is_known |= self._name in subscribers.values()
        own = {gid for gid, who in subscribers.items() if who == self.name}
        # A process that was killed stays in the graph for a while, beside the one in its place.
        if new := own - known.keys():
            self.endpoint = min(new)
        elif self.endpoint not in own:
            self.endpoint = min(own, default="")
        if not before or before == self.endpoint:
            return ""
        self.parameters, self._state = {}, ""
        self._reported_at, self._overdue_at, self._is_silent = None, None, False
        return f"{name} was started again" if self.endpoint else f"{name} has left {self.topic}"

    def saw_parameters(self, values: Mapping[str, object]) -> None:
        """Take the controller's parameters."""
        self.parameters = values

    def saw_state(self, state: str) -> str:
        """Take its lifecycle state; return why its motion has ended, if it has."""
        before, self._state = self._state, state
        return f"{self._said} was deactivated" if before == _ACTIVE and state != _ACTIVE else ""

    def saw_report(self, now: float) -> None:
        """Take that it reported its state at ``now``, as it does while it is active.

        Args:
            now: of a clock that stands still with the controller: simulated time in simulation [s].
        """
        self._reported_at, self._overdue_at, self._is_silent = now, None, False

    @property
    def is_overdue(self) -> bool:
        """Return whether the last :meth:`check_silence` missed a report; check once more soon."""
        return self._overdue_at is not None

    def check_silence(self, now: float, steady: float) -> str:
        """Return why its motion has ended when it has ceased to report.

        The first check that misses a report says nothing: after a stall of this process it runs
        before the reports that are waiting.

        Args:
            now: of the clock of :meth:`saw_report` [s].
            steady: of the host [s].
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
        return f"{self._said} reports no state any more: it was deactivated, or its process stopped"

    @property
    def refusal(self) -> str:
        """Why nothing can be sent to it now, and the cure; empty when it can be commanded."""
        if not self._subscribers or (self._is_known and not self.name):
            return (
                f"no controller subscribes to {self.topic}: load and activate the controller, "
                "or correct command.topic in the contract"
            )
        if self._state not in ("", _ACTIVE):
            return f"{self._said} is {self._state}: activate it"
        if self._is_silent:
            return f"{self._said} reports no state: activate it"
        return self.unfit

    @property
    def unfit(self) -> str:
        """What its parameters make impossible, with the cure; empty while they are not known."""
        found = objections(self.parameters, self._joints, self._tracking_error)
        return f"{self._said}: {'; '.join(found)}" if found else ""

    @property
    def remarks(self) -> list[str]:
        """Return what a person should know beside that, a sentence each."""
        found = [
            f"{each} publishes on {self.topic} too: only one node may command the controller; "
            "stop it, or give it another topic"
            for each in self._others
        ]
        return found + [f"{self._said}: {each}" for each in remarks(self.parameters)]

    @property
    def summary(self) -> dict[str, str]:
        """Return what is known of it, for diagnostics."""
        state = "silent" if self._is_silent else self._state
        if not state:
            state = "unknown" if self._reported_at is None else _ACTIVE
        values = {"controller": self.name or "none", "controller state": state}
        if self.parameters:
            values["controller version"] = version(self.parameters)
        return values

    @property
    def _said(self) -> str:
        return self.name or "the controller"
