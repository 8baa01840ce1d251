"""Temporal ensembling: averages the predictions of several chunks for the same time.

Source: Zhao et al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware" (ACT),
2023, "Action Chunking and Temporal Ensemble": weight w_i = exp(-m i) of prediction i, with i = 0
for the oldest. ACT predicts a chunk at every control step. Here chunks may be further apart and
their steps may not coincide, so older chunks are interpolated at the times of the newest one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pinocchio

DECAY = 0.01  # m of the paper
_KEPT = 16  # chunks


@dataclass(frozen=True)
class TimedTargets:
    """One arm's absolute targets at R times.

    Attributes:
        due: (R,) rising times [s].
        values: (R, C) joint positions [rad or m] or tool positions [m], averaged linearly.
        rotations: (R, 3, 3) tool rotations, averaged on SO(3); None for joint targets.
    """

    due: np.ndarray
    values: np.ndarray
    rotations: np.ndarray | None = None

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Interpolate the value (C,) and the rotation (3, 3) at a time [s].

        The rotation is None for joint targets. The result is None for a time before the first or
        after the last target.
        """
        if not self.due[0] - 1e-9 <= time <= self.due[-1] + 1e-9:
            return None
        after = min(max(int(np.searchsorted(self.due, time)), 1), len(self.due) - 1)
        before = after - 1
        share = min(max((time - self.due[before]) / (self.due[after] - self.due[before]), 0.0), 1.0)
        value = self.values[before] + share * (self.values[after] - self.values[before])
        if self.rotations is None:
            return value, None
        turn = pinocchio.log3(self.rotations[before].T @ self.rotations[after])
        return value, self.rotations[before] @ pinocchio.exp3(share * turn)


class Ensemble:
    """Averages the newest chunk of one arm with the earlier chunks of the same instruction."""

    def __init__(self, decay: float = DECAY) -> None:
        self._decay = decay
        self._chunks: deque[TimedTargets] = deque(maxlen=_KEPT)

    def clear(self) -> None:
        """Forget all chunks, as when the arm has stopped or the instruction has changed."""
        self._chunks.clear()

    def add(self, predicted: TimedTargets) -> None:
        """Remember a chunk as the policy predicted it, before averaging.

        Chunks that ended before ``predicted`` begins are forgotten.
        """
        while self._chunks and self._chunks[0].due[-1] < predicted.due[0]:
            self._chunks.popleft()
        if len(predicted.due) > 1:
            self._chunks.append(predicted)

    def average(self, newest: TimedTargets) -> TimedTargets:
        """Return the newest chunk, each step averaged with the remembered chunks at its time."""
        values = newest.values.copy()
        rotations = None if newest.rotations is None else newest.rotations.copy()
        for k, time in enumerate(newest.due):
            earlier = [
                target for chunk in self._chunks if (target := chunk.at(float(time))) is not None
            ]
            if not earlier:
                continue
            weights = np.exp(-self._decay * np.arange(len(earlier) + 1))
            weights /= weights.sum()
            values[k] = weights @ np.array([*(value for value, _ in earlier), newest.values[k]])
            if rotations is not None:
                rotations[k] = mean_rotation(
                    np.array([*(rotation for _, rotation in earlier), newest.rotations[k]]), weights
                )
        return TimedTargets(newest.due, values, rotations)


class Ensembles:
    """One :class:`Ensemble` for each arm of a robot."""

    def __init__(self, arms: int) -> None:
        self._arms = tuple(Ensemble() for _ in range(arms))

    def clear(self) -> None:
        """Forget all chunks of all arms; see :meth:`Ensemble.clear`."""
        for ensemble in self._arms:
            ensemble.clear()

    def add(self, predicted: Sequence[TimedTargets]) -> None:
        """Remember a chunk, given as one :class:`TimedTargets` for each arm."""
        for ensemble, own in zip(self._arms, predicted, strict=True):
            ensemble.add(own)

    def average(self, newest: Sequence[TimedTargets]) -> tuple[TimedTargets, ...]:
        """Return the newest chunk averaged with the remembered ones, one arm after another."""
        pairs = zip(self._arms, newest, strict=True)
        return tuple(ensemble.average(own) for ensemble, own in pairs)


def mean_rotation(rotations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted Karcher mean (3, 3) of rotations on SO(3).

    Args:
        rotations: (N, 3, 3).
        weights: (N,) with sum 1.

    Iterates R <- R exp(sum_i w_i log(R^T R_i)) from the last rotation: R the mean so far, R_i and
    w_i the rotations and weights. Source: Manton, "A globally convergent numerical algorithm for
    computing the centre of mass on compact Lie groups", 2004.
    """
    mean = rotations[-1]
    for _ in range(10):
        turn = sum(
            weight * pinocchio.log3(mean.T @ rotation)
            for weight, rotation in zip(weights, rotations, strict=True)
        )
        mean = mean @ pinocchio.exp3(turn)
        if turn @ turn < 1e-16:
            break
    return mean
