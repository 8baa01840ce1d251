"""Split episodes into training and validation sets. Frames of one episode are similar, so an
episode is never in both.

The content of an episode decides where it belongs: a new name, or other episodes beside it, move
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def split_episodes(
    identities: Sequence[str], validation: float = 0.1, purpose: str = "validation"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted indices of the training and the validation episodes.

    Each identity has a fixed number in [0, 1), and those below ``validation`` are held out. So the
    number of held-out episodes varies by chance: of N it is ``validation * N`` with a deviation of
    ``sqrt(validation * (1 - validation) * N)``. A smaller share is a subset of a larger one.

    Args:
        identities: of at least one episode, the SHA-256 of its bag; copies are in the same part.
        validation: share of the validation episodes in [0, 1). Above 0, at least one of two or more
            episodes is held out: if chance chooses none, that with the lowest number. At least one
            is trained on.
        purpose: another one gives another split.

    Raises:
        ValueError: there is no episode, or ``validation`` is out of range.
    """
    _check(len(identities), validation)
    numbers = _numbers(identities, purpose)
    is_held_out = numbers < validation
    if validation > 0 and len(numbers) > 1:
        if not is_held_out.any():
            is_held_out[numbers.argmin()] = True
        if is_held_out.all():
            is_held_out[numbers.argmax()] = False
    elif len(numbers) == 1:
        is_held_out[:] = False
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def split_by_order(count: int, validation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the split of older versions, which drew episodes by their place in the sorted folders.

    It is needed for checkpoints that list no held-out episodes. Return and errors are those of
    :func:`split_episodes`.

    Args:
        count: number of episodes.
    """
    _check(count, validation)
    held_out = min(count - 1, max(1, round(count * validation))) if validation > 0 else 0
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def share_of(episodes: np.ndarray, identities: Sequence[str], share: float) -> np.ndarray:
    """Choose a random share of some episodes, at least one.

    Args:
        episodes: sorted indices (N,) into ``identities``.
        identities: as for :func:`split_episodes`.
        share: in (0, 1]. A smaller share is a subset of a larger one.

    Returns:
        Sorted indices (max(1, round(share * N)),).
    """
    numbers = _numbers([identities[index] for index in episodes], "share")
    order = np.argsort(numbers, kind="stable")
    return np.sort(episodes[order[: max(1, round(share * len(episodes)))]])


def trained_folders(settings: Mapping[str, Any]) -> list[str]:
    """Return the folders of episodes in the settings of a training run; older runs name one."""
    data = settings.get("data") or ()
    return [data] if isinstance(data, str) else [str(each) for each in data]


def _numbers(identities: Sequence[str], purpose: str) -> np.ndarray:
    """Return a number in [0, 1) for each identity."""
    digests = [hashlib.sha256(f"{purpose} {each}".encode()).digest() for each in identities]
    return np.array([int.from_bytes(each[:6], "big") / 2**48 for each in digests])


def _check(count: int, validation: float) -> None:
    if count < 1 or not 0.0 <= validation < 1.0:
        raise ValueError(
            f"split: {count} episodes with a validation share of {validation}; give at least 1"
            " episode and a share in [0, 1)"
        )
