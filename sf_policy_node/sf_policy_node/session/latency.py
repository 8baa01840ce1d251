"""Compute percentiles of the last measured durations."""

from __future__ import annotations

from collections import deque

import numpy as np


class Latencies:
    """Store the last ``window`` durations [s]."""

    def __init__(self, window: int = 1000) -> None:
        self._values: deque[float] = deque(maxlen=window)

    def add(self, seconds: float) -> None:
        """Add a duration [s]."""
        self._values.append(seconds)

    def percentiles(self) -> tuple[float, float, float]:
        """Return p50, p95 and p99 [s]; zeros before the first."""
        if not self._values:
            return 0.0, 0.0, 0.0
        p50, p95, p99 = np.percentile(self._values, (50, 95, 99))
        return float(p50), float(p95), float(p99)
