"""``sf_training replay EPISODE``: send an episode to the robot again, through the same guard as a
policy's chunks.

The arm moves slowly to the start of the episode, then along its motion. Ctrl-C, a takeover by the
operator, a pause, an emergency stop or an arm that does not follow ends the replay. No further
command is sent then, and the executor stops the arm.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import rclpy
import tyro
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_training.config_file import parse, print_settings
from sf_training.data.episode_reader import BagError, EpisodeReader
from sf_training.teleoperation.player import Player, ReplayAborted, play
from sf_training.teleoperation.recorded_motion import (
    Follow,
    RecordedMotion,
    ReplayError,
    recorded_motion,
)
from sf_training.teleoperation.replay import Following, Timed, approach, at_speed


@dataclass(frozen=True)
class Settings:
    """Send an episode to the robot again through the executor's guard, after a slow approach."""

    episode: Annotated[Path, tyro.conf.Positional]
    """Directory of the episode, or its .mcap file."""
    speed: float = 0.5
    """Factor of the recorded speed, 0.1 to 2."""
    follow: Follow = "commanded"
    """commanded: joints as they were sent to the arm; measured: as they were measured."""
    approach: float = 0.1
    """Share of the speed limits of joints and tool during the approach, 0.01 to 0.3."""
    furthest: float = 1.0
    """Abort when a joint is this many times its tracking_error from its command, 0.1 to 3."""
    contract: Path | None = None
    """Contract of the robot; none: the one in the episode."""
    clock: Literal["auto", "ros", "wall"] = "auto"
    """ros: the time on /clock, as of a simulated arm; auto: decide by the executor's stamps."""
    yes: bool = False
    """Do not ask before the arm moves."""
    report: Path | None = None
    """JSON file for the tracking error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Replay an episode.

    Returns:
        The exit code: 0 if replayed to the end, 1 if aborted, 2 if it cannot be replayed, 130 if
        interrupted.
    """
    settings, console = parse(Settings, argv, "replay"), Console()
    try:
        contract, recorded, motion = _prepare(settings, console)
    except (BagError, ContractError, ReplayError) as error:
        return _failed(error, 2)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    node = Player(contract)
    try:
        return _replay(node, settings, recorded, motion, console)
    except ReplayError as error:
        return _failed(error, 2)
    except KeyboardInterrupt:
        return _failed("interrupted; no further command is sent and the arm stops", 130)
    finally:
        signal.signal(signal.SIGTERM, before)
        node.close()
        rclpy.try_shutdown()


def _prepare(settings: Settings, console: Console) -> tuple[Contract, RecordedMotion, Timed]:
    if not 0.01 <= settings.approach <= 0.3:
        raise ReplayError(
            f"approach: {settings.approach:g} is not between 0.01 and 0.3; correct it"
        )
    if not 0.1 <= settings.furthest <= 3.0:
        raise ReplayError(f"furthest: {settings.furthest:g} is not between 0.1 and 3; correct it")
    contract = load_contract(settings.contract) if settings.contract else None
    reader = EpisodeReader(settings.episode, contract)
    contract = contract or reader.contract
    recorded = recorded_motion(reader, settings.follow)
    motion = at_speed(recorded, contract, settings.speed)
    print_settings(settings, console, "replay")
    console.print(
        f"{reader.name}: {reader.instruction!r}, {reader.outcome}, {recorded.duration:.1f} s;"
        f" joints {recorded.described}"
    )
    if motion.slowed > 0.01:
        console.print(
            f"slowed down by {motion.slowed:.2f} s, where the recorded motion exceeds a limit of"
            " the contract"
        )
    return contract, recorded, motion


def _advance(bar: Progress, task: TaskID, seconds: float) -> None:
    bar.update(task, completed=seconds)


def _replay(
    node: Player, settings: Settings, recorded: RecordedMotion, motion: Timed, console: Console
) -> int:
    with console.status("waiting for the arm"):
        node.find_arm(settings.clock)
    node.check_free()
    start = approach(node.contract, node.measured, motion.positions[0], settings.approach)
    console.print(
        f"{start.duration:.1f} s to the start of the episode, then {motion.duration:.1f} s. Stay"
        " out of reach of the arm, a hand on the emergency stop."
    )
    if not settings.yes:
        if not sys.stdin.isatty():
            raise ReplayError(
                "stdin is not a terminal, so you cannot confirm the motion; give --yes, and watch"
                " the arm"
            )
        if input("Press Enter to move the arm, type anything else to cancel: ").strip():
            console.print("cancelled; the arm was not moved")
            return 0
        node.spin(0.2)
        node.check_free()
        start = approach(node.contract, node.measured, motion.positions[0], settings.approach)
    following, aborted = Following(node.contract, settings.furthest), None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total:.1f} s"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as bar:
            for title, timed, judged in (
                ("approach", start, Following(node.contract, settings.furthest)),
                ("replay", motion, following),
            ):
                task = bar.add_task(title, total=timed.duration)
                play(node, timed, judged, partial(_advance, bar, task))
    except ReplayAborted as error:
        aborted = str(error)
    report = {
        "episode": str(settings.episode),
        "speed": settings.speed,
        "finished": aborted is None,
        "aborted": aborted or "",
    }
    report |= {
        "recorded_s": round(recorded.duration, 2),
        "silences": node.silences,
        **following.report(),
    }
    _show(report, console)
    if node.silences:
        console.print(
            f"the arm braked {node.silences} times because commands were late; reduce the load of"
            " this computer"
        )
    if settings.report:
        settings.report.parent.mkdir(parents=True, exist_ok=True)
        settings.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if aborted is None else _failed(aborted, 1)


def _show(report: dict, console: Console) -> None:
    if "joints" not in report:
        return
    table = Table(
        title=f"tracking error, {report['delay_s']:.2f} s behind",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("", "rms", "largest"):
        table.add_column(column, justify="left" if not column else "right")
    for name, error in report["joints"].items():
        table.add_row(name, f"{error['rms']:.4f}", f"{error['max']:.4f}")
    for arm, error in report["tools"].items():
        name = "tool [mm]" if len(report["tools"]) == 1 else f"tool of {arm} [mm]"
        table.add_row(name, f"{1e3 * error['rms']:.1f}", f"{1e3 * error['max']:.1f}")
    console.print(table)


def _failed(error: Exception | str, code: int) -> int:
    print(f"replay: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
