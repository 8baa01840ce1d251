"""Judge an episode while it is recorded, so that the operator can repeat it: PASS, WARN or FAIL.

Camera skew and message ages are judged by the observation buffer of the live policy, fed with the
stamps alone. Moments at which the buffer would refuse an observation count against the episode. No
rclpy here; times are seconds on the node's clock.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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

REFUSED_WARN = 0.02  # share of policy steps at which the live policy would have no observation
REFUSED_FAIL = 0.1
SHORT_S = 1.0  # s: a shorter episode may lack commands
CLOCK_STEP_S = 0.1  # s
_SILENT_S = 0.3  # s without any message, after which the timer counts policy steps


@dataclass(frozen=True)
class HealthReport:
    """Health of all streams together.

    Attributes:
        skew_s: time between the newest images of all cameras; -1 before the first one of each.
        verdict: the worst one.
        reasons: one sentence for each finding, the worst first.
    """

    streams: tuple[StreamReport, ...]
    skew_s: float
    verdict: Verdict
    reasons: tuple[str, ...]


class EpisodeHealth:
    """Monitor the recorded topics of a contract.

    Args:
        topics: recorded topics.
        limits: of the streams; None means the defaults.

    Attributes:
        monitors: monitor of each topic by its name.
        recording: an episode is being recorded.
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
        self._command_topics = [
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
        self._last_received = self._next_step = 0.0
        self.begin(0.0)
        self.recording = False

    def begin(self, now: float, instruction: str = "") -> None:
        """Start judging an episode with this instruction."""
        for monitor in self.monitors.values():
            monitor.begin(now)
        self.recording, self._begin = True, now
        self._steps = 0
        self._refused: Counter[str] = Counter()
        self._example: dict[str, str] = {}
        self._next_step = now
        self._clock_step = 0.0
        self._instructions = [instruction]

    def end(self) -> None:
        """Stop judging the episode; from now on reports cover the last seconds."""
        self.recording = False

    def add(self, topic: str, data: bytes, received: float, publisher: bytes = b"") -> None:
        """Count a serialised message.

        Args:
            received: time of receipt.
            publisher: id of its publisher; empty if unknown.
        """
        stamp = header_stamp(data) if self._stamped[topic] else 0.0
        self.monitors[topic].add(received, stamp, publisher)
        if topic in self._cameras:
            self._buffer.add_image(self._cameras[topic], stamp, None)
        elif topic == self._joint_states:
            names = joint_names(data)
            self._buffer.add_joint_state(stamp or received, names, [0.0] * len(names))
        self._last_received = received
        if received >= self._next_step:
            self._step(received)

    def add_lost(self, topic: str, count: int) -> None:
        """Count messages that did not arrive or did not fit into the queue."""
        self.monitors[topic].lost += count

    def add_instruction(self, instruction: str) -> None:
        """Note a published instruction; a second one in an episode is a warning."""
        if self.recording and instruction != self._instructions[-1]:
            self._instructions.append(instruction)

    def note_clock_offset(self, seconds: float) -> None:
        """Note by how much the node's clock moved against the monotonic one since the start."""
        if abs(seconds) > abs(self._clock_step):
            self._clock_step = seconds

    def tick(self, now: float) -> None:
        """Count policy steps while no message arrives at all. Call it several times per second."""
        if now > self._last_received + _SILENT_S and now >= self._next_step:
            self._step(now)

    def report(self, now: float) -> HealthReport:
        """Return the health of all streams at ``now``."""
        streams = tuple(
            monitor.report(now, self._limits, self.recording) for monitor in self.monitors.values()
        )
        faulty = {stream.topic for stream in streams if stream.reason}
        # Report a faulty camera once, not again for its depth and its camera info.
        found = [
            (each.verdict, each.reason)
            for each in streams
            if each.reason and self._companions.get(each.topic) not in faulty
        ]
        if self.recording:
            found += self._judge(now)
        found.sort(key=lambda item: -item[0])
        verdict = max((level for level, _ in found), default=Verdict.PASS)
        return HealthReport(
            streams, self._buffer.skew, verdict, tuple(reason for _, reason in found)
        )

    def _step(self, now: float) -> None:
        """Ask the buffer for an observation once per policy step, and count refusals."""
        step = self._contract.action.step_s
        self._next_step = now + step if now > self._next_step + step else self._next_step + step
        if not self.recording:
            return
        self._steps += 1
        try:
            self._buffer.pick(now)
        except NoObservation as error:
            reason = re.sub(r"[\d.]+", "#", str(error))  # the same reason with other figures
            self._refused[reason] += 1
            self._example[reason] = str(error)

    def _judge(self, now: float) -> list[tuple[Verdict, str]]:
        """Return the findings about the episode as a whole."""
        found: list[tuple[Verdict, str]] = []
        refused, duration = self._refused.total(), now - self._begin
        if self._steps and refused > REFUSED_WARN * self._steps:
            share = refused / self._steps
            reason = self._example[self._refused.most_common(1)[0][0]]
            text = (
                f"at {100 * share:.0f} % of the policy steps the policy would have had no"
                f" observation; most frequent reason: {reason}"
            )
            found.append((Verdict.FAIL if share > REFUSED_FAIL else Verdict.WARN, text))
        if abs(self._clock_step) > CLOCK_STEP_S:
            text = (
                f"the clock was set by {self._clock_step:+.2f} s; wait for the time server before"
                " recording"
            )
            found.append((Verdict.FAIL, text))
        commanded = any(
            self.monitors[topic].received
            for topic in self._command_topics
            if topic in self.monitors
        )
        if duration > SHORT_S and not commanded:
            text = (
                f"no command was recorded: no message on {self._command_topics[0]}; start"
                " teleoperation"
            )
            found.append((Verdict.WARN, text))
        if len(self._instructions) > 1:
            text = (
                f"the instruction changed to {self._instructions[-1]!r} during the episode; record"
                " one instruction per episode"
            )
            found.append((Verdict.WARN, text))
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
