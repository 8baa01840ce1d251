"""Split episodes into training and validation sets. Frames of one episode are similar, so an
episode is never in both.
"""

from __future__ import annotations

import numpy as np


def split_episodes(
    count: int, validation: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted indices of the training and the validation episodes.

    Args:
        count: number of episodes, at least 1.
        validation: share of the validation episodes in [0, 1). Above 0, at least one of two or more
            episodes is held out.
        seed: the same seed gives the same split.

    Raises:
        ValueError: ``count`` or ``validation`` is out of range.
    """
    if count < 1 or not 0.0 <= validation < 1.0:
        raise ValueError(
            f"split: {count} episodes with a validation share of {validation}; give at least 1"
            " episode and a share in [0, 1)"
        )
    held_out = min(count - 1, max(1, round(count * validation))) if validation > 0 else 0
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def share_of(episodes: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Choose a random share of some episodes, at least one.

    Args:
        episodes: sorted indices (N,).
        share: in (0, 1]. With one seed, a smaller share is a subset of a larger one.

    Returns:
        Sorted indices (max(1, round(share * N)),).
    """
    order = np.random.default_rng(seed).permutation(len(episodes))
    return np.sort(episodes[order[: max(1, round(share * len(episodes)))]])
