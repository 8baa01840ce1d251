"""Write messages from a separate thread, so that a slow disk never blocks a ROS callback. Messages
beyond the capacity of the queue are dropped and counted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sf_policy_node.perception.images import ImageError
from sf_training.recording.writer.episode_writer import EpisodeWriteError, EpisodeWriter, Outcome

_FLUSH_PERIOD = 0.5  # s of messages that a crash of this process may lose
_SYNC_PERIOD = 2.0  # s of messages that a power failure may lose
_DELAYS_MAX = 100_000


class QueuedWriter:
    """Queue messages in the calling thread and write them from another.

    Args:
        writer: with its topics declared; only this object may use it from now on.
        capacity: maximum size of the queue [bytes].
        converters: topic to what converts each of its messages before it is written; messages that
            it refuses with ImageError are dropped.

    Attributes:
        error: first error of the writing thread; None while there is none.
        drops, received: number of messages per topic.
        delays: time from queueing to writing of each message [s], newest last.
    """

    def __init__(
        self,
        writer: EpisodeWriter,
        capacity: int = 256 << 20,
        converters: Mapping[str, Callable[[bytes], memoryview]] | None = None,
    ) -> None:
        self._writer, self._converters = writer, converters or {}
        self._capacity = capacity
        self._queue: deque[tuple[float, str, bytes, int, int | None]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self.error: EpisodeWriteError | None = None
        self.drops: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.delays: deque[float] = deque(maxlen=_DELAYS_MAX)
        self._thread = threading.Thread(target=self._work, name="episode writer", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Number of messages in the queue."""
        return len(self._queue)

    @property
    def share(self) -> float:
        """Used share of the capacity, 0 to 1."""
        return self._bytes / self._capacity

    @property
    def written(self) -> int:
        """Number of bytes written to the file so far."""
        return self._writer.size

    def put(
        self, topic: str, data: bytes, log_time_ns: int, publish_time_ns: int | None = None
    ) -> bool:
        """Queue a message without blocking; return False if it was dropped.

        Args:
            log_time_ns: time of receipt [ns].
            publish_time_ns: time of publication [ns]; None if unknown.
        """
        with self._changed:
            if self._bytes + len(data) > self._capacity or self.error:
                self.drops[topic] += 1
                return False
            self.received[topic] += 1
            self._queue.append((time.monotonic(), topic, data, log_time_ns, publish_time_ns))
            self._bytes += len(data)
            self._changed.notify()
            return True

    def finish(
        self, outcome: Outcome, note: str = "", verdict: str = "", reasons: Sequence[str] = ()
    ) -> Path:
        """Write the queued messages and complete the episode.

        Raises:
            EpisodeWriteError: this write or an earlier one failed.
        """
        self._stop()
        if self.error:
            raise self.error
        delays = self._delays_ms()
        return self._writer.finish(
            outcome,
            note=note,
            drops=self.drops,
            verdict=verdict,
            reasons=reasons,
            write_delay_ms=delays,
        )

    def abort(self) -> None:
        """Delete the episode."""
        with self._changed:
            self._queue.clear()
        self._stop()
        self._writer.abort()

    def _delays_ms(self) -> dict[str, float]:
        if not self.delays:
            return {}
        delays = 1e3 * np.array(self.delays)
        return {
            "p50": round(float(np.median(delays)), 3),
            "p99": round(float(np.percentile(delays, 99)), 3),
            "max": round(float(delays.max()), 3),
        }

    def _stop(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _write(
        self, topic: str, data: bytes, log_time_ns: int, publish_time_ns: int | None
    ) -> None:
        content: bytes | memoryview = data
        if topic in self._converters:
            try:
                content = self._converters[topic](data)
            except ImageError:
                with self._changed:
                    self.drops[topic] += 1
                return
        self._writer.write(topic, content, log_time_ns, publish_time_ns)

    def _work(self) -> None:
        flushed = synced = time.monotonic()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._queue or self._closing, timeout=_FLUSH_PERIOD
                    )
                    if not self._queue and self._closing:
                        return
                    message = self._queue.popleft() if self._queue else None
                if message:
                    queued, topic, data, log_time_ns, publish_time_ns = message
                    self._write(topic, data, log_time_ns, publish_time_ns)
                    self.delays.append(time.monotonic() - queued)
                    with self._changed:
                        self._bytes -= len(data)
                if time.monotonic() - flushed > _FLUSH_PERIOD:
                    self._writer.flush()
                    flushed = time.monotonic()
                    if flushed - synced > _SYNC_PERIOD:
                        self._writer.sync()
                        synced = time.monotonic()
        # Any error: `finish` must not report an incomplete episode as complete.
        except Exception as error:
            with self._changed:
                self.error = (
                    error
                    if isinstance(error, EpisodeWriteError)
                    else EpisodeWriteError(f"a message cannot be written: {error!r}")
                )
