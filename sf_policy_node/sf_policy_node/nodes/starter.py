"""End a node in order when the ``ros2 run`` or ``ros2 launch`` that started it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


def end_with_starter() -> bool:
    """Ask the kernel for SIGINT when the parent process ends, if that is a ``ros2`` command;
    returns whether it is.

    ``ros2 run`` passes no SIGTERM on, and a killed ``ros2 launch`` none at all: the node would go
    on commanding an arm without an operator who can stop it. A node that a shell or systemd starts
    outlives its parent as usual.
    """
    parent = os.getppid()
    if not _is_ros2_command(parent):
        return False
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), signal.SIGINT)
    return True


def _is_ros2_command(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(
        Path(os.fsdecode(word)).name == "ros2" for word in words[:3]
    )  # `ros2 ...`, `python3 /opt/ros/.../ros2 ...`
