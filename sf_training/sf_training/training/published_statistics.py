"""Statistics published with weights, as :class:`Normalisation`.

| layout | file | columns of |
|---|---|---|
| openpi | ``norm_stats.json`` (beside the weights or in ``assets/*/``) | ``state``, ``actions`` |
| LeRobot | ``policy_preprocessor_*normalizer*.safetensors`` | ``observation.state``, ``action`` |
| OpenVLA-OFT | ``dataset_statistics.json`` | ``proprio``, ``action``; mask False: unchanged |
| this package | ``statistics.json`` | ``state``, ``action`` |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from sf_policy_node.vla.normalisation import Columns, Normalisation, Spread

_FLOOR = 1e-6  # openpi's
_FILES = (
    "norm_stats.json",
    "assets/**/norm_stats.json",
    "dataset_statistics.json",
    "policy_preprocessor*normalizer*.safetensors",
    "statistics.json",
)


class StatisticsError(ValueError):
    """Statistics are missing, damaged or of other columns; the message names the file."""


def read_statistics(
    path: Path, spread: Spread, state_size: int, action_size: int, dataset: str = ""
) -> tuple[Normalisation, Path]:
    """Return the statistics in a file or directory, and the file that holds them.

    Args:
        spread: which of the published values are used.
        state_size: columns of the contract's state.
        action_size: columns of the contract's action.
        dataset: name in ``dataset_statistics.json``, or of a folder in ``assets``, where there are
            several.

    Raises:
        StatisticsError: there are none, several, or of other columns.
    """
    file = _file(path, dataset)
    try:
        if file.name == "statistics.json":
            found = Normalisation.from_json(file.read_text())
        else:
            state, action = _parts(file, dataset)
            found = Normalisation(
                _columns(state, spread, file),
                _columns(action, spread, file),
                Columns(np.zeros(0), np.ones(0)),
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, StatisticsError):
            raise
        raise StatisticsError(f"{file}: cannot be read ({error!r}); copy it again") from None
    for name, columns, size in (
        ("state", found.state, state_size),
        ("action", found.action, action_size),
    ):
        if len(columns.mean) != size:
            raise StatisticsError(
                f"{file}: {name} has {len(columns.mean)} columns, the contract {size}: the weights"
                " are of another robot; fine-tune them on your own episodes with"
                " `python3 -m sf_training train --student.weights`, which makes statistics of its"
                " own"
            )
    return found, file


def _file(path: Path, dataset: str) -> Path:
    if path.is_file():
        return path
    for pattern in _FILES:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            found = [each for each in found if each.parent.name == dataset] or found
        if len(found) > 1:
            names = ", ".join(each.parent.name for each in found)
            raise StatisticsError(f"{path}: statistics of {names}; choose one with --dataset")
        if found:
            return found[0]
    raise StatisticsError(
        f"{path}: no statistics ({', '.join(_FILES)}); give the file with --statistics"
    )


def _parts(file: Path, dataset: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if file.suffix == ".safetensors":
        values = load_file(file)
        state, action = (
            {
                name.removeprefix(f"{part}."): value
                for name, value in values.items()
                if name.startswith(f"{part}.")
            }
            for part in ("observation.state", "action")
        )
        return state, action
    values = json.loads(file.read_text())
    if "norm_stats" in values or "actions" in values:
        values = values.get("norm_stats", values)
        return values["state"], values["actions"]
    if dataset not in values and len(values) != 1:
        raise StatisticsError(f"{file}: holds {', '.join(values)}; choose one with --dataset")
    chosen = values[dataset if dataset in values else next(iter(values))]
    # OFT clips what it normalises (BOUNDS_Q99).
    state, action = ({**chosen[part], "clipped": True} for part in ("proprio", "action"))
    return state, action


def _columns(values: Mapping[str, Any], spread: Spread, file: Path) -> Columns:
    names = ("q01", "q99") if spread == "quantiles" else ("mean", "std")
    if not all(name in values for name in names):
        other = "deviation" if spread == "quantiles" else "quantiles"
        raise StatisticsError(
            f"{file}: holds no {names[0]} and {names[1]}; give --normalisation {other}"
        )
    first, second = (np.asarray(values[name], float).ravel() for name in names)
    clipped = spread == "quantiles" and bool(values.get("clipped", False))
    if spread == "quantiles":
        first, second = (first + second) / 2, (second - first) / 2
    mask = np.asarray(values.get("mask", np.ones(len(first), bool)), bool)
    centre, scale = np.where(mask, first, 0.0), np.where(mask, np.maximum(second, _FLOOR), 1.0)
    return Columns(centre, scale, clipped)
