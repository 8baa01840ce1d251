"""Read the graph of a journey from the executable ``graph``, for launch files.

The launch files run under the Python of ``ros2``, so only the standard library and ROS are imported
here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ament_index_python.packages import get_package_prefix

from sf_bringup.arguments import NAMESPACE_VARIABLE, GraphError
from sf_bringup.journeys import CHECKS_SECOND_START

_GRAPH_S = 120.0  # on a busy machine


def read_graph(journey: str, values: dict[str, str]) -> dict:
    """Return what ``ros2 run sf_bringup graph`` prints, and forward its warnings to stderr.

    Args:
        journey: a key of :data:`sf_bringup.journeys.JOURNEYS`.
        values: arguments of the journey by name, as text.

    Raises:
        GraphError: the graph refuses the arguments, or the executable cannot run.
    """
    executable = Path(get_package_prefix("sf_bringup"), "lib", "sf_bringup", "graph")
    words = [f"{name}:={value}" for name, value in values.items()]
    try:
        done = subprocess.run(
            [str(executable), journey, *words],
            capture_output=True,
            text=True,
            timeout=_GRAPH_S,
            # The executable also refuses when these nodes already run in the ROS domain. The
            # launch file has resolved ROS_NAMESPACE.
            env={**os.environ, CHECKS_SECOND_START: "1", NAMESPACE_VARIABLE: ""},
        )
    except FileNotFoundError:
        raise GraphError(
            f"{executable} or its interpreter does not exist; build the workspace with colcon"
        ) from None
    except subprocess.TimeoutExpired:
        raise GraphError(
            f"{executable} did not end within {_GRAPH_S:g} s; run it by hand to see what it waits"
            " for"
        ) from None
    *warnings, last = done.stderr.strip().splitlines() or [""]
    if done.returncode:
        message = last or f"{executable} ended with exit code {done.returncode}"
        raise GraphError(message.removeprefix("graph: "))
    for line in (*warnings, last):
        if line:
            print(line, file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])
