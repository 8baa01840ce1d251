"""Start the teleoperation journey: ``ros2 run sf_bringup teleop teleop:=spacemouse``; does the same
as ``launch/teleop.launch.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sf_bringup.arguments import TELEOP_ARGUMENTS
from sf_bringup.graph import teleop_graph
from sf_bringup.up import start


def main(words: Sequence[str] | None = None) -> int:
    """Start the graph; return the exit code."""
    return start(words, "teleop", TELEOP_ARGUMENTS, teleop_graph)


if __name__ == "__main__":
    sys.exit(main())
