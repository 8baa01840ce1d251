"""Normalisation of states, actions and text.

A centre and a scale for each column, saved with the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

_FLOOR = 1e-3  # an idle joint has no spread; without a floor its noise would be amplified
_QUANTILES = (0.01, 0.99)
Spread = Literal["deviation", "quantiles"]
"""deviation: mean and standard deviation. quantiles: the 1 % and 99 % quantiles map to -1 and 1,
values beyond are clipped.
"""


@dataclass(frozen=True)
class Columns:
    """Mean and standard deviation (N,) of N columns, or centre and half width of their quantiles.

    With ``clipped``, normalised values are clipped to -1 and 1, as OpenVLA-OFT's BOUNDS_Q99 does.
    """

    mean: np.ndarray
    std: np.ndarray
    clipped: bool = False

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Map (..., N) to zero mean and unit spread, float32."""
        scaled = (values - self.mean) / self.std
        return (np.clip(scaled, -1.0, 1.0) if self.clipped else scaled).astype(np.float32)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Undo :meth:`normalise` (without the clipping), float64."""
        return values.astype(np.float64) * self.std + self.mean


@dataclass(frozen=True)
class Normalisation:
    """Statistics of robot state, action columns and sentence embeddings."""

    state: Columns
    action: Columns
    text: Columns

    @classmethod
    def from_data(
        cls,
        states: np.ndarray,
        chunks: np.ndarray,
        text: np.ndarray,
        grippers: Sequence[int] | np.ndarray,
        spread: Spread = "deviation",
    ) -> Normalisation:
        """Compute the statistics of states (F, N), chunks (L, H, A) and sentence embeddings (T, E).

        Args:
            grippers: indices of the action columns from 0 (closed) to 1 (open); they map to -1 and
                1.
            spread: of states and actions.
        """
        action = _columns(chunks.reshape(-1, chunks.shape[-1]), spread)
        if len(grippers):  # two-valued: maps to -1 and 1, whatever their share
            action.mean[grippers] = action.std[grippers] = 0.5
        return cls(_columns(states, spread), action, _columns(text))

    def to_json(self) -> str:
        """Return the content of ``statistics.json``."""
        return json.dumps({part: _plain(columns) for part, columns in vars(self).items()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Normalisation:
        """Read :meth:`to_json`.

        Raises:
            KeyError: a part is missing.
            ValueError: a value is not finite, or a standard deviation is not above zero.
        """
        parts = json.loads(text)
        columns = {
            part: Columns(
                np.asarray(parts[part]["mean"], float),
                np.asarray(parts[part]["std"], float),
                bool(parts[part].get("clipped", False)),
            )
            for part in ("state", "action", "text")
        }
        for part, column in columns.items():
            if (
                column.mean.shape != column.std.shape
                or not np.isfinite([*column.mean, *column.std]).all()
                or (column.std <= 0).any()
            ):
                raise ValueError(
                    f"{part}: mean and std must be finite, of one length, and std above zero"
                )
        return cls(**columns)


def _plain(columns: Columns) -> dict[str, object]:
    plain: dict[str, object] = {"mean": columns.mean.tolist(), "std": columns.std.tolist()}
    return plain | {"clipped": True} if columns.clipped else plain


def _columns(values: np.ndarray, spread: Spread = "deviation") -> Columns:
    values = values.astype(np.float64)
    if spread == "quantiles":
        low, high = np.quantile(values, _QUANTILES, axis=0)
        return Columns((low + high) / 2, np.maximum((high - low) / 2, _FLOOR), clipped=True)
    return Columns(values.mean(0), np.maximum(values.std(0), _FLOOR))
