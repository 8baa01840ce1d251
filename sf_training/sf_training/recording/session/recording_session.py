"""Run the recorder's state machine: idle, countdown, recording, finishing. No rclpy here.

Times named ``now`` are seconds on the node's clock, which may be simulated; ``steady`` are seconds
on a monotonic clock.
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Literal, cast

from sf_policy_node.contract import Contract
from sf_policy_node.perception.observation import validate_instruction
from sf_training.recording import messages
from sf_training.recording.session.health import EpisodeHealth, HealthReport
from sf_training.recording.session.stream_monitor import Verdict
from sf_training.recording.topics import Delivery, RecordedTopic, absolute, episode_topics
from sf_training.recording.writer.episode_writer import (
    MIN_FREE_BYTES,
    OUTCOMES,
    EpisodeWriteError,
    EpisodeWriter,
    Outcome,
)
from sf_training.recording.writer.qos_profiles import offered_qos
from sf_training.recording.writer.queued_writer import QueuedWriter

ImageCodec = Literal["raw", "h264"]
LONGEST_COUNTDOWN_S = 60.0
DISK_WARN_S = 60.0
# With less free space an episode is ended, while it can still be completed.
_RESERVE_BYTES = MIN_FREE_BYTES // 2
_RATE_WINDOW_S = 5.0


class SessionError(RuntimeError):
    """The request cannot be done in this state; the message is one sentence."""


class State(IntEnum):
    """State of the recorder; values as in ``sf_msgs/RecorderStatus``."""

    INACTIVE = 0
    IDLE = 1
    COUNTDOWN = 2
    RECORDING = 3
    FINISHING = 4


@dataclass(frozen=True)
class Finished:
    """Result of ending an episode.

    Attributes:
        done: the episode has the requested outcome.
        path: its directory; None if nothing was kept.
        sentence: for the operator.
    """

    done: bool
    path: Path | None
    outcome: str
    verdict: Verdict
    reasons: tuple[str, ...]
    sentence: str


class RecordingSession:
    """Record episodes from one activation of the recorder to its deactivation.

    Args:
        directory: parent directory of the episodes.
        operator: stored in every episode.
        settable_clock: ``now`` is the system clock, which may be set during an episode.
        context: topics that are recorded beside those of the contract, without a verdict.
        image_codec: "raw" writes images as they were received; "h264" encodes raw colour images.
        qos: returns the QoS profiles of the publishers of a topic in the format of rosbag2; empty
            without a publisher.

    Raises:
        ValueError: the images cannot be encoded.
    """

    def __init__(
        self,
        contract: Contract,
        directory: Path,
        operator: str,
        *,
        settable_clock: bool,
        context: Sequence[RecordedTopic] = (),
        image_codec: ImageCodec = "raw",
        qos: Callable[[RecordedTopic], str] = lambda topic: "",
    ) -> None:
        self._contract, self._directory, self._operator, self._settable = (
            contract,
            directory,
            operator,
            settable_clock,
        )
        watched = episode_topics(contract)
        self._topics, self._qos = [*watched, *context], qos
        self._converters: dict[str, Callable[[bytes], memoryview]] = {}
        if image_codec == "h264":
            # PyAV takes long to import, and need not be installed otherwise.
            from sf_training.recording.writer.video_encoder import video_encoders

            self._converters = video_encoders(contract)
        self._watched = {topic.name for topic in watched}
        self._instruction_topic = absolute(contract.topics.instruction)
        # Newest message of each latched topic; of static topics, of each publisher.
        self._latched: dict[str, dict[bytes, bytes]] = {
            topic.name: {}
            for topic in self._topics
            if topic.delivery in (Delivery.LATCHED, Delivery.STATIC)
        }
        self._static = {topic.name for topic in self._topics if topic.delivery == Delivery.STATIC}
        self.health = EpisodeHealth(contract, watched)
        self.state = State.IDLE
        self.instruction = ""
        self.outcomes: Counter[str] = Counter()
        self.last: Finished | None = None
        self._writer: EpisodeWriter | None = None
        self._queue: QueuedWriter | None = None
        self._sequences: dict[tuple[str, bytes], int] = {}
        self._lost: Counter[str] = Counter()
        self._start_steady = self._begin = self._clock_offset = 0.0
        self._disk: deque[tuple[float, int]] = deque()
        self.disk_free = 0

    @property
    def path(self) -> Path | None:
        """Directory of the current episode, else of the last one; None before the first."""
        return self._writer.path if self._writer else self.last.path if self.last else None

    @property
    def queue(self) -> QueuedWriter | None:
        """Queue of the current episode; None when none is recorded."""
        return self._queue

    def countdown(self, steady: float) -> float:
        """Return the seconds until recording begins; 0 outside of a countdown."""
        return max(0.0, self._start_steady - steady) if self.state == State.COUNTDOWN else 0.0

    def duration(self, now: float) -> float:
        """Return the duration of the current episode [s]; 0 when none is recorded."""
        return max(0.0, now - self._begin) if self.state == State.RECORDING else 0.0

    def start(self, instruction: str, countdown_s: float, now: float, steady: float) -> Path:
        """Open an episode, which begins after the countdown; return its directory.

        Raises:
            SessionError: an episode is already open, the instruction or the countdown is invalid,
                or the disk is full or cannot be written.
        """
        if self.state != State.IDLE:
            raise SessionError(f"an episode is {_BUSY[self.state]}; stop or discard it first")
        if not 0.0 <= countdown_s <= LONGEST_COUNTDOWN_S:
            raise SessionError(
                f"countdown_s: {countdown_s:g} is not between 0 and {LONGEST_COUNTDOWN_S:g};"
                " correct it"
            )
        try:
            instruction = validate_instruction(instruction)
            writer = EpisodeWriter(
                self._directory,
                self._contract,
                instruction=instruction,
                operator=self._operator,
                keep=True,
            )
            for topic in self._topics:
                qos = self._qos(topic) or offered_qos(topic.delivery)
                is_video = topic.name in self._converters
                type_name = messages.VIDEO_PACKET if is_video else topic.type_name
                writer.add_topic(topic.name, type_name, qos)
        except (EpisodeWriteError, ValueError) as error:
            raise SessionError(str(error)) from None
        self._writer, self.instruction = writer, instruction
        self.state, self._start_steady = State.COUNTDOWN, steady + countdown_s
        self.tick(now, steady)
        return writer.path

    def tick(self, now: float, steady: float) -> Callable[[], Finished] | None:
        """Advance the countdown, and check clock and disk. Call it several times per second.

        Returns:
            The result of :meth:`end` if the episode had to be ended, else None.
        """
        if self.state == State.COUNTDOWN and steady >= self._start_steady:
            self._record(now, steady)
        self.health.tick(now)
        self.disk_free = _free_bytes(self._directory)
        if self.state != State.RECORDING:
            return None
        if self._settable:
            self.health.note_clock_offset(now - steady - self._clock_offset)
        assert self._queue is not None  # while recording
        self._remember_size(steady, self._queue.written)
        if self._queue.error:
            return self.end("discarded", "", now)
        if self.disk_free < _RESERVE_BYTES:
            return self.end(
                "discarded",
                "the disk is nearly full: the episode was ended while it could still be completed",
                now,
            )
        return None

    def add(
        self,
        topic: str,
        data: bytes,
        received_ns: int,
        sent_ns: int | None,
        sequence: int | None,
        publisher: bytes,
    ) -> None:
        """Add a received message to the episode, and to the health of its topic.

        Args:
            received_ns, sent_ns: times of receipt and publication [ns]; the latter None if unknown.
            sequence: number of the message at its publisher; None if unknown.
            publisher: id of its publisher; empty if unknown.
        """
        if topic in self._watched:
            self.health.add(topic, data, received_ns * 1e-9, publisher)
        missing = self._missing(topic, sequence, publisher)
        if topic in self._latched:
            self._latched[topic][publisher if topic in self._static else b""] = data
        if self.state != State.RECORDING:
            return
        if missing:
            self._lost[topic] += missing
        assert self._queue is not None  # while recording
        missing += not self._queue.put(topic, data, received_ns, sent_ns)
        if missing and topic in self._watched:
            self.health.add_lost(topic, missing)

    def end(self, outcome: str, note: str, now: float) -> Callable[[], Finished]:
        """Stop recording.

        Returns:
            A function that completes the episode and blocks on the disk. Call it in another thread,
            then pass its result to :meth:`settle`.

        Raises:
            SessionError: no episode is open, or the outcome does not exist.
        """
        if outcome not in OUTCOMES:
            raise SessionError(f"outcome: must be one of {', '.join(OUTCOMES)}, got {outcome!r}")
        if self.state not in (State.COUNTDOWN, State.RECORDING):
            busy = (
                "is being completed; wait a moment"
                if self.state == State.FINISHING
                else "is being recorded; start one first"
            )
            raise SessionError(f"{'an' if self.state == State.FINISHING else 'no'} episode {busy}")
        writer, queue, self._queue = self._writer, self._queue, None
        assert writer is not None  # since the countdown
        self.state = State.FINISHING
        if queue is None:  # in the countdown
            return partial(_cancel, writer)
        for topic in self._topics:  # publishers may have started after the episode
            writer.set_qos(topic.name, self._qos(topic))
        report = self.health.report(now)
        self.health.end()
        missing = [
            topic.name
            for topic in self._topics
            if topic.required and not queue.received[topic.name]
        ]
        lost = Counter(self._lost)

        return partial(_complete, writer, queue, outcome, note, report, missing, lost)

    def settle(self, finished: Finished) -> Finished:
        """Return to IDLE after an episode was completed, and count its outcome."""
        self.state, self._writer = State.IDLE, None
        if finished.path:
            self.outcomes[finished.outcome] += 1
            self.last = finished
        return finished

    def relabelled(self, before: str, after: str) -> None:
        """Move an episode of this session to another outcome in the counts."""
        if self.outcomes[before]:
            self.outcomes[before] -= 1
            self.outcomes[after] += 1

    def disk_left_s(self) -> float:
        """Return the time until the disk is full at the current rate [s]; -1 when nothing is
        written.
        """
        if len(self._disk) < 2 or self._disk[-1][1] <= self._disk[0][1]:
            return -1.0
        (begin, first), (end, last) = self._disk[0], self._disk[-1]
        return max(0.0, self.disk_free - _RESERVE_BYTES) * (end - begin) / (last - first)

    def report(self, now: float) -> HealthReport:
        """Return the health of the streams, with a warning if the disk is nearly full."""
        report = self.health.report(now)
        left = self.disk_left_s()
        if self.state == State.RECORDING and 0.0 <= left < DISK_WARN_S:
            reason = f"the disk is full in {left:.0f} s; end the episode and free some space"
            report = replace(
                report, verdict=max(report.verdict, Verdict.WARN), reasons=(reason, *report.reasons)
            )
        return report

    def _record(self, now: float, steady: float) -> None:
        self.state, self._begin, self._clock_offset = State.RECORDING, now, now - steady
        self._lost.clear()
        self._disk.clear()
        self.health.begin(now, self.instruction)
        assert self._writer is not None  # since the countdown
        queue = self._queue = QueuedWriter(self._writer, converters=self._converters)
        # Latched messages were received before the episode, but belong into its bag.
        latched = self._latched | {
            self._instruction_topic: {b"": bytes(messages.string(self.instruction))}
        }
        for topic, newest in latched.items():
            for data in newest.values():
                queue.put(topic, data, round(now * 1e9))

    def _remember_size(self, steady: float, written: int) -> None:
        self._disk.append((steady, written))
        while self._disk[0][0] < steady - _RATE_WINDOW_S:
            self._disk.popleft()

    def _missing(self, topic: str, sequence: int | None, publisher: bytes) -> int:
        """Return how many messages are missing before this one in its publisher's sequence."""
        if sequence is None or not publisher:
            return 0
        before = self._sequences.get((topic, publisher), sequence - 1)
        self._sequences[topic, publisher] = sequence
        return max(0, sequence - before - 1)


