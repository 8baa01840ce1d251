"""Whether a checkpoint is worse than an earlier one, by tolerances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.evaluation.chunk_errors import (
    BASELINES,
    POLICY,
    EpisodeErrors,
    Unit,
    interval,
    mean_by_unit,
    overall,
    units,
)


@dataclass(frozen=True)
class Tolerances:
    """Limits of the growth of an error; growth counts only above both share and floor.

    Attributes:
        column: share, for the mean over all episodes.
        episode: share, for one episode.
        floors: unit to growth that never counts [m, rad, opening].
    """

    column: float
    episode: float
    floors: dict[str, float]

    def worse(self, now: float, before: float, unit: str, share: float) -> bool:
        """Return whether ``now`` is worse than ``before``."""
        return bool(now - before > max(share * before, self.floors[unit]))


@dataclass(frozen=True)
class ColumnChange:
    """Error of one action column over all episodes, in the contract's unit.

    Attributes:
        change_95: 95 % interval of now - before, paired by episode; None for one episode or without
            a baseline.
    """

    name: str
    unit: Unit
    now: float
    before: float
    change_95: tuple[float, float] | None
    worse: bool


@dataclass(frozen=True)
class EpisodeChange:
    """Mean error of one episode by unit; ``worse`` names units."""

    name: str
    instruction: str
    labels: int
    now: dict[str, float]
    before: dict[str, float]
    worse: tuple[str, ...]

    @property
    def growth(self) -> float:
        """Largest ratio of the error now to the error before; for sorting."""
        return max(self.now[unit] / max(self.before[unit], 1e-9) for unit in self.now)


@dataclass(frozen=True)
class Comparison:
    """Changes between two checkpoints.

    Attributes:
        regressions: one sentence for each; empty without any.
        left_out: number of episodes without counterpart in the baseline.
    """

    columns: tuple[ColumnChange, ...]
    episodes: tuple[EpisodeChange, ...]
    regressions: tuple[str, ...]
    left_out: int


def compare(
    contract: Contract,
    now: Sequence[EpisodeErrors],
    before: Sequence[EpisodeErrors] | None,
    tolerances: Tolerances,
) -> Comparison:
    """Compare errors with those of an earlier checkpoint, or with the better model-free baseline.

    Args:
        before: errors of an earlier checkpoint, in which episodes may be missing; None compares
            with the baselines.
    """
    if before is None:
        return _beside_no_model(contract, now, tolerances)
    earlier = {each.checksum: each for each in before}
    pairs = [(each, earlier[each.checksum]) for each in now if each.checksum in earlier]
    compared, other = [one for one, _ in pairs], [two for _, two in pairs]
    after, ahead = overall(compared, POLICY).mean(0), overall(other, POLICY).mean(0)
    bounds = interval(
        compared, [one.errors[POLICY].mean(0) - two.errors[POLICY].mean(0) for one, two in pairs]
    )
    columns = []
    for index, (name, unit) in enumerate(zip(contract.action.names, units(contract), strict=True)):
        change = None if bounds is None else (float(bounds[0, index]), float(bounds[1, index]))
        worse = tolerances.worse(after[index], ahead[index], unit.name, tolerances.column)
        columns.append(
            ColumnChange(name, unit, float(after[index]), float(ahead[index]), change, worse)
        )
    episodes = [
        _episode(contract, one, mean_by_unit(contract, two.errors[POLICY]), tolerances)
        for one, two in pairs
    ]
    sentences = [_column_sentence(each, tolerances) for each in columns if each.worse]
    sentences += [_episode_sentence(contract, each, tolerances) for each in episodes if each.worse]
    return Comparison(tuple(columns), tuple(episodes), tuple(sentences), len(now) - len(pairs))


def _beside_no_model(
    contract: Contract, now: Sequence[EpisodeErrors], tolerances: Tolerances
) -> Comparison:
    mine = overall(now, POLICY).mean(0)
    others = np.array([overall(now, name).mean(0) for name in BASELINES])
    columns = []
    for index, (name, unit) in enumerate(zip(contract.action.names, units(contract), strict=True)):
        best = float(others[:, index].min())
        columns.append(
            ColumnChange(
                name,
                unit,
                float(mine[index]),
                best,
                None,
                tolerances.worse(mine[index], best, unit.name, 0.0),
            )
        )
    episodes = []
    for each in now:
        tables = [mean_by_unit(contract, each.errors[name]) for name in BASELINES]
        least = {unit: min(table[unit] for table in tables) for unit in tables[0]}
        entry = _episode(contract, each, least, tolerances)
        episodes.append(
            EpisodeChange(entry.name, entry.instruction, entry.labels, entry.now, entry.before, ())
        )
    sentences = [
        f"column {each.name}: error {_shown(each.now, each.unit)}, and"
        f" {_shown(each.before, each.unit)} without any model"
        for each in columns
        if each.worse
    ]
    return Comparison(tuple(columns), tuple(episodes), tuple(sentences), 0)


def _episode(
    contract: Contract, now: EpisodeErrors, before: dict[str, float], tolerances: Tolerances
) -> EpisodeChange:
    mine = mean_by_unit(contract, now.errors[POLICY])
    worse = tuple(
        unit
        for unit in mine
        if tolerances.worse(mine[unit], before[unit], unit, tolerances.episode)
    )
    return EpisodeChange(now.name, now.instruction, now.labels, mine, before, worse)


def _column_sentence(change: ColumnChange, tolerances: Tolerances) -> str:
    chance = ""
    if change.change_95 is not None and change.change_95[0] <= 0:
        chance = "; within the spread over episodes this may be chance: evaluate on more episodes"
    return (
        f"column {change.name}: error {_shown(change.before, change.unit)} ->"
        f" {_shown(change.now, change.unit)} ({change.now / max(change.before, 1e-9) - 1:+.0%},"
        f" tolerance {tolerances.column:.0%}){chance}"
    )


def _episode_sentence(contract: Contract, change: EpisodeChange, tolerances: Tolerances) -> str:
    of_name = {unit.name: unit for unit in units(contract)}
    parts = [
        f"{_shown(change.before[unit], of_name[unit])} -> {_shown(change.now[unit], of_name[unit])}"
        for unit in change.worse
    ]
    return (
        f"episode {change.name} ({change.instruction!r}): error {', '.join(parts)} (tolerance"
        f" {tolerances.episode:.0%})"
    )


def _shown(value: float, unit: Unit) -> str:
    return f"{value * unit.factor:.2f} {unit.shown}"
