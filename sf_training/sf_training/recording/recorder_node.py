"""``ros2 run sf_training recorder``: record the topics of a contract as episodes, controlled by
services.

Messages are written as the bytes that were received. Callbacks only note the time and queue them.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sf_msgs.msg import RecorderStatus
from sf_msgs.srv import EndEpisode, LabelEpisode, StartEpisode
from sf_policy_node.contract import Contract
from sf_policy_node.nodes.diagnostics import Diagnostics
from sf_policy_node.nodes.lifecycle import LATCHED, ManagedNode, run
from sf_training.recording.edit.episode_folder import find_episode, outcome_of
from sf_training.recording.labels import LabelError, add_label, undo_label
from sf_training.recording.recover.recovery import find_interrupted, recovery_command
from sf_training.recording.session.finish_thread import FinishThread
from sf_training.recording.session.recording_session import (
    Finished,
    ImageCodec,
    RecordingSession,
    SessionError,
    State,
)
from sf_training.recording.session.status_message import recorder_diagnostics, status_message
from sf_training.recording.session.stream_monitor import Verdict
from sf_training.recording.session.subscriptions import QOS, is_installed, message_class, with_info
from sf_training.recording.topics import (
    Delivery,
    RecordedTopic,
    absolute,
    context_topics,
    episode_topics,
)
from sf_training.recording.writer.qos_profiles import publishers_qos

_TICK_S = 0.1
_STATUS_TICKS = 5


class Recorder(ManagedNode):
    """Lifecycle node: subscribes while active, records between ``~/start_episode`` and
    ``~/end_episode``.
    """

    _contract: Contract  # from set_up on

    def __init__(self, **options: Any) -> None:
        super().__init__("recorder", **options)
        self.parameter("directory", "out/episodes", "where episodes are written")
        self.parameter("operator", "", "who teleoperates the arm; stored in every episode")
        self.parameter("instruction", "", "instruction of the episodes until one is published")
        self.parameter(
            "image_codec",
            "raw",
            "raw writes images as they were received; h264 encodes raw colour images, at a tenth of"
            " their size and with a small error",
            choices=get_args(ImageCodec),
        )
        self.session: RecordingSession | None = None
        self.instruction = ""
        self._last_instruction: tuple = ()
        self._finishing: FinishThread | None = None
        self._published_state: tuple = ()
        self._ticks = 0
        self._status_publisher: Publisher | None = None
        self._has_one_publisher: dict[str, bool] = {}
        self._live_names: dict[str, str] = {}
        self._subscriptions_made: list = []
        self.create_service(Trigger, "~/start", self._on_start_trigger)
        self.create_service(StartEpisode, "~/start_episode", self._on_start)
        # These services wait for the disk; a group of their own keeps other callbacks running.
        disk = ReentrantCallbackGroup()
        self.create_service(Trigger, "~/stop", self._on_stop_trigger, callback_group=disk)
        self.create_service(Trigger, "~/discard", self._on_discard_trigger, callback_group=disk)
        self.create_service(EndEpisode, "~/end_episode", self._on_end, callback_group=disk)
        self.create_service(LabelEpisode, "~/label_episode", self._on_label)
        self.create_timer(_TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def set_up(self, contract: Contract) -> None:
        """Configure: store the contract and create the publishers; subscribe to nothing yet."""
        self._contract = contract
        self.instruction = self.value("instruction").strip()
        self._simulated = self.value("use_sim_time")
        self._status_publisher = self.publisher(RecorderStatus, "~/status", LATCHED)
        self.resources.callback(setattr, self, "_status_publisher", None)
        self._diagnostics = Diagnostics(
            self, lambda: recorder_diagnostics(self._status(), contract)
        )

    def start(self) -> None:
        """Activate: subscribe now, so that discovery is complete when an episode starts."""
        directory = Path(self.value("directory"))
        interrupted = find_interrupted(directory)
        if interrupted:
            names = ", ".join(path.name for path in interrupted)
            self.get_logger().warning(
                f"{directory}: {names}: unfinished recordings; {recovery_command(directory)}"
            )
        context = [
            topic for topic in context_topics(self._contract) if is_installed(topic.type_name)
        ]
        self.session = RecordingSession(
            self._contract,
            directory,
            self.value("operator"),
            settable_clock=not self._simulated,
            context=context,
            image_codec=self.value("image_codec"),
            qos=self._publishers_qos,
        )
        topics = [*episode_topics(self._contract), *context]
        self._live_names = {topic.name: topic.live_name or topic.name for topic in topics}
        for topic in topics:
            message_type = message_class(topic.type_name)
            callback = with_info(functools.partial(self._on_message, topic.name))
            self._subscribe(
                message_type, self._live_names[topic.name], callback, QOS[topic.delivery]
            )
        # A transient-local subscription does not match volatile publishers such as a plain `ros2
        # topic pub`, so a second one receives these.
        instruction = absolute(self._contract.topics.instruction)
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
        callback = with_info(functools.partial(self._on_message, instruction))
        self._subscribe(
            String,
            self._live_names[instruction],
            callback,
            QOS[Delivery.RELIABLE],
            event_callbacks=quiet,
        )
        self._publish()

    def stop(self) -> None:
        """Deactivate: unsubscribe; finish an episode in progress with the outcome discarded."""
        if self._finishing:
            self._finishing.thread.join()
            self._settle()
        elif (session := self.session) and session.state != State.IDLE:
            complete = session.end("discarded", "the recorder was stopped", self.now())
            self._report(session.settle(complete()))
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made.clear()
        self.session = None
        self._publish()

    def _publishers_qos(self, topic: RecordedTopic) -> str:
        """Return the QoS profiles of the publishers of a topic in the format of rosbag2."""
        publishers = self.get_publishers_info_by_topic(topic.live_name or topic.name)
        return publishers_qos([each.qos_profile for each in publishers], topic.delivery)

    def _subscribe(
        self, message_type: type, topic: str, callback: Callable, qos: QoSProfile, **options: Any
    ) -> None:
        self._subscriptions_made.append(
            self.create_subscription(message_type, topic, callback, qos, raw=True, **options)
        )

    def _on_message(self, topic: str, data: bytes, info: dict) -> None:
        session = self.session
        if session is None:  # deactivated meanwhile
            return
        sequence, publisher = (
            info.get("publication_sequence_number"),
            bytes((info.get("publisher_gid") or {}).get("data", b"")),
        )
        if topic == absolute(self._contract.topics.instruction):
            message = (publisher, sequence, info.get("source_timestamp"), data)
            if message == self._last_instruction and sequence is not None:
                return  # the other of the two subscriptions received it already
            self._last_instruction = message
            self.instruction = deserialize_message(data, String).data.strip()
            session.health.add_instruction(self.instruction)
        # The middleware takes the time of receipt before any queue, but on the system clock only.
        received = 0 if self._simulated else info.get("received_timestamp") or 0
        sent = None if self._simulated else info.get("source_timestamp") or None
        publisher = publisher or self._only_publisher(topic)
        session.add(
            topic, data, received or self.get_clock().now().nanoseconds, sent, sequence, publisher
        )

    def _only_publisher(self, topic: str) -> bytes:
        """Return a fixed id if a topic has one publisher, else an empty one.

        Before Kilted, rclpy does not report the publisher of a message, so the sequence numbers of
        several publishers cannot be told apart.
        """
        if topic not in self._has_one_publisher:
            count = self.count_publishers(self._live_names.get(topic, topic))
            self._has_one_publisher[topic] = count == 1
            if count != 1:
                self.get_logger().warning(
                    f"lost messages on {topic} are not counted: it has {count} publishers; publish"
                    " it from one node",
                    once=True,
                )
        return b"the only one" if self._has_one_publisher[topic] else b""

    def _on_start_trigger(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message, _ = self._start(self.instruction, 0.0)
        return response

    def _on_start(
        self, request: StartEpisode.Request, response: StartEpisode.Response
    ) -> StartEpisode.Response:
        response.success, response.message, response.episode = self._start(
            request.instruction.strip() or self.instruction, request.countdown_s
        )
        return response

    def _start(self, instruction: str, countdown_s: float) -> tuple[bool, str, str]:
        try:
            session = self._active()
            if not instruction and session.state == State.IDLE:
                topic = self.resolve_topic_name(self._contract.topics.instruction)
                raise SessionError(
                    f"there is no instruction; publish one on {topic} or set the parameter"
                    " instruction"
                )
            if self._simulated and self.now() <= 0.0:
                raise SessionError(
                    "no time is published on /clock; start the simulator, or set use_sim_time to"
                    " false"
                )
            path = session.start(instruction, countdown_s, self.now(), time.monotonic())
        except SessionError as error:
            self.get_logger().error(str(error))
            return False, str(error), ""
        silent = [
            self.resolve_topic_name(topic.live_name)
            for topic in episode_topics(self._contract)
            if topic.required and not self.count_publishers(topic.live_name)
        ]
        warning = f"; no node publishes {', '.join(silent)}: start the drivers" if silent else ""
        begins = f"in {countdown_s:g} s " if countdown_s else ""
        sentence = f"{begins}recording {path}: {instruction}{warning}"
        self.get_logger().info(sentence)
        self._publish()
        return True, sentence, str(path)

    async def _on_stop_trigger(
        self, _: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        finished = await self._end("success", "")
        response.success, response.message = finished.done, finished.sentence
        return response

    async def _on_discard_trigger(
        self, _: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        finished = await self._end("discarded", "")
        response.success, response.message = finished.done, finished.sentence
        return response

    async def _on_end(
        self, request: EndEpisode.Request, response: EndEpisode.Response
    ) -> EndEpisode.Response:
        finished = await self._end(request.outcome, request.note)
        response.success, response.message, response.episode = (
            finished.done,
            finished.sentence,
            str(finished.path or ""),
        )
        response.verdict, response.reasons = int(finished.verdict), list(finished.reasons)
        return response

    async def _end(self, outcome: str, note: str) -> Finished:
        """End the episode, and wait for the disk without blocking other callbacks."""
        try:
            complete = self._active().end(outcome, note, self.now())
        except SessionError as error:
            return Finished(False, None, "", Verdict.FAIL, (), str(error))
        finished = await self._finish(complete).done
        assert finished is not None  # set by _settle
        return finished

    def _finish(self, complete: Callable[[], Finished]) -> FinishThread:
        self._finishing = FinishThread(complete)
        self._publish()
        return self._finishing

    def _on_label(
        self, request: LabelEpisode.Request, response: LabelEpisode.Response
    ) -> LabelEpisode.Response:
        last = self.session.last.path if self.session and self.session.last else None
        try:
            path = find_episode(Path(self.value("directory")), request.episode, last)
            before = outcome_of(path)
            if request.undo:
                undo_label(path)
            else:
                fields = {
                    "outcome": request.outcome,
                    "instruction": request.instruction.strip(),
                    "note": request.note,
                }
                add_label(path, **fields, operator=self.value("operator"))
            after = outcome_of(path)
        except LabelError as error:
            response.success, response.message = False, str(error)
            return response
        if path == last and self.session:
            self.session.relabelled(before, after)
        done = "newest label removed" if request.undo else "labelled"
        response.success, response.message, response.episode = (
            True,
            f"{path}: {done}, the outcome is {after or 'unknown'}",
            str(path),
        )
        self.get_logger().info(response.message)
        self._publish()
        return response

    def _tick(self) -> None:
        if self._finishing and not self._finishing.thread.is_alive():
            self._settle()
        if self.session:
            complete = self.session.tick(self.now(), time.monotonic())
            if complete:
                self._finish(complete)
        self._ticks += 1
        if self._ticks % _STATUS_TICKS == 0:
            self._has_one_publisher.clear()
        state = (self.session.state, self.session.path) if self.session else ()
        if state != self._published_state or self._ticks % _STATUS_TICKS == 0:
            self._publish()

    def _settle(self) -> None:
        finishing, self._finishing = self._finishing, None
        session = self.session
        assert session and finishing and finishing.finished  # its thread has ended
        self._report(session.settle(finishing.finished))
        self._publish()
        finishing.done.set_result(finishing.finished)

    def _report(self, finished: Finished) -> None:
        log = self.get_logger()
        # One line of code per severity: rclpy allows only one severity per call site.
        if finished.verdict is Verdict.PASS:
            log.info(finished.sentence)
        elif finished.verdict is Verdict.WARN:
            log.warning(finished.sentence)
        else:
            log.error(finished.sentence)

    def _active(self) -> RecordingSession:
        if not self.session:
            raise SessionError("recorder is not active; configure and activate it first")
        return self.session

    def _status(self) -> RecorderStatus:
        return status_message(self.session, self.instruction, self.now(), time.monotonic())

    def _publish(self) -> None:
        if self._status_publisher:
            self._published_state = (self.session.state, self.session.path) if self.session else ()
            self._status_publisher.publish(self._status())


def main() -> None:
    """Run the node until it is interrupted."""
    sys.exit(run(Recorder))


if __name__ == "__main__":
    main()
