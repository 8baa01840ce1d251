"""Exact distances of shapes along a motion, and how densely the motion is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import coal
import numpy as np

_MOST_SAMPLES = 400  # of a refined motion


def refine(positions: np.ndarray, steps_wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put samples between ``positions`` (N, J), ``steps_wanted`` (N - 1,) for each interval.

    Returns all samples, and the index in ``positions`` of each: in between, that of the next one.
    """
    parts = np.maximum(1, np.ceil(steps_wanted)).astype(int)
    if parts.sum() > _MOST_SAMPLES:
        parts = np.maximum(1, parts * _MOST_SAMPLES // parts.sum())
    steps = np.repeat(np.arange(len(parts)), parts)
    share = np.concatenate([np.arange(1, n + 1) / n for n in parts])[:, None]
    between = positions[steps] + share * (positions[steps + 1] - positions[steps])
    return np.vstack([positions[:1], between]), np.append(0, steps + 1)


class ExactDistances:
    """Distances by coal, of pairs at samples; a clear pair is left alone until it may have met."""

    def __init__(
        self,
        functions: Sequence[coal.ComputeDistance],
        pairs: np.ndarray,
        turns: np.ndarray,
        places: np.ndarray,
        moved: np.ndarray,
    ) -> None:
        self._functions, self._pairs = functions, pairs
        self._turns, self._places = turns, places
        self._travelled = np.cumsum(moved, axis=0)
        self._clear: dict[int, tuple[float, int]] = {}  # pair: room left, and at which sample
        self._request, self._result = coal.DistanceRequest(), coal.DistanceResult()
        self._request.enable_signed_distance = True

    def at(self, sample: int, pair: int) -> float:
        """Return the distance of a pair [m], negative where the shapes overlap."""
        i, j = self._pairs[pair]
        self._result.clear()
        first = coal.Transform3s(self._turns[sample, i], self._places[sample, i])
        second = coal.Transform3s(self._turns[sample, j], self._places[sample, j])
        return self._functions[pair](first, second, self._request, self._result)

    def unless_clear(self, sample: int, pair: int, margin: float) -> float | None:
        """Return the distance; ``None`` where the last one still keeps the pair beyond margin."""
        i, j = self._pairs[pair]
        if pair in self._clear:
            room, then = self._clear[pair]
            travelled = self._travelled[sample] - self._travelled[then]
            if travelled[i] + travelled[j] < room:
                return None
        distance = self.at(sample, pair)
        self._clear[pair] = (distance - margin, sample)
        return distance
