"""Whether an episode is worth training on, while it can still be repeated: all streams together,
and PASS, WARN or FAIL.

Skew and ages are judged by the live policy's own observation buffer, fed with stamps: what it would
refuse on the robot counts against an episode. No rclpy here; times are seconds on the node's clock.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.perception.observation import NoObservation, ObservationBuffer
from sf_training.recording.session.stream_monitor import (
    StreamLimits,
    StreamMonitor,
    StreamReport,
    Verdict,
    header_stamp,
    is_stamped,
    joint_names,
)
from sf_training.recording.topics import RecordedTopic, absolute, camera_pose_topic

REFUSED_WARN = 0.02  # share of the moments at which the live policy would have had no observation
REFUSED_FAIL = 0.1
SHORT_S = 1.0
CLOCK_STEP_S = 0.1
_SILENT_S = 0.3  # without any message the moments are counted by the clock


@dataclass(frozen=True)
class HealthReport:
    """All streams and what follows from them; ``skew_s`` between the newest images of all cameras,
    -1 before the first of each.
    """

    streams: tuple[StreamReport, ...]
    skew_s: float
    verdict: Verdict
    reasons: tuple[str, ...]


class EpisodeHealth:
    """Watches the topics of a contract.

    Args:
        topics: those that are recorded.
    """

    def __init__(
        self,
        contract: Contract,
        topics: Sequence[RecordedTopic],
        limits: StreamLimits | None = None,
    ) -> None:
        self._contract, self._limits = contract, limits or StreamLimits()
        self._buffer = ObservationBuffer(contract)
        self._cameras = {absolute(camera.topic): camera.name for camera in contract.cameras}
        self._companions = {
            absolute(name): absolute(camera.topic)
            for camera in contract.cameras
            for name in (camera.info_topic, camera.depth_topic)
            if name
        }
        self._joint_states = absolute(contract.topics.joint_states)
        names = contract.topics
        self._movers = [
            absolute(each)
            for each in (
                names.teleop_command,
                names.replay_command,
                names.expert_chunk,
                names.action_chunk,
            )
        ]
        self.monitors = {topic.name: self._monitor(topic) for topic in topics}
        self._stamped = {topic.name: is_stamped(topic.type_name) for topic in topics}
        self.recording = False
        self._newest = self._next_moment = 0.0
        self.begin(0.0)
        self.recording = False

    def begin(self, now: float, instruction: str = "") -> None:
        """An episode begins."""
        for monitor in self.monitors.values():
            monitor.begin(now)
        self.recording, self._begin = True, now
        self._moments, self._refused, self._example = 0, Counter(), {}
        self._next_moment = now
        self._clock_step = 0.0
        self._instructions = [instruction]

    def end(self) -> None:
        """The episode is over; from now on reports are about the last seconds."""
        self.recording = False

    def add(self, topic: str, data: bytes, received: float, publisher: bytes = b"") -> None:
        """Take note of a serialised message."""
        stamp = header_stamp(data) if self._stamped[topic] else 0.0
        self.monitors[topic].add(received, stamp, publisher)
        if topic in self._cameras:
            self._buffer.add_image(self._cameras[topic], stamp, None)
        elif topic == self._joint_states:
            names = joint_names(data)
            self._buffer.add_joint_state(stamp or received, names, np.zeros(len(names)))
        self._newest = received
        if received >= self._next_moment:
            self._look(received)

    def lost(self, topic: str, count: int) -> None:
        """Messages that never arrived, or found the queue full."""
        self.monitors[topic].lost += count

    def told(self, instruction: str) -> None:
        """An instruction came."""
        if self.recording and instruction != self._instructions[-1]:
            self._instructions.append(instruction)

    def clock_was_set(self, seconds: float) -> None:
        """The node's clock moved against the steady one."""
        if abs(seconds) > abs(self._clock_step):
            self._clock_step = seconds

    def tick(self, now: float) -> None:
        """To be called several times per second: counts moments when nothing arrives at all."""
        if now > self._newest + _SILENT_S and now >= self._next_moment:
            self._look(now)

    def report(self, now: float) -> HealthReport:
        """How all streams are doing at ``now``."""
        streams = tuple(
            monitor.report(now, self._limits, self.recording) for monitor in self.monitors.values()
        )
        troubled = {stream.topic for stream in streams if stream.reason}
        # A camera's trouble is told once, and not again for its depth and its calibration.
        found = [
            (each.verdict, each.reason)
            for each in streams
            if each.reason and self._companions.get(each.topic) not in troubled
        ]
        if self.recording:
            found += self._judge(now)
        found.sort(key=lambda item: -item[0])
        verdict = max((level for level, _ in found), default=Verdict.PASS)
        return HealthReport(
            streams, self._buffer.skew, verdict, tuple(reason for _, reason in found)
        )

    def _look(self, now: float) -> None:
        step = self._contract.action.step_s
        self._next_moment = (
            now + step if now > self._next_moment + step else self._next_moment + step
        )
        if not self.recording:
            return
        self._moments += 1
        try:
            self._buffer.pick(now)
        except NoObservation as error:
            kind = re.sub(r"[\d.]+", "#", str(error))  # with other figures it is the same trouble
            self._refused[kind] += 1
            self._example[kind] = str(error)

    def _judge(self, now: float) -> list[tuple[Verdict, str]]:
        found = []
        refused, duration = self._refused.total(), now - self._begin
        if self._moments and refused > REFUSED_WARN * self._moments:
            share, reason = (
                refused / self._moments,
                self._example[self._refused.most_common(1)[0][0]],
            )
            found.append(
                (
                    Verdict.FAIL if share > REFUSED_FAIL else Verdict.WARN,
                    (
                        f"at {100 * share:.0f} % of all moments a policy would have had no"
                        f" observation, mostly: {reason}"
                    ),
                )
            )
        if abs(self._clock_step) > CLOCK_STEP_S:
            found.append(
                (
                    Verdict.FAIL,
                    (
                        f"the clock was set by {self._clock_step:+.2f} s; wait for the time server"
                        " before recording"
                    ),
                )
            )
        if duration > SHORT_S and not any(
            self.monitors[topic].received for topic in self._movers if topic in self.monitors
        ):
            found.append(
                (
                    Verdict.WARN,
                    (
                        f"nobody moved the arm: no message on {self._movers[0]}, so there is"
                        " nothing to learn from"
                    ),
                )
            )
        if len(self._instructions) > 1:
            found.append(
                (
                    Verdict.WARN,
                    f"another instruction came: {self._instructions[-1]!r}; record one at a time",
                )
            )
        return found

    def _monitor(self, topic: RecordedTopic) -> StreamMonitor:
        contract, stamped = self._contract, is_stamped(topic.type_name)
        if topic.name == self._joint_states:
            return StreamMonitor(
                topic.name,
                gap_budget_s=contract.budgets.joint_state_age_s,
                required=True,
                stamped=stamped,
            )
        for camera in contract.cameras:
            declared = {
                absolute(name)
                for name in (camera.topic, camera.info_topic, camera.depth_topic)
                if name
            }
            if topic.name in declared:
                budget = contract.budgets.observation_age_s if topic.required else None
                return StreamMonitor(
                    topic.name,
                    expected_hz=camera.rate_hz,
                    gap_budget_s=budget,
                    required=topic.required,
                    stamped=stamped,
                )
            if topic.name == camera_pose_topic(camera.name):
                break
        return StreamMonitor(topic.name, required=topic.required, stamped=stamped)
