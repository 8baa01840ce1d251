"""``ros2 run sf_training recorder``: records the topics of a contract as episodes, started and stopped by service.

Messages pass from the subscription to the file as the bytes that arrived. The callbacks only note the time and queue.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections import Counter
from pathlib import Path

from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sf_policy_node.contract import Contract
from sf_policy_node.nodes.lifecycle import ManagedNode, run
from sf_policy_node.observation import validate_instruction
from sf_training.recording import messages
from sf_training.recording.episode_writer import EpisodeWriteError, EpisodeWriter, Outcome
from sf_training.recording.queued_writer import QueuedWriter
from sf_training.recording.topics import Delivery, RecordedTopic, absolute, episode_topics, offered_qos

_QOS = {
    Delivery.SENSOR: QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT),
    Delivery.RELIABLE: QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE),
    Delivery.LATCHED: QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL),
}
_CHECK_PERIOD = 0.5  # s


class Recorder(ManagedNode):
    """Active: listens. Between ``~/start`` and ``~/stop`` it records; ``~/discard`` ends an episode that is not to be used."""

    def __init__(self, **options) -> None:
        super().__init__("recorder", **options)
        self.parameter("directory", "out/episodes", "where episodes are written")
        self.parameter("operator", "", "who moves the arm; goes into every episode")
        self.parameter("instruction", "", "what is asked for, as long as nobody publishes an instruction")
        self._contract: Contract | None = None
        self._episode: QueuedWriter | None = None
        self._instruction = ""
        self._lost: Counter[str] = Counter()
        self._sequences: dict[tuple[str, bytes], int] = {}
        self._subscriptions_made: list = []
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(Trigger, "~/stop", functools.partial(self._on_end, "success"))
        self.create_service(Trigger, "~/discard", functools.partial(self._on_end, "discarded"))
        self.create_timer(_CHECK_PERIOD, self._check, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def set_up(self, contract: Contract) -> None:
        """Take the contract; nothing is subscribed yet."""
        self._contract = contract
        self._instruction = self.value("instruction").strip()

    def start(self) -> None:
        """Subscribe, so that an episode finds all publishers known when it starts."""
        for topic in episode_topics(self._contract):
            message_type = _message_class(topic.type_name)
            callback = _with_info(functools.partial(self._on_message, topic.name))
            self._subscriptions_made.append(self.create_subscription(message_type, topic.name, callback, _QOS[topic.delivery], raw=True))

    def stop(self) -> None:
        """Unsubscribe. An episode in progress is kept, but marked as discarded."""
        if self._episode:
            self._end("discarded", "the recorder was stopped")
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made.clear()

    def _on_message(self, topic: str, data: bytes, info: dict) -> None:
        received = self.get_clock().now().nanoseconds
        if self._contract and topic == absolute(self._contract.topics.instruction):
            self._instruction = deserialize_message(data, String).data.strip()
        if self._episode:
            self._count_lost(topic, info)
            self._episode.put(topic, data, received)

    def _count_lost(self, topic: str, info: dict) -> None:
        """Gaps in a publisher's sequence are messages that never arrived."""
        sequence, publisher = info.get("publication_sequence_number"), info.get("publisher_gid")
        if sequence is None or not publisher:
            return
        key = (topic, bytes(publisher["data"]))
        gap = sequence - self._sequences.get(key, sequence - 1) - 1
        self._sequences[key] = sequence
        if gap > 0:
            self._lost[topic] += gap

    def _on_start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._start()
        self.get_logger().info(response.message) if response.success else self.get_logger().error(response.message)
        return response

    def _start(self) -> tuple[bool, str]:
        if not self.running:
            return False, "recorder is not active; configure and activate it first"
        if self._episode:
            return False, "an episode is being recorded; stop or discard it first"
        if not self._instruction:
            return False, f"there is no instruction; publish one on {self._contract.topics.instruction} or set the parameter instruction"
        directory = Path(self.value("directory"))
        try:
            validate_instruction(self._instruction)
            writer = EpisodeWriter(directory, self._contract, instruction=self._instruction, operator=self.value("operator"))
            for topic in episode_topics(self._contract):
                writer.add_topic(topic.name, topic.type_name, offered_qos(topic.delivery))
        except (EpisodeWriteError, ValueError) as error:
            return False, str(error)
        self._lost.clear()
        self._sequences.clear()
        episode = QueuedWriter(writer)
        # The latched instruction came long ago: without this the bag would not hold it.
        episode.put(
            absolute(self._contract.topics.instruction), bytes(messages.string(self._instruction)), self.get_clock().now().nanoseconds
        )
        self._episode = episode
        silent = [topic.name for topic in self._required() if not self.count_publishers(topic.name)]
        warning = f"; nobody publishes {', '.join(silent)}" if silent else ""
        return True, f"recording {directory / writer.name}: {self._instruction}{warning}"

    def _on_end(self, outcome: Outcome, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._episode:
            response.success, response.message = False, "no episode is being recorded; start one first"
            return response
        response.success, response.message = self._end(outcome)
        return response

    def _end(self, outcome: Outcome, note: str = "") -> tuple[bool, str]:
        """Finish the episode; whether it has the outcome, and a sentence about it."""
        episode, self._episode = self._episode, None
        missing = [topic.name for topic in self._required() if not episode.received[topic.name]]
        usable = outcome != "success" or not missing
        if not usable:
            outcome, note = "discarded", f"no message on {', '.join(missing)}"
        try:
            episode.drops.update(self._lost)
            path = episode.finish(outcome, note)
        except EpisodeWriteError as error:
            self.get_logger().error(str(error))
            return False, str(error)
        drops = ", ".join(f"{topic} {count}" for topic, count in episode.drops.items())
        sentence = f"{path}: {outcome}{f' ({note})' if note else ''}, {sum(episode.received.values())} messages, dropped: {drops or 'none'}"
        self.get_logger().info(sentence)
        return usable, sentence

    def _check(self) -> None:
        """Do not let the operator go on when the disk has refused already."""
        if self._episode and self._episode.error:
            self._end("discarded")

    def _required(self) -> list[RecordedTopic]:
        return [topic for topic in episode_topics(self._contract) if topic.required]


def _with_info(callback):
    """rclpy hands over the message info to callbacks of exactly two parameters, which a partial is not."""

    def on_message(data: bytes, info: dict) -> None:
        callback(data, info)

    return on_message


def _message_class(type_name: str) -> type:
    package, _, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def main() -> None:
    """Run the node until it is interrupted."""
    sys.exit(run(Recorder))


if __name__ == "__main__":
    main()
