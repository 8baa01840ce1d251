"""What brings states, actions and text to the model's range: a centre and a scale for each column; they travel with the checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sf_policy_node.contract import GRIPPER_COLUMN

_FLOOR = 1e-3  # an idle joint has no spread: without a floor its noise would be blown up
_QUANTILES = (0.01, 0.99)
Spread = Literal["deviation", "quantiles"]
"""deviation: mean and standard deviation. quantiles: the 1 % and 99 % quantiles become -1 and 1, whatever the few values beyond are."""


@dataclass(frozen=True)
class Columns:
    """Mean and standard deviation (N,) of N columns, or middle and half width of their quantiles."""

    mean: np.ndarray
    std: np.ndarray

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """(..., N) to zero mean and unit spread, float32."""
        return ((values - self.mean) / self.std).astype(np.float32)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """The reverse, float64."""
        return values.astype(np.float64) * self.std + self.mean


@dataclass(frozen=True)
class Normalisation:
    """For robot state, action columns and sentence embeddings."""

    state: Columns
    action: Columns
    text: Columns

    @classmethod
    def from_data(
        cls, states: np.ndarray, chunks: np.ndarray, text: np.ndarray, action_names: list[str], spread: Spread = "deviation"
    ) -> Normalisation:
        """From states (F, N), chunks (L, H, A) and sentence embeddings (T, E); ``spread`` is that of states and actions."""
        action = _columns(chunks.reshape(-1, chunks.shape[-1]), spread)
        if GRIPPER_COLUMN in action_names:  # a two-valued column: to -1 and 1, whatever its balance
            index = action_names.index(GRIPPER_COLUMN)
            action.mean[index] = action.std[index] = 0.5
        return cls(_columns(states, spread), action, _columns(text))

    def to_json(self) -> str:
        """For ``statistics.json``."""
        return json.dumps({part: {"mean": c.mean.tolist(), "std": c.std.tolist()} for part, c in vars(self).items()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Normalisation:
        """Reverse of :meth:`to_json`. Raises ValueError or KeyError when a part is missing or not finite."""
        parts = json.loads(text)
        columns = {
            part: Columns(np.asarray(parts[part]["mean"], float), np.asarray(parts[part]["std"], float))
            for part in ("state", "action", "text")
        }
        for part, column in columns.items():
            if column.mean.shape != column.std.shape or not np.isfinite([*column.mean, *column.std]).all() or (column.std <= 0).any():
                raise ValueError(f"{part}: mean and std must be finite, of one length, and std above zero")
        return cls(**columns)


def _columns(values: np.ndarray, spread: Spread = "deviation") -> Columns:
    values = values.astype(np.float64)
    if spread == "quantiles":
        low, high = np.quantile(values, _QUANTILES, axis=0)
        return Columns((low + high) / 2, np.maximum((high - low) / 2, _FLOOR))
    return Columns(values.mean(0), np.maximum(values.std(0), _FLOOR))
