"""Draw the recorder in a terminal: a coloured banner that is readable from two metres away, and the
streams below. No rclpy and no terminal input here.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sf_msgs.msg import RecorderStatus
from sf_training.recording.session.recording_session import State
from sf_training.recording.session.stream_monitor import Verdict

KEYS_LINE = (
    "space start, or end as success    s success    f failure    d discard    u undo label    i"
    " instruction    q quit"
)
DRIVING_KEYS_LINE = (
    "ENTER start, or end as success    1 success    2 failure    3 discard    4 undo label    5"
    " instruction    q quit\nhold to move: w s a d r f, turn: j l i k u o    [ ] gripper    + -"
    " speed    p policy resumes    x EMERGENCY STOP"
)
_COLOURS = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
_RECORDING = {False: "white on red", True: "white on magenta"}  # by "verdict is FAIL"
_REPORTS_SHOWN = 3


def screen(
    status: RecorderStatus | None,
    reports: Sequence[tuple[bool, str]],
    typing: str | None = None,
    *,
    next_instruction: str = "",
    keys_line: str = KEYS_LINE,
) -> Group:
    """Return what the terminal shows.

    Args:
        status: newest ``sf_msgs/RecorderStatus``; None before the first.
        reports: responses of the recorder, (success, sentence), newest last.
        typing: an instruction while it is being typed, else None.
        next_instruction: typed for the next episodes; empty means that of the recorder.
        keys_line: help text for the keys.
    """
    parts: list[RenderableType] = [banner(status, next_instruction)]
    if status is not None:
        parts += [_streams(status), _totals(status)]
        parts += [
            Text(f"! {reason}", style=_COLOURS[Verdict(status.verdict)])
            for reason in status.reasons
        ]
    parts += [
        Text(sentence, style="" if done else "red")
        for done, sentence in list(reports)[-_REPORTS_SHOWN:]
    ]
    typed = f"instruction: {typing}▏   (ENTER sets it, ESC keeps the old one)"
    parts.append(
        Text(
            typed if typing is not None else keys_line,
            style="bold" if typing is not None else "dim",
        )
    )
    return Group(*parts)


def banner(status: RecorderStatus | None, next_instruction: str = "") -> Panel:
    """Return the banner with state and instruction; its colour alone shows the state.

    During an episode it shows the instruction of that episode, else that of the next one.
    """
    if status is None:
        return Panel(Text("waiting for the recorder", justify="center"), style="dim")
    state, verdict = State(status.state), Verdict(status.verdict)
    running = state in (State.COUNTDOWN, State.RECORDING, State.FINISHING)
    instruction = (
        status.instruction if running else next_instruction or status.instruction
    ) or "no instruction yet: type one (keys below)"
    if running and next_instruction and next_instruction != status.instruction:
        instruction += f"   (next: {next_instruction})"
    last = f"   last: {verdict.name}" if status.episodes else ""
    title, style = {
        State.INACTIVE: ("NOT ACTIVE", "dim"),
        State.IDLE: (f"READY{last}", _COLOURS[verdict]),
        State.COUNTDOWN: (f"GET READY   {status.countdown_s:.0f}", "black on yellow"),
        State.RECORDING: (
            f"● RECORDING   {status.duration_s:.1f} s   {verdict.name}",
            _RECORDING[verdict == Verdict.FAIL],
        ),
        State.FINISHING: ("WRITING", "black on cyan"),
    }[state]
    return Panel(Text(f"{title}\n{instruction}", justify="center"), style=style)


def _streams(status: RecorderStatus) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stream")
    for name in ("rate", "gap", "age", "messages", "lost"):
        table.add_column(name, justify="right")
    for stream in status.streams:
        if not (stream.received or stream.expected_hz or stream.verdict):
            continue
        expected = f"/{stream.expected_hz:g}" if stream.expected_hz else ""
        table.add_row(
            stream.topic,
            f"{stream.measured_hz:.1f}{expected} Hz",
            f"{1e3 * stream.longest_gap_s:.0f} ms",
            f"{1e3 * stream.age_s:.0f} ms" if stream.age_s >= 0 else "-",
            str(stream.received),
            str(stream.lost),
            style=_COLOURS[Verdict(stream.verdict)] if stream.verdict else "",
        )
    return table


def _totals(status: RecorderStatus) -> Text:
    skew = f"{1e3 * status.camera_skew_s:.0f} ms" if status.camera_skew_s >= 0 else "-"
    left = f", {status.disk_left_s / 60:.0f} min left" if status.disk_left_s >= 0 else ""
    return Text(
        f"camera skew {skew}   queue {100 * status.queue_share:.0f} %   written"
        f" {status.written_bytes / 1e6:.0f} MB   disk {status.disk_free_bytes / 1e9:.1f} GB{left}  "
        f" episodes: {', '.join(status.outcomes) or '0'}"
    )
