"""Start the record journey: ``python3 -m sf_bringup.record task:="pick the red cube"``. It starts
the same nodes as ``launch/record.launch.py``.

In a terminal it shows the health of all streams, and single keys start, end and label episodes; the
nodes log to a file. With ``teleop:=keyboard`` the same terminal teleoperates the arm. Without a
terminal it prints the log of the nodes, like ``up``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sf_bringup.arguments import RECORD_ARGUMENTS, GraphError, parse_arguments
from sf_bringup.arm_client import ArmClientError
from sf_bringup.graph import record_graph
from sf_bringup.graph_process import GraphProcess
from sf_bringup.one_graph import refuse_second_graph
from sf_bringup.second_start import refuse_second_start
from sf_bringup.up import place_in, start
from sf_training.recording import keyboard_node
from sf_training.recording.recover.recovery import (
    RecoveryError,
    find_interrupted,
    recover_episode,
    recovery_command,
)

LOG_FILE = "record.log"  # beside the episodes
KEYBOARD = "keyboard"  # the device of config/teleoperation that is this terminal
_LOGS_KEPT = 10


def main(words: Sequence[str] | None = None) -> int:
    """Start the nodes, with keys and status if there is a terminal; return the exit code."""
    words = sys.argv[1:] if words is None else list(words)
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or {"--help", "-h"} & set(words):
        return start(words, "record", RECORD_ARGUMENTS, record_graph)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    try:
        values = parse_arguments(words, RECORD_ARGUMENTS)
        nodes = record_graph(**values)  # raises before any node starts
        namespace = nodes[0].namespace
        refuse_second_graph(namespace)
        refuse_second_start([node.full_name for node in nodes if node.essential])
    except GraphError as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    directory = Path(values["directory"]).expanduser()
    notes = _offer_recovery(directory)
    drive = values["teleop"] == KEYBOARD
    return _with_keys(
        words, directory, float(values["countdown"]), drive=drive, notes=notes, namespace=namespace
    )


def _with_keys(
    words: Sequence[str],
    directory: Path,
    countdown_s: float,
    *,
    drive: bool,
    notes: Sequence[str],
    namespace: str,
) -> int:
    log = directory / LOG_FILE
    keep_log(log)
    with GraphProcess(words, log, "sf_bringup.record") as graph:

        def alive() -> bool:
            try:
                graph.check()
            except ArmClientError:
                return False
            return True

        parameters = [
            "--ros-args",
            "-p",
            f"countdown_s:={countdown_s}",
            "-p",
            f"drive:={str(drive).lower()}",
            *place_in(namespace),
        ]
        code = keyboard_node.main(parameters, alive, notes)
        # The graph is shutting down in order; a signal must not interrupt that.
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        try:
            graph.check()
        except ArmClientError as error:
            for line in (str(error), *interrupted_notes(directory)):
                print(f"record: {line}", file=sys.stderr)
            return 1
    if code == 0:
        print(f"episodes and {LOG_FILE} are in {directory}")
    return code


def keep_log(log: Path) -> None:
    """Rename the log of the previous run to ``record_DATE_TIME.log``, so that it can explain a
    crash. Delete all but the newest ten.
    """
    try:
        if log.exists() and log.stat().st_size:
            when = datetime.fromtimestamp(log.stat().st_mtime).strftime("%Y%m%d_%H%M%S")
            log.rename(log.with_name(f"{log.stem}_{when}{log.suffix}"))
        for old in sorted(log.parent.glob(f"{log.stem}_*{log.suffix}"))[:-_LOGS_KEPT]:
            old.unlink()
    except OSError:
        pass  # the start reports an unusable folder


def _offer_recovery(directory: Path) -> list[str]:
    """Ask whether to recover interrupted recordings; return sentences about those that remain."""
    interrupted = find_interrupted(directory)
    if not interrupted:
        return []
    names = ", ".join(path.name for path in interrupted)
    print(f"record: {directory} holds {len(interrupted)} interrupted recordings: {names}")
    try:
        answer = input("recover them now, as discarded episodes that can be labelled again? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in ("y", "yes"):
        for path in interrupted:
            try:
                print(f"record: {recover_episode(path).path}: recovered")
            except RecoveryError as error:
                print(f"record: {error}", file=sys.stderr)
    return interrupted_notes(directory)


def interrupted_notes(directory: Path) -> list[str]:
    """Return a sentence that names the interrupted recordings in a folder and how to recover them;
    an empty list if there is none.
    """
    interrupted = find_interrupted(directory)
    if not interrupted:
        return []
    names = ", ".join(path.name for path in interrupted)
    return [f"interrupted recordings: {names}; {recovery_command(directory)}"]


if __name__ == "__main__":
    sys.exit(main())
