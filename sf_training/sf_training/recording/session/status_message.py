"""Build the messages of the recorder's state: ``sf_msgs/RecorderStatus`` and diagnostics."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from sf_msgs.msg import RecorderStatus, StreamHealth
from sf_policy_node.contract import Contract
from sf_policy_node.nodes.conversions import to_stamp
from sf_training.recording.session.recording_session import RecordingSession, State
from sf_training.recording.session.stream_monitor import Verdict

_LEVELS = {
    Verdict.PASS: DiagnosticStatus.OK,
    Verdict.WARN: DiagnosticStatus.WARN,
    Verdict.FAIL: DiagnosticStatus.ERROR,
}


def status_message(
    session: RecordingSession | None, instruction: str, now: float, steady: float
) -> RecorderStatus:
    """Return the status of the recorder; without a session it is INACTIVE.

    Args:
        instruction: that an episode started now would have.
        now: time on the node's clock [s].
        steady: time on a monotonic clock [s].
    """
    header = Header(stamp=to_stamp(now))
    if session is None:
        return RecorderStatus(
            header=header,
            state=State.INACTIVE,
            instruction=instruction,
            camera_skew_s=-1.0,
            disk_left_s=-1.0,
        )
    report, queue, last = session.report(now), session.queue, session.last
    idle = session.state == State.IDLE
    # When idle, show the verdict of the last episode; before the first one, that of the streams.
    verdict, reasons = (
        (last.verdict, last.reasons) if idle and last else (report.verdict, report.reasons)
    )
    return RecorderStatus(
        header=header,
        state=session.state,
        episode=str(session.path or ""),
        instruction=instruction if idle else session.instruction,
        episodes=session.outcomes.total(),
        outcomes=[f"{outcome} {count}" for outcome, count in session.outcomes.items() if count],
        countdown_s=session.countdown(steady),
        duration_s=session.duration(now),
        queued=queue.depth if queue else 0,
        queue_share=queue.share if queue else 0.0,
        written_bytes=queue.written if queue else 0,
        disk_free_bytes=session.disk_free,
        disk_left_s=session.disk_left_s() if queue else -1.0,
        camera_skew_s=report.skew_s,
        verdict=verdict,
        reasons=list(reasons),
        streams=[
            StreamHealth(
                topic=stream.topic,
                expected_hz=stream.expected_hz,
                measured_hz=stream.measured_hz,
                longest_gap_s=stream.longest_gap_s,
                age_s=stream.age_s,
                received=stream.received,
                lost=stream.lost,
                verdict=stream.verdict,
                reason=stream.reason,
            )
            for stream in report.streams
        ],
    )


def recorder_diagnostics(message: RecorderStatus, contract: Contract) -> DiagnosticStatus:
    """Return the status as one line of ``/diagnostics``."""
    state = State(message.state)
    if state == State.INACTIVE:
        level, sentence = DiagnosticStatus.STALE, "inactive: nothing is recorded"
    else:
        level = _LEVELS[Verdict(message.verdict)]
        sentence = (
            message.reasons[0]
            if message.reasons
            else f"{state.name.lower()}: {message.instruction or 'no instruction yet'}"
        )
    values = {
        "state": state.name.lower(),
        "instruction": message.instruction or "none",
        "episode": message.episode or "none",
        "episodes": ", ".join(message.outcomes) or "0",
        "duration": f"{message.duration_s:.1f} s",
        "queue": f"{message.queued} messages, {100 * message.queue_share:.0f} % full",
        "written": f"{message.written_bytes / 1e6:.1f} MB",
        "disk free": f"{message.disk_free_bytes / 1e9:.1f} GB",
        "disk left": (
            f"{message.disk_left_s:.0f} s" if message.disk_left_s >= 0 else "nothing is written"
        ),
        "camera skew": (
            f"{1e3 * message.camera_skew_s:.1f} ms" if message.camera_skew_s >= 0 else "none yet"
        ),
        **{
            f"{stream.topic} rate": _rate(stream)
            for stream in message.streams
            if stream.expected_hz or stream.received
        },
    }
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(
        level=level,
        name="recorder: episodes",
        message=sentence,
        hardware_id=contract.robot,
        values=pairs,
    )


def _rate(stream: StreamHealth) -> str:
    wanted = f" of {stream.expected_hz:g} Hz" if stream.expected_hz else ""
    lost = f", {stream.lost} lost" if stream.lost else ""
    return f"{stream.measured_hz:.1f} Hz{wanted}{lost}"
