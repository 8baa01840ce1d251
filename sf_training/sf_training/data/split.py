"""Train and validation episodes. Frames of one episode look alike, so an episode is never in
both.
"""

from __future__ import annotations

import numpy as np


def split_episodes(
    count: int, validation: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of the train and of the validation episodes; the same for the same seed.

    Args:
        count: number of episodes, at least 1.
        validation: share from 0 to below 1; above 0, at least one episode is held out when there
            are two.

    Raises:
        ValueError: when a number is out of range.
    """
    if count < 1 or not 0.0 <= validation < 1.0:
        raise ValueError(
            f"split: needs at least 1 episode and a validation share in [0, 1), got {count} and"
            f" {validation}"
        )
    held_out = min(count - 1, max(1, round(count * validation))) if validation > 0 else 0
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def share_of(episodes: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Choose a share of some episodes, at least one; the same for the same seed, and a smaller
    share is part of a larger one.

    Args:
        episodes: sorted indices (N,).
        share: above 0, at most 1.

    Returns:
        Sorted indices (max(1, round(share * N)),).
    """
    order = np.random.default_rng(seed).permutation(len(episodes))
    return np.sort(episodes[order[: max(1, round(share * len(episodes)))]])
