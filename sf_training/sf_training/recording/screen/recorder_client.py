"""Talks to a recorder: hears its status, calls its services, never blocks. Keyboard, gamepad and
tests share it.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node

from sf_msgs.msg import RecorderStatus
from sf_msgs.srv import EndEpisode, LabelEpisode, StartEpisode
from sf_policy_node.nodes.lifecycle import LATCHED
from sf_training.recording.screen.controls import Order, Press, Refusal, Service, order
from sf_training.recording.session.recording_session import State

_TYPES = {Service.START: StartEpisode, Service.END: EndEpisode, Service.LABEL: LabelEpisode}


class RecorderClient:
    """A recorder as seen from another node.

    Args:
        node: that is spun.
        recorder: name of the recorder's node.
        on_status: called with every ``sf_msgs/RecorderStatus``.
    """

    def __init__(
        self,
        node: Node,
        recorder: str = "recorder",
        on_status: Callable[[RecorderStatus], None] = lambda status: None,
    ) -> None:
        self._recorder = recorder.rstrip("/")
        self.status: RecorderStatus | None = None
        self._on_status = on_status
        node.create_subscription(RecorderStatus, f"{self._recorder}/status", self._heard, LATCHED)
        self._clients = {
            service: node.create_client(kind, f"{self._recorder}/{service}")
            for service, kind in _TYPES.items()
        }
        self._waiting = False

    def press(
        self,
        press: Press,
        say: Callable[[bool, str], None],
        *,
        countdown_s: float,
        instruction: str = "",
    ) -> None:
        """Do what a press stands for; ``say`` is called with whether it was done and a sentence,
        perhaps later.
        """
        if self.status is None:
            say(
                False, f"no recorder answers at {self._recorder}; start one, or wait until it is up"
            )
            return
        if self._waiting:
            say(False, "the recorder has not answered the last press yet")
            return
        what = order(
            press, State(self.status.state), countdown_s=countdown_s, instruction=instruction
        )
        if isinstance(what, Refusal):
            say(False, what.sentence)
        else:
            self._call(what, say)

    def _call(self, what: Order, say: Callable[[bool, str], None]) -> None:
        client = self._clients[what.service]
        if not client.service_is_ready():
            say(
                False,
                f"{self._recorder}/{what.service} does not answer; is the recorder still running?",
            )
            return
        self._waiting = True

        def answered(future) -> None:
            self._waiting = False
            say(future.result().success, future.result().message)

        client.call_async(_TYPES[what.service].Request(**what.fields)).add_done_callback(answered)

    def _heard(self, status: RecorderStatus) -> None:
        self.status = status
        if self._waiting and status.state == State.INACTIVE:
            self._waiting = False  # it went away without an answer
        self._on_status(status)
