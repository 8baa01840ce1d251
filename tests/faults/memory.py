"""Sample, judge and plot the memory of running processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import psutil

SAMPLE_S = 10.0
BASELINE_S = 120.0  # caches fill and allocators settle before
_EDGE = 6  # samples of the first and of the last median


class MemoryWatch:
    """Sample the resident memory of processes in a separate thread until :meth:`close`.

    Args:
        pids: called for every sample; returns process ids by name.
    """

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids
        self._begin = time.monotonic()
        self._closing = threading.Event()
        self.samples: dict[str, list[tuple[float, float]]] = {}
        """By process: seconds since the start, megabytes."""
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop sampling."""
        self._closing.set()
        self._thread.join()

    def growth(self) -> dict[str, dict[str, float]]:
        """Return the memory growth of each process.

        Each entry holds the median of the first and of the last minute after the baseline [MB], and
        the growth [%].
        """
        report = {}
        for name, samples in sorted(self.samples.items()):
            settled = [megabytes for at, megabytes in samples if at >= BASELINE_S]
            if settled:
                first, last = float(np.median(settled[:_EDGE])), float(np.median(settled[-_EDGE:]))
                report[name] = {
                    "first_mb": round(first, 1),
                    "last_mb": round(last, 1),
                    "growth_percent": round(100 * (last / first - 1), 2),
                }
        return report

    def draw(self, path: Path) -> None:
        """Plot a curve for every process."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.subplots()
        for name, samples in sorted(self.samples.items()):
            at, megabytes = np.array(samples).T
            axes.plot(at / 60, megabytes, label=name)
        axes.axvline(BASELINE_S / 60, color="grey", linestyle=":", label="growth counts from here")
        axes.set(
            xlabel="minutes",
            ylabel="resident memory [MB]",
            ylim=(0, None),
            title="memory under random faults",
        )
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=5, frameon=False)
        axes.grid(alpha=0.3)
        figure.savefig(path, dpi=110)

    def _watch(self) -> None:
        while True:
            for name, pid in dict(self._pids()).items():
                try:
                    megabytes = psutil.Process(pid).memory_info().rss / 1e6
                except psutil.NoSuchProcess:
                    continue
                self.samples.setdefault(name, []).append(
                    (time.monotonic() - self._begin, megabytes)
                )
            if self._closing.wait(SAMPLE_S):
                return
