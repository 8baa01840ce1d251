"""Tests of the link between two namespaces (delay, loss) and of the figures (holds)."""

import os
import shutil
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from bench.network_link import Condition, enter, two_hosts
from bench.two_hosts import figures

FIRST, SECOND = f"sf_test_a{os.getpid()}", f"sf_test_b{os.getpid()}"
TIMEOUT_S = 30.0
can_make_hosts = os.geteuid() == 0 and Path("/dev/net/tun").exists() and shutil.which("ip")


def socket_in(namespace: str) -> socket.socket:
    """Return a UDP socket in a network namespace."""
    found = []

    def make() -> None:
        enter(namespace)
        found.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.skipif(not can_make_hosts, reason="network namespaces need root and /dev/net/tun")
def test_the_link_delays_and_loses():
    with (
        two_hosts(FIRST, SECOND) as link,
        closing(socket_in(FIRST)) as first,
        closing(socket_in(SECOND)) as second,
    ):
        second.bind(("10.77.0.2", 5555))
        first.settimeout(TIMEOUT_S)
        second.settimeout(TIMEOUT_S)
        first.sendto(b"resolve addresses", ("10.77.0.2", 5555))
        second.recv(100)
        link.condition = Condition(delay_s=0.05)
        begin = time.monotonic()
        first.sendto(b"there", ("10.77.0.2", 5555))
        data, sender = second.recvfrom(100)
        second.sendto(data + b" and back", sender)
        assert first.recv(100) == b"there and back"
        assert time.monotonic() - begin >= 0.1
        link.condition, lost = Condition(is_cut=True), link.lost
        first.sendto(b"lost", ("10.77.0.2", 5555))
        end = time.monotonic() + TIMEOUT_S
        while link.lost == lost and time.monotonic() < end:
            threading.Event().wait(0.01)
        link.condition = Condition()
        first.sendto(b"after", ("10.77.0.2", 5555))
        assert second.recv(100) == b"after"


def test_figures_count_chunks_and_holds_of_one_condition():
    states = ["EXECUTING", "EXECUTING", "HOLDING", "HOLDING", "EXECUTING", "HOLDING"]
    events = [
        {
            "at": 10.0 + n,
            "simulated_s": 5.0 + 0.5 * n,
            "kind": "status",
            "state": state,
            "refused": n,
        }
        for n, state in enumerate(states)
    ]
    events += [
        {"at": 10.5 + n, "simulated_s": 5.25, "kind": "chunk", "age_s": 0.1} for n in range(3)
    ]
    events += [{"at": 99.0, "simulated_s": 50.0, "kind": "chunk", "age_s": 7.0}]
    found = figures(events, 10.0, 16.0)
    assert found["holds"] == 2 and found["refused"] == 5
    assert found["real_time_factor"] == pytest.approx(2.5 / 6.0)
    assert found["chunks_per_simulated_s"] == pytest.approx(3 / 2.5)
    assert found["executing_share"] == pytest.approx(0.5)
    assert found["age_p95_ms"] == pytest.approx(100.0)
