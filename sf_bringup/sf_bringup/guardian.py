"""Stop the nodes of a graph whose starter was killed: by SIGKILL, the out-of-memory killer or a
crash.

``up`` starts ``python3 -m sf_bringup.guardian PID GRAPH`` beside the nodes. The guardian waits
until ``up`` has ended, then stops every process that still has the mark of the graph in its
environment: with SIGINT, so that a recorder completes its episode and an executor stops the arm,
then SIGTERM, then SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

MARK = "SF_GRAPH"  # environment variable of every node of a graph
STARTER = "SF_STARTER"  # environment variable: the graph stops when this process id ends
STOPPING = (
    (signal.SIGINT, 8.0),
    (signal.SIGTERM, 4.0),
    (signal.SIGKILL, 4.0),
)  # signal, seconds until the next one
_POLL_S = 0.1


def wait_for_parent(pid: int) -> None:
    """Block until the parent process has ended.

    Args:
        pid: process id of the parent that started this process. If the parent is another one by
            now, return at once.
    """
    if os.getppid() != pid:
        return
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if os.getppid() == pid:  # else the parent has ended, and its id may have been reused
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll()
    finally:
        os.close(handle)


def when_starter_ends(act: Callable[[], None]) -> None:
    """Call ``act`` in a thread once the process named by ``SF_STARTER``, the parent, has ended.
    Without that variable, do nothing.
    """
    pid = os.environ.pop(STARTER, "")
    if not pid.isdecimal():
        return

    def watch() -> None:
        wait_for_parent(int(pid))
        act()

    threading.Thread(target=watch, name="starter watch", daemon=True).start()


def start_guardian(graph: str) -> subprocess.Popen:
    """Start the guardian of a graph in its own session, so that signals of a terminal miss it.

    Args:
        graph: value of :data:`MARK` in the environment of the graph's nodes.
    """
    command = [sys.executable, "-m", "sf_bringup.guardian", str(os.getpid()), graph]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
    )


def processes_of(graph: str) -> list[int]:
    """List the living processes that carry a graph's mark in their environment."""
    mark = f"{MARK}={graph}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):  # ended meanwhile, or of another user
                running = b") Z " not in (folder / "stat").read_bytes()
                if running and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def stop(graph: str) -> None:
    """Stop all processes of a graph with the signals of :data:`STOPPING`."""
    for number, patience in STOPPING:
        until = time.monotonic() + patience
        signalled: set[int] = set()
        while left := processes_of(graph):
            for pid in set(left) - signalled:
                signalled.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if time.monotonic() > until:
                break
            time.sleep(_POLL_S)
        if not left:
            return


def main() -> int:
    """Wait for the parent's end, then stop the remaining processes of its graph."""
    pid, graph = int(sys.argv[1]), sys.argv[2]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wait_for_parent(pid)
    stop(graph)
    return 0


if __name__ == "__main__":
    sys.exit(main())
