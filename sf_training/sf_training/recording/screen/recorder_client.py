"""Subscribe to the status of a recorder and call its services without blocking. Keyboard node,
gamepad node and tests use it.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future

from sf_msgs.msg import RecorderStatus
from sf_msgs.srv import EndEpisode, LabelEpisode, StartEpisode
from sf_policy_node.nodes.lifecycle import LATCHED
from sf_training.recording.screen.controls import (
    Press,
    Refusal,
    Service,
    ServiceCall,
    service_call,
)
from sf_training.recording.session.recording_session import State

_TYPES = {Service.START: StartEpisode, Service.END: EndEpisode, Service.LABEL: LabelEpisode}


class RecorderClient:
    """Client of a recorder in another node.

    Args:
        node: which subscribes and calls; the caller spins it.
        recorder: name of the recorder's node.
        on_status: called with every ``sf_msgs/RecorderStatus``.

    Attributes:
        status: newest ``sf_msgs/RecorderStatus``; None before the first one.
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
        node.create_subscription(
            RecorderStatus, f"{self._recorder}/status", self._receive_status, LATCHED
        )
        self._clients: dict[str, Client] = {
            service: node.create_client(service_type, f"{self._recorder}/{service}")
            for service, service_type in _TYPES.items()
        }
        self._waiting = False

    def press(
        self,
        press: Press,
        report: Callable[[bool, str], None],
        *,
        countdown_s: float,
        instruction: str = "",
    ) -> None:
        """Call the service for a press.

        Args:
            report: called once, now or when the recorder answers, with whether it succeeded and a
                sentence for the operator.
            countdown_s, instruction: of an episode that the press starts.
        """
        if self.status is None:
            report(
                False, f"no recorder answers at {self._recorder}; start one, or wait until it is up"
            )
            return
        if self._waiting:
            report(False, "the recorder has not answered the last press yet; wait a moment")
            return
        call = service_call(
            press, State(self.status.state), countdown_s=countdown_s, instruction=instruction
        )
        if isinstance(call, Refusal):
            report(False, call.sentence)
        else:
            self._call(call, report)

    def _call(self, call: ServiceCall, report: Callable[[bool, str], None]) -> None:
        client = self._clients[call.service]
        if not client.service_is_ready():
            report(
                False,
                f"{self._recorder}/{call.service} does not answer; check that the recorder is still"
                " running",
            )
            return
        self._waiting = True

        def on_response(future: Future) -> None:
            self._waiting = False
            response = future.result()
            assert response is not None  # the future is done
            report(response.success, response.message)

        request = _TYPES[call.service].Request(**call.fields)
        client.call_async(request).add_done_callback(on_response)

    def _receive_status(self, status: RecorderStatus) -> None:
        self.status = status
        if self._waiting and status.state == State.INACTIVE:
            self._waiting = False  # it was deactivated and will not answer
        self._on_status(status)
