"""A ROS 2 domain for each test, so that no test hears another one, a demo or another arm.

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

PATIENCE_S = (
    300.0  # wall time to wait for a condition or a process: reached only where something hangs
)
# Above 100 the ports of a domain reach those that the kernel hands out to other programs.
DOMAINS = range(1, 101)
FIRST_PORT, PORTS_PER_DOMAIN = 7400, 250


def domains_in_use() -> set[int]:
    """Domains for which some program on this host has a UDP port open."""
    ports = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        with open(table, encoding="ascii") as lines:
            ports.update(int(line.split()[1].rpartition(":")[2], 16) for line in list(lines)[1:])
    return {(port - FIRST_PORT) // PORTS_PER_DOMAIN for port in ports}


@contextmanager
def free_domain() -> Iterator[int]:
    """Holds a domain that no other test and no other program uses, until the context ends.

    A locked file marks the domain: the lock goes with its process, so a killed test leaves nothing
    behind.
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
    """Yield the records that a logger takes meanwhile.

    The fixture caplog receives none where launch_testing, a plugin of pytest, is installed: loggers
    of `launch` do not propagate.
    """
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The ROS_DOMAIN_ID of this test, set in the environment together with discovery on this host
    only.
    """
    with free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield domain
