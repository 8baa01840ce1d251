"""Shuts a node down when the ``ros2 run`` or ``ros2 launch`` that started it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


def end_with_starter() -> bool:
    """Request SIGINT from the kernel when the parent process ends, if that is a ``ros2`` command.

    Returns whether it is. ``ros2 run`` does not forward SIGTERM, and a killed ``ros2 launch``
    forwards no signal. The node would continue to command an arm that no operator can stop. A node
    that a shell or systemd starts outlives its parent as usual.
    """
    parent = os.getppid()
    if not _is_ros2_command(parent):
        return False
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:  # the parent ended before the request
        os.kill(os.getpid(), signal.SIGINT)
    return True


def _is_ros2_command(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # `ros2 ...` or `python3 /opt/ros/.../ros2 ...`
    return any(Path(os.fsdecode(word)).name == "ros2" for word in words[:3])
