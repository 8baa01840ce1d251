"""Evaluation results in one JSON file, and the confidence interval of a rate."""

from __future__ import annotations

import json
import math
from pathlib import Path


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval (lower, upper) of a rate (Wilson 1927); 95 % for z = 1.96.

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) with p = successes / n.
    Without any trial (n = 0) it is (0, 1).
    """
    if n == 0:
        return 0.0, 1.0
    rate, spread = successes / n, z * z / n
    centre = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def merge_summary(path: Path, entries: dict) -> None:
    """Write entries into a JSON file, keeping its other entries.

    A file that is missing or not JSON counts as empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    path.write_text(json.dumps({**known, **entries}, indent=1) + "\n")
