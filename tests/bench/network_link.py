"""Emulate a network link with delay, jitter and loss between two namespaces, without ``netem``.

Each namespace gets a TAP device; this process forwards Ethernet frames between them. It needs root
(CAP_NET_ADMIN) and ``ip``. It does not need the kernel module ``sch_netem``, which containers and
small kernels lack.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_CLONE_NEWNET = 0x40000000
_FRAME_BYTES = 2048
_IDLE_S = 0.5


@dataclass(frozen=True)
class Condition:
    """What the link does to each frame, in each direction.

    ``delay_s`` is one way and the same for all frames. ``jitter_s`` adds a uniform delay in [0,
    jitter_s] and may reorder frames. ``loss`` is the share of lost frames; ``is_cut`` loses all of
    them.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    is_cut: bool = False


class Link:
    """Forward frames in a thread; ``condition`` may be assigned at any time."""

    def __init__(self, ends: tuple[int, int], seed: int = 0) -> None:
        self.condition = Condition()
        self.carried = self.lost = self.bytes = 0
        self._ends, self._dice = ends, random.Random(seed)
        self._order = count()
        self._runs = True
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the forwarding thread."""
        self._runs = False
        self._thread.join()

    def _carry(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []  # due, order, end, frame
        while self._runs:
            pause = max(waiting[0][0] - time.monotonic(), 0.0) if waiting else _IDLE_S
            for end in select.select(self._ends, [], [], min(pause, _IDLE_S))[0]:
                self._take(end, waiting)
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, end, frame = heapq.heappop(waiting)
                os.write(end, frame)

    def _take(self, end: int, waiting: list) -> None:
        frame, condition = os.read(end, _FRAME_BYTES), self.condition
        if condition.is_cut or self._dice.random() < condition.loss:
            self.lost += 1
            return
        self.carried += 1
        self.bytes += len(frame)
        due = time.monotonic() + condition.delay_s + condition.jitter_s * self._dice.random()
        other = self._ends[1] if end == self._ends[0] else self._ends[0]
        heapq.heappush(waiting, (due, next(self._order), other, frame))


@contextmanager
def two_hosts(first: str, second: str) -> Iterator[Link]:
    """Make two network namespaces with the addresses 10.77.0.1 and 10.77.0.2, and a link.

    ``ip netns exec NAME command`` starts a program in one of them.

    Raises:
        PermissionError: this process is not root.
    """
    if os.geteuid() != 0:
        raise PermissionError("network namespaces need root; run this as root, or in a container")
    ends, made = [], []
    try:
        for number, name in enumerate((first, second), start=1):
            _ip("netns", "add", name)
            made.append(name)
            ends.append(_tap(name))
            inside = ("-n", name)
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "addr", "add", f"10.77.0.{number}/24", "dev", "host")
            _ip(*inside, "link", "set", "host", "up")
            _ip(*inside, "route", "add", "224.0.0.0/4", "dev", "host")
        link = Link((ends[0], ends[1]))
        try:
            yield link
        finally:
            link.close()
    finally:
        for end in ends:
            os.close(end)
        for name in made:  # remove namespaces of another run
            _ip("netns", "del", name)


def enter(namespace: str) -> None:
    """Move the calling thread into a network namespace, with every descriptor that it opens later.

    Raises:
        OSError: there is no such namespace, or this process may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}", "rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _tap(namespace: str) -> int:
    """Return the descriptor of a TAP device ``host`` inside the namespace.

    A separate thread enters the namespace; the descriptor remains bound to it.
    """
    found: list[int] = []

    def open_inside() -> None:
        enter(namespace)
        end = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", b"host", _IFF_TAP | _IFF_NO_PI))
        found.append(end)

    thread = threading.Thread(target=open_inside)
    thread.start()
    thread.join()
    if not found:
        raise OSError(f"no TAP device in {namespace}; load the kernel module tun")
    return found[0]
