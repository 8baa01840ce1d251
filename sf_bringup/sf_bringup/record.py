"""Starts the record journey: ``python3 -m sf_bringup.record task:="pick the red cube"``. The twin of ``launch/record.launch.py``.

In a terminal it shows the health of all streams, and single keys start, end and label episodes; the nodes' lines go to a file.
Elsewhere it prints the nodes' lines, like ``up``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sf_bringup.arm_client import ArmClientError
from sf_bringup.graph import RECORD_ARGUMENTS, GraphError, parse_arguments, record_graph
from sf_bringup.graph_process import GraphProcess
from sf_bringup.up import start
from sf_training.recording import keyboard_node

LOG_FILE = "record.log"  # beside the episodes


def main(words: Sequence[str] | None = None) -> int:
    """Start the graph, with the keyboard where there is one; returns the exit code."""
    words = sys.argv[1:] if words is None else list(words)
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or {"--help", "-h"} & set(words):
        return start(words, "record", RECORD_ARGUMENTS, record_graph)
    try:
        values = parse_arguments(words, RECORD_ARGUMENTS)
        record_graph(**values)  # says what is wrong before anything starts
    except GraphError as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    return _with_keys(words, Path(values["directory"]).expanduser(), float(values["countdown"]))


def _with_keys(words: Sequence[str], directory: Path, countdown_s: float) -> int:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with GraphProcess(words, directory / LOG_FILE, "sf_bringup.record") as graph:

        def alive() -> bool:
            try:
                graph.check()
            except ArmClientError:
                return False
            return True

        code = keyboard_node.main(["--ros-args", "-p", f"countdown_s:={countdown_s}"], alive)
        try:
            graph.check()
        except ArmClientError as error:
            print(f"record: {error}", file=sys.stderr)
            return 1
    print(f"episodes and {LOG_FILE} are in {directory}")
    return code


if __name__ == "__main__":
    sys.exit(main())
