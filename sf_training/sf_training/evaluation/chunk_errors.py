"""Errors of predicted chunks against recorded actions, by episode, with intervals over episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.vla.policy import Policy
from sf_training.evaluation.recorded_episode import (
    RecordedEpisode,
    correct_choices,
    keep_moving,
    predicted_chunks,
    stay,
)

POLICY, STAY, KEEP_MOVING = "policy", "stay", "keep moving"
BASELINES = (STAY, KEEP_MOVING)
_DRAWS, _TOGETHER = 2000, 100  # of the bootstrap


@dataclass(frozen=True)
class EpisodeErrors:
    """Mean absolute errors of one episode.

    Attributes:
        checksum: of the bag.
        frames, labels: number of observations, and of recorded chunks.
        digest: of the labels; errors against other labels must not be compared.
        errors: predictor (policy or baseline) to errors (H, A) of H steps and A columns, mean over
            the episode's labels [units of the contract].
        correct, choices: number of correct predictions, and of ambiguous labels; see
            :func:`correct_choices`.
    """

    name: str
    checksum: str
    instruction: str
    outcome: str
    frames: int
    labels: int
    digest: str
    errors: dict[str, np.ndarray]
    correct: int = 0
    choices: int = 0

    def to_dict(self) -> dict:
        """Return values for JSON."""
        return asdict(self) | {
            "errors": {name: np.round(values, 9).tolist() for name, values in self.errors.items()}
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> EpisodeErrors:
        """Read :meth:`to_dict`.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or of the wrong type.
        """
        errors = {name: np.array(values, float) for name, values in data["errors"].items()}
        if any(values.ndim != 2 or not np.isfinite(values).all() for values in errors.values()):
            raise ValueError("errors must be a table of numbers")
        values = {**data, "errors": errors}
        if "right" in values:  # the name of ``correct`` in results of before 2026-12
            values["correct"] = values.pop("right")
        return cls(**values)


@dataclass(frozen=True)
class Unit:
    """Unit in which a column is displayed: ``factor`` times the contract's unit is ``shown``."""

    name: str
    shown: str
    factor: float


_UNITS = {
    "m": Unit("m", "mm", 1000.0),
    "rad": Unit("rad", "deg", float(np.degrees(1.0))),
    "opening": Unit("opening", "% open", 100.0),
}


def units(contract: Contract) -> list[Unit]:
    """Return the unit of each action column."""
    return [
        _UNITS["opening" if column.kind is ColumnKind.GRIPPER else column.unit]
        for column in contract.columns.action
    ]


def episode_errors(
    policy: Policy, episode: RecordedEpisode, batch: int
) -> tuple[EpisodeErrors, np.ndarray]:
    """Return the errors on one episode, and the policy's chunks (L, H, A) for its L labels.

    Args:
        batch: number of observations that the policy predicts at once.
    """
    contract = policy.contract
    chunks = predicted_chunks(policy, episode, batch)
    predictions = {
        POLICY: chunks,
        STAY: stay(contract, episode),
        KEEP_MOVING: keep_moving(contract, episode),
    }
    errors = {
        name: np.abs(values - episode.targets).mean(0) for name, values in predictions.items()
    }
    correct, choices = correct_choices(contract, episode, chunks)
    found = EpisodeErrors(
        name=episode.name,
        checksum=episode.checksum,
        instruction=episode.instruction,
        outcome=episode.outcome,
        frames=len(episode.stamps),
        labels=len(episode.frame),
        digest=episode.digest,
        errors=errors,
        correct=correct,
        choices=choices,
    )
    return found, chunks


def overall(episodes: Sequence[EpisodeErrors], predictor: str) -> np.ndarray:
    """Return the mean error (H, A) over all labels of all episodes."""
    return np.average(
        [each.errors[predictor] for each in episodes],
        axis=0,
        weights=[each.labels for each in episodes],
    )


def interval(
    episodes: Sequence[EpisodeErrors], values: Sequence[np.ndarray], seed: int = 0
) -> np.ndarray | None:
    """Return the 95 % interval (2, ...) of a mean over labels; None for a single episode.

    Bootstrap over episodes (Efron 1979), because labels of one episode are not independent.

    Args:
        values: one value (...) for each episode, the mean over its labels.
    """
    if len(episodes) < 2:
        return None
    stacked, label_counts = np.stack(values), np.array([each.labels for each in episodes], float)
    rng, count = np.random.default_rng(seed), len(stacked)
    means = []
    for _ in range(_DRAWS // _TOGETHER):
        # How often each episode is drawn, times its number of labels.
        drawn = rng.multinomial(count, np.full(count, 1 / count), _TOGETHER) * label_counts
        means.append(np.tensordot(drawn / drawn.sum(1, keepdims=True), stacked, 1))
    return np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)


def mean_by_unit(contract: Contract, table: np.ndarray) -> dict[str, float]:
    """Return unit to mean error, over steps and over the columns of that unit, of errors (H, A)."""
    names = [unit.name for unit in units(contract)]
    return {
        name: float(table[:, [each == name for each in names]].mean())
        for name in dict.fromkeys(names)
    }