_BUSY = {
    State.COUNTDOWN: "about to begin",
    State.RECORDING: "being recorded",
    State.FINISHING: "being completed",
}


def _free_bytes(directory: Path) -> int:
    for path in (directory, *directory.absolute().parents):  # the directory may not exist yet
        with suppress(OSError):
            return shutil.disk_usage(path).free
    return 0


def _cancel(writer: EpisodeWriter) -> Finished:
    writer.abort()
    return Finished(
        True,
        None,
        "discarded",
        Verdict.PASS,
        (),
        "the countdown was cancelled, nothing was recorded",
    )


def _complete(
    writer: EpisodeWriter,
    queue: QueuedWriter,
    outcome: str,
    note: str,
    report: HealthReport,
    missing: list[str],
    lost: Counter,
) -> Finished:
    usable = outcome != "success" or not missing
    if not usable:
        outcome, note = "discarded", f"no message on {', '.join(missing)}; start the drivers"
    queue.drops.update(lost)
    verdict = report.verdict
    try:
        path = queue.finish(cast(Outcome, outcome), note, verdict.name, report.reasons)
    except EpisodeWriteError as error:
        return Finished(False, None, "discarded", Verdict.FAIL, (str(error),), str(error))
    drops = ", ".join(f"{topic} {count}" for topic, count in queue.drops.items())
    more = f", and {len(report.reasons) - 1} more" if len(report.reasons) > 1 else ""
    why = f" ({report.reasons[0]}{more})" if report.reasons else ""
    sentence = (
        f"{path}: {outcome}{f' ({note})' if note else ''}, {verdict.name}{why}, "
        f"{sum(queue.received.values())} messages, dropped: {drops or 'none'}"
    )
    return Finished(usable, path, outcome, verdict, report.reasons, sentence)
