"""Computes exact distances of shapes along a motion, and adds samples to a coarse motion."""

from __future__ import annotations

from collections.abc import Sequence

import coal
import numpy as np

_MOST_SAMPLES = 400  # of a refined motion


def refine(positions: np.ndarray, steps_wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add samples between ``positions`` (N, J), on straight lines in joint space.

    Args:
        steps_wanted: (N - 1,) into how many steps each interval is divided; rounded up, and reduced
            where there would be more than 400 in all.

    Returns:
        All samples (M, J), and for each (M,) the index in ``positions`` of itself or the next one.
    """
    counts = np.maximum(1, np.ceil(steps_wanted)).astype(int)
    if counts.sum() > _MOST_SAMPLES:
        counts = np.maximum(1, counts * _MOST_SAMPLES // counts.sum())
    intervals = np.repeat(np.arange(len(counts)), counts)
    share = np.concatenate([np.arange(1, n + 1) / n for n in counts])[:, None]
    start = positions[intervals]
    return (
        np.vstack([positions[:1], start + share * (positions[intervals + 1] - start)]),
        np.append(0, intervals + 1),
    )


class ExactDistances:
    """Computes the distances of pairs of shapes with coal.

    Args:
        functions: one for each pair.
        pairs: (P, 2) indices of shapes.
        turns, origins: (N, G, 3, 3), (N, G, 3) poses of all shapes.
        moved: (N, G) see :func:`~sf_policy_node.motion.arm.collision_bounds.displacements` [m].
    """

    def __init__(
        self,
        functions: Sequence[coal.ComputeDistance],
        pairs: np.ndarray,
        turns: np.ndarray,
        origins: np.ndarray,
        moved: np.ndarray,
    ) -> None:
        self._functions, self._pairs = functions, pairs
        self._turns, self._origins = turns, origins
        self._travelled = np.cumsum(moved, axis=0)
        # By pair: by how much its last distance was above the margin [m], and at which sample.
        self._clear: dict[int, tuple[float, int]] = {}
        self._request, self._result = coal.DistanceRequest(), coal.DistanceResult()
        self._request.enable_signed_distance = True

    def at(self, sample: int, pair: int) -> float:
        """Return the distance of a pair at a sample [m]; negative where the shapes overlap."""
        i, j = self._pairs[pair]
        self._result.clear()
        first = coal.Transform3s(self._turns[sample, i], self._origins[sample, i])
        second = coal.Transform3s(self._turns[sample, j], self._origins[sample, j])
        return self._functions[pair](first, second, self._request, self._result)

    def unless_clear(self, sample: int, pair: int, margin: float) -> float | None:
        """Return the distance of a pair at a sample [m].

        None, without computing it, if its shapes have moved too little since the last one to be
        within ``margin`` [m].
        """
        i, j = self._pairs[pair]
        if pair in self._clear:
            room, then = self._clear[pair]
            travelled = self._travelled[sample] - self._travelled[then]
            if travelled[i] + travelled[j] < room:
                return None
        distance = self.at(sample, pair)
        self._clear[pair] = (distance - margin, sample)
        return distance
