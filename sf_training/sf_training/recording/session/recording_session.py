"""What the recorder does between two episodes and within one: start, countdown, recording, end. No
rclpy here.

Times named ``now`` are seconds on the node's clock, which may be simulated; ``steady`` are seconds
on one that is never set.
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

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
)
from sf_training.recording.writer.qos_profiles import offered_qos
from sf_training.recording.writer.queued_writer import QueuedWriter

LONGEST_COUNTDOWN_S = 60.0
DISK_WARN_S = 60.0
_RESERVE_BYTES = (
    MIN_FREE_BYTES // 2
)  # below this an episode is ended while it still can be completed
_RATE_WINDOW_S = 5.0


class SessionError(RuntimeError):
    """What was asked for cannot be done now; one sentence."""


class State(IntEnum):
    """In the order of ``sf_msgs/RecorderStatus``."""

    INACTIVE = 0
    IDLE = 1
    COUNTDOWN = 2
    RECORDING = 3
    FINISHING = 4


@dataclass(frozen=True)
class Finished:
    """An episode that was ended. ``done``: it has the outcome that was asked for; ``path`` is None
    when nothing was kept.
    """

    done: bool
    path: Path | None
    outcome: str
    verdict: Verdict
    reasons: tuple[str, ...]
    sentence: str


class RecordingSession:
    """Episodes of one activation of the recorder.

    Args:
        directory: where episodes are written.
        operator: goes into every episode.
        settable_clock: ``now`` is the system's clock, which may be set while an episode is
            recorded.
        context: topics beside those of the contract; they are kept, and nothing about them is
            judged.
        qos: gives the QoS profiles of a topic's publishers as rosbag2 writes them, empty while
            there is none.
    """

    def __init__(
        self,
        contract: Contract,
        directory: Path,
        operator: str,
        *,
        settable_clock: bool,
        context: Sequence[RecordedTopic] = (),
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
        self._watched = {topic.name for topic in watched}
        self._instruction_topic = absolute(contract.topics.instruction)
        # The newest message of a latched topic, by publisher where each one's counts.
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
        """Of the present episode, else of the last one."""
        return self._writer.path if self._writer else self.last.path if self.last else None

    @property
    def queue(self) -> QueuedWriter | None:
        """Of the present episode."""
        return self._queue

    def countdown(self, steady: float) -> float:
        """Seconds until recording begins."""
        return max(0.0, self._start_steady - steady) if self.state == State.COUNTDOWN else 0.0

    def duration(self, now: float) -> float:
        """Of the episode so far [s]."""
        return max(0.0, now - self._begin) if self.state == State.RECORDING else 0.0

    def start(self, instruction: str, countdown_s: float, now: float, steady: float) -> Path:
        """Open an episode; it begins when the countdown is over. Returns its directory.

        Raises:
            SessionError: one is being recorded already, the instruction or the countdown cannot be
                used, or the disk refuses.
        """
        if self.state != State.IDLE:
            raise SessionError(f"an episode is {_BUSY[self.state]}; stop or discard it first")
        if not 0.0 <= countdown_s <= LONGEST_COUNTDOWN_S:
            raise SessionError(
                f"countdown_s: {countdown_s:g} is not between 0 and {LONGEST_COUNTDOWN_S:g}"
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
                writer.add_topic(
                    topic.name, topic.type_name, self._qos(topic) or offered_qos(topic.delivery)
                )
        except (EpisodeWriteError, ValueError) as error:
            raise SessionError(str(error)) from None
        self._writer, self.instruction = writer, instruction
        self.state, self._start_steady = State.COUNTDOWN, steady + countdown_s
        self.tick(now, steady)
        return writer.path

    def tick(self, now: float, steady: float) -> Callable[[], Finished] | None:
        """To be called several times per second. Returns what :meth:`end` does when the episode has
        to end by itself.
        """
        if self.state == State.COUNTDOWN and steady >= self._start_steady:
            self._record(now, steady)
        self.health.tick(now)
        self.disk_free = _free_bytes(self._directory)
        if self.state != State.RECORDING:
            return None
        if self._settable:
            self.health.clock_was_set(now - steady - self._clock_offset)
        self._remember_size(steady)
        if self._queue.error:
            return self.end("discarded", "", now)
        if self.disk_free < _RESERVE_BYTES:
            return self.end(
                "discarded",
                "the disk is nearly full: the episode was ended while it could be completed",
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
        """Take a message that arrived."""
        if topic in self._watched:
            self.health.add(topic, data, received_ns * 1e-9, publisher)
        missing = self._missing(topic, sequence, publisher)
        if topic in self._latched:
            self._latched[topic][publisher if topic in self._static else b""] = data
        if self.state != State.RECORDING:
            return
        if missing:
            self._lost[topic] += missing
        missing += not self._queue.put(topic, data, received_ns, sent_ns)
        if missing and topic in self._watched:
            self.health.lost(topic, missing)

    def end(self, outcome: str, note: str, now: float) -> Callable[[], Finished]:
        """Stop recording. What is returned waits for the disk: call it in another thread, and then
        :meth:`settle` with its result.

        Raises:
            SessionError: no episode is being recorded, or there is no such outcome.
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
        counted_down = self.state == State.COUNTDOWN
        self.state = State.FINISHING
        if counted_down:
            return lambda: _cancel(writer)
        for topic in self._topics:  # a publisher may have come since the start
            writer.set_qos(topic.name, self._qos(topic))
        report = self.health.report(now)
        self.health.end()
        missing = [
            topic.name
            for topic in self._topics
            if topic.required and not queue.received[topic.name]
        ]
        lost = Counter(self._lost)

        def complete() -> Finished:
            return _complete(writer, queue, outcome, note, report, missing, lost)

        return complete

    def settle(self, finished: Finished) -> Finished:
        """The episode is on the disk, or is not: ready for the next one."""
        self.state, self._writer = State.IDLE, None
        if finished.path:
            self.outcomes[finished.outcome] += 1
            self.last = finished
        return finished

    def relabelled(self, before: str, after: str) -> None:
        """Count an episode of this session under another outcome."""
        if self.outcomes[before]:
            self.outcomes[before] -= 1
            self.outcomes[after] += 1

    def disk_left_s(self) -> float:
        """At the present rate [s]; -1 while nothing is written."""
        if len(self._disk) < 2 or self._disk[-1][1] <= self._disk[0][1]:
            return -1.0
        (begin, first), (end, last) = self._disk[0], self._disk[-1]
        return max(0.0, self.disk_free - _RESERVE_BYTES) * (end - begin) / (last - first)

    def report(self, now: float) -> HealthReport:
        """Health of the streams, and of the disk."""
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
        self._queue = QueuedWriter(self._writer)
        # What is latched came long ago: without this the bag would not hold it.
        latched = self._latched | {
            self._instruction_topic: {b"": bytes(messages.string(self.instruction))}
        }
        for topic, newest in latched.items():
            for data in newest.values():
                self._queue.put(topic, data, round(now * 1e9))

    def _remember_size(self, steady: float) -> None:
        self._disk.append((steady, self._queue.written))
        while self._disk[0][0] < steady - _RATE_WINDOW_S:
            self._disk.popleft()

    def _missing(self, topic: str, sequence: int | None, publisher: bytes) -> int:
        """Gaps in a publisher's sequence are messages that never arrived."""
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
    for path in (directory, *directory.absolute().parents):  # it may not be made yet
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
        outcome, note = "discarded", f"no message on {', '.join(missing)}"
    queue.drops.update(lost)
    verdict = report.verdict
    try:
        path = queue.finish(outcome, note, verdict.name, report.reasons)
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
