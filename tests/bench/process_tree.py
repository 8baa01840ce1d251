"""Processor time and memory of this process and its children. Linux and the standard library only:
the scripts of peers import it in their own environments.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s() -> float:
    """Return the processor time of all living processes of the tree, and of ended children [s]."""
    total = 0.0
    for pid in _tree():
        try:
            text = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
        except OSError:
            continue
        total += sum(map(int, text.split()[11:15])) / _TICKS_PER_S
    return total


class PeakMemory:
    """Peak of the proportional set size of the tree in a ``with`` block: ``mb``, sampled 4 times a
    second.
    """

    def __enter__(self) -> PeakMemory:
        self.mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.is_set():
            self.mb = max(self.mb, sum(map(_pss_mb, _tree())))
            self._stop.wait(0.25)


def _tree() -> list[int]:
    found, open_ones = [], [os.getpid()]
    while open_ones:
        pid = open_ones.pop()
        found.append(pid)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                open_ones += map(int, (task / "children").read_text().split())
        except OSError:
            pass
    return found


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000
    except (OSError, StopIteration):
        return 0.0
