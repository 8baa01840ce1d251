"""Allow one graph of a user in each namespace of a ROS domain on this machine.

Two executors would both move the arm, and two recorders would both record it. Graphs of other users
and of other machines are not noticed.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sf_bringup.arguments import GraphError


@contextmanager
def only_graph(words: Sequence[str], namespace: str) -> Iterator[None]:
    """Hold this user's lock file for a graph in the current ROS domain.

    The lock ends with the process, also after a kill.

    Args:
        words: command line of this graph, shown to the user who starts a second one.
        namespace: of its nodes; empty: the root namespace.

    Raises:
        GraphError: another graph holds the lock.

    """
    handle = _opened(namespace)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GraphError(_taken(handle)) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()}: {' '.join(words)}".encode(), 0)
        yield
    finally:
        os.close(handle)


def refuse_second_graph(namespace: str) -> None:
    """Refuse to continue while this user runs a graph in the current ROS domain on this machine.

    Raises:
        GraphError: one runs; the message gives its process id and command line.
    """
    with only_graph((), namespace):
        pass


def _opened(namespace: str) -> int:
    folder = Path(tempfile.gettempdir(), f"sf_graphs-{os.getuid()}")
    try:
        folder.mkdir(exist_ok=True)
        return os.open(
            folder / "_".join(("domain", _domain(), *namespace.strip("/").split("/"))),
            os.O_RDWR | os.O_CREAT,
            0o600,
        )
    except OSError as error:
        raise GraphError(
            f"{folder}: cannot be written ({error.strerror}); set TMPDIR to a folder that can"
        ) from None


def _domain() -> str:
    return os.environ.get("ROS_DOMAIN_ID", "0") or "0"


def _taken(handle: int) -> str:
    holder = os.pread(handle, 1000, 0).decode(errors="replace").strip() or "another process"
    return (
        f"a graph runs in ROS domain {_domain()} already ({holder}); stop it, give another"
        " namespace:=, or set another ROS_DOMAIN_ID"
    )
