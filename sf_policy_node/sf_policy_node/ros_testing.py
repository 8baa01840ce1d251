"""Isolate each test in its own ROS 2 domain, apart from other tests, demos and arms.

The conftest.py of every test folder imports the fixture. Use `ros_domain` in each test that
starts nodes; nodes in this process and in its children then talk in that domain, on this host only.
"""

import fcntl
import logging
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_S = 300.0  # wall time limit of a condition or a process: reached only by a hang
# Above 100 the ports of a domain overlap the kernel's ephemeral ports.
DOMAINS = range(1, 101)
FIRST_PORT, PORTS_PER_DOMAIN = 7400, 250


def domains_in_use() -> set[int]:
    """Return the domains for which a program on this host has an open UDP port."""
    ports: set[int] = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        with open(table, encoding="ascii") as lines:
            ports.update(int(line.split()[1].rpartition(":")[2], 16) for line in list(lines)[1:])
    return {(port - FIRST_PORT) // PORTS_PER_DOMAIN for port in ports}


@contextmanager
def free_domain() -> Iterator[int]:
    """Reserve an unused domain until the context ends.

    A locked file marks the domain; the lock ends with its process, also after a kill.
    """
    folder = Path(tempfile.gettempdir(), f"sf_ros_domains-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    in_use = domains_in_use()
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        if domain in in_use:
            continue
        with open(folder / str(domain), "w", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    raise RuntimeError(
        f"All ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use: stop some tests first."
    )


@contextmanager
def log_records(name: str) -> Iterator[list[logging.LogRecord]]:
    """Yield the records that a logger receives in this context.

    The fixture caplog receives none where launch_testing, a plugin of pytest, is installed: loggers
    of `launch` do not propagate.
    """
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Handler()
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return the ROS_DOMAIN_ID of this test.

    The environment has it, with discovery limited to this host.
    """
    with free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield domain
