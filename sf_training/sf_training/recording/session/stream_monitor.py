"""Monitor one recorded topic: rate, gaps, age, order of its stamps. No rclpy here; times are
seconds on the node's clock.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from rosbags.interfaces import Nodetype

from sf_training.recording.messages import typestore

WINDOW_S = 2.0  # time over which the rate is measured
_STAMP = {True: struct.Struct("<iI"), False: struct.Struct(">iI")}  # by "is little-endian"
_STAMP_AT = 4  # bytes, after the CDR header


class Verdict(IntEnum):
    """Verdict on a stream or an episode; values as in ``sf_msgs/StreamHealth``."""

    PASS = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True)
class StreamReport:
    """Health of one topic; fields as in ``sf_msgs/StreamHealth``."""

    topic: str
    expected_hz: float
    measured_hz: float
    longest_gap_s: float
    age_s: float
    received: int
    lost: int
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class StreamLimits:
    """Limits beyond which a stream is WARN or FAIL. Shares are of the messages of the episode."""

    slow_warn: float = 0.95  # share of the expected rate
    slow_fail: float = 0.8
    lost_fail: float = 0.01
    stamps_fail: float = 0.01  # stamps that are missing, repeated or going backwards
    settle_s: float = 1.0  # the rate of a shorter episode is not judged


def is_stamped(type_name: str) -> bool:
    """Return whether messages of a type begin with a ``std_msgs/Header``."""
    _, fields = typestore().fielddefs[type_name]
    return bool(fields) and fields[0][1] == (Nodetype.NAME, "std_msgs/msg/Header")


def header_stamp(data: bytes | memoryview) -> float:
    """Return the stamp [s] of a serialised message that begins with a header; 0.0 if the stamp is
    zero or the message too short.
    """
    if len(data) < _STAMP_AT + 8:
        return 0.0
    seconds, nanoseconds = _STAMP[data[1] & 1 == 1].unpack_from(data, _STAMP_AT)
    return seconds + 1e-9 * nanoseconds


def joint_names(data: bytes) -> list[str]:
    """Return the joint names of a serialised ``sensor_msgs/JointState`` without deserialising it;
    empty if the message is damaged.
    """
    try:
        order = "<I" if data[1] & 1 else ">I"
        # The stamp is followed by frame_id (length at byte 12), then by the names.
        end = 16 + struct.unpack_from(order, data, 12)[0]
        end += -end % 4
        count, end = struct.unpack_from(order, data, end)[0], end + 4
        names = []
        for _ in range(count):
            end += -end % 4
            begin, end = end + 4, end + 4 + struct.unpack_from(order, data, end)[0]
            if end > len(data):
                return []
            names.append(bytes(data[begin : end - 1]).decode())
    except (struct.error, IndexError, UnicodeDecodeError):
        return []
    return names


class StreamMonitor:
    """Count the messages of one topic and judge them.

    Args:
        expected_hz: expected rate; 0 means that no rate is expected.
        gap_budget_s: longest allowed time between two stamps; None means any.
        required: training needs the topic, so its problems can be FAIL.
        stamped: messages begin with a header.

    Attributes:
        received: number of messages since :meth:`begin`.
        lost: number of lost messages since then; the caller counts them here.
    """

    def __init__(
        self,
        topic: str,
        *,
        expected_hz: float = 0.0,
        gap_budget_s: float | None = None,
        required: bool = False,
        stamped: bool = True,
    ) -> None:
        self.topic, self.required = topic, required
        self._expected, self._budget, self._stamped = expected_hz, gap_budget_s, stamped
        # Newest stamp of each publisher: two may share a topic, each with its own order.
        self._newest: dict[bytes, float] = {}
        self._last_stamp = self._last_received = 0.0
        self._window: deque[float] = deque()
        self._age = -1.0
        self._begin = 0.0
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Reset the counts for an episode that begins at ``now``."""
        self._begin = now
        self.received = self.lost = 0
        self._gap = 0.0
        self._unstamped = self._repeated = self._backwards = 0

    def add(self, received: float, stamp: float, publisher: bytes = b"") -> None:
        """Count a message.

        Args:
            received: time of receipt.
            stamp: of the header; 0 if there is none.
            publisher: id of its publisher.
        """
        self.received += 1
        window = self._window
        if window and received < window[-1]:  # the clock was set back
            window.clear()
        window.append(received)
        while window[0] < received - WINDOW_S:
            window.popleft()
        time = stamp if stamp > 0.0 else received
        if self._stamped:
            if stamp <= 0.0:
                self._unstamped += 1
                self._age = -1.0
            else:
                newest = self._newest.get(publisher, 0.0)
                self._repeated += stamp == newest
                self._backwards += stamp < newest
                self._newest[publisher] = stamp
                self._age = received - stamp
        if self._last_stamp:
            self._gap = max(self._gap, time - max(self._last_stamp, self._begin))
        self._last_stamp, self._last_received = time, received

    def report(self, now: float, limits: StreamLimits, recording: bool) -> StreamReport:
        """Return the health of the topic.

        The rate is judged over the episode while recording, else over the last :data:`WINDOW_S`.
        ``longest_gap_s`` and the counts are those since :meth:`begin`; they are judged only while
        recording.
        """
        duration = now - self._begin
        rate = self._recent_hz(now)
        gap = (
            max(self._gap, now - max(self._last_received, self._begin)) if recording else self._gap
        )
        over = (
            (self.received / duration if recording else rate)
            if duration > limits.settle_s
            else self._expected
        )
        verdict, reason = self._judge(over, gap, limits, recording)
        return StreamReport(
            self.topic,
            self._expected,
            rate,
            gap,
            self._age,
            self.received,
            self.lost,
            verdict,
            reason,
        )

    def _recent_hz(self, now: float) -> float:
        window = self._window
        if len(window) < 2 or now - window[-1] > WINDOW_S:
            return 0.0
        # After the last message the rate falls. 1.5 periods of silence are within the jitter.
        return (len(window) - 1) / max(
            window[-1] - window[0],
            now - window[0] - 1.5 / self._expected if self._expected else 0.0,
            1e-6,
        )

    def _judge(
        self, rate: float, gap: float, limits: StreamLimits, recording: bool
    ) -> tuple[Verdict, str]:
        found: list[tuple[Verdict, str]] = []

        def report(fails: bool, sentence: str) -> None:
            found.append((Verdict.FAIL if fails and self.required else Verdict.WARN, sentence))

        expected = self._expected
        if self.received == 0 and (self.required or expected):
            report(True, f"{self.topic}: no message; start its publisher")
            return found[0]
        topic, received = self.topic, self.received
        if expected and rate < limits.slow_warn * expected:
            cure = "check its driver, cable or exposure time"
            report(
                rate < limits.slow_fail * expected,
                f"{topic}: {rate:.1f} Hz instead of {expected:g} Hz; {cure}",
            )
        if recording:
            if self.lost:
                share = self.lost / (received + self.lost)
                text = (
                    f"{self.lost} messages were lost ({100 * share:.1f} %); reduce the load of this"
                    " host or network"
                )
                report(share > limits.lost_fail, f"{topic}: {text}")
            faults = {
                "without a stamp": self._unstamped,
                "with a repeated stamp": self._repeated,
                "with a stamp before the last one": self._backwards,
            }
            # Only required topics: others may repeat a state at one moment of a simulated clock.
            if self.required and (wrong := sum(faults.values())):
                text = ", ".join(f"{count} {fault}" for fault, count in faults.items() if count)
                report(
                    wrong > limits.stamps_fail * received,
                    f"{topic}: of {received} messages {text}; check its driver",
                )
            if self._budget is not None and gap > self._budget:
                report(
                    False,
                    f"{self.topic}: no message for {gap:.2f} s, the policy accepts"
                    f" {self._budget:g} s; check its driver and cable",
                )
        return max(found, key=lambda item: item[0], default=(Verdict.PASS, ""))
