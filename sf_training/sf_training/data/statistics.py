"""Compute mean, standard deviation and quantiles of state and action columns, for ``stats``.

The ``statistics.json`` of a checkpoint is another file: ``sf_policy_node.vla.normalisation``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STD_FLOOR = 1e-3  # rad or m: the noise of a joint that did not move must not be amplified


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of N columns, (N,) each.

    Attributes:
        std: at least :data:`STD_FLOOR`.
        q01, q99: quantiles at 1 % and 99 %.
        dead: the standard deviation was below :data:`STD_FLOOR`.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray
    q99: np.ndarray
    dead: np.ndarray

    @classmethod
    def from_values(cls, values: np.ndarray, names: Sequence[str]) -> ColumnStatistics:
        """Compute the statistics of (..., N) values.

        Raises:
            ValueError: there are no values, a value is not finite, or the number of columns is not
                that of the names.
        """
        columns = np.asarray(values, np.float64)
        if columns.ndim < 1 or columns.shape[-1] != len(names) or not columns.size:
            raise ValueError(
                f"statistics: got shape {columns.shape} for the columns {', '.join(names)}"
            )
        columns = columns.reshape(-1, len(names))
        bad = ~np.isfinite(columns).all(axis=0)
        if bad.any():
            raise ValueError(
                f"statistics: column {names[int(np.argmax(bad))]} holds values that are not finite;"
                " check its episodes"
            )
        std = columns.std(axis=0)
        q01, q99 = np.quantile(columns, [0.01, 0.99], axis=0)
        return cls(
            tuple(names),
            columns.mean(axis=0),
            np.maximum(std, STD_FLOOR),
            q01,
            q99,
            std < STD_FLOOR,
        )

    def to_json(self) -> str:
        """Return the statistics as JSON, without loss."""
        return json.dumps(
            {key: value if key == "names" else value.tolist() for key, value in vars(self).items()},
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> ColumnStatistics:
        """Read the statistics from JSON.

        Raises:
            ValueError: the text is not JSON, a key is missing, or the lengths differ.
        """
        try:
            data = json.loads(text)
            arrays = {
                key: np.array(data[key], bool if key == "dead" else float)
                for key in ("mean", "std", "q01", "q99", "dead")
            }
            names = tuple(data["names"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"statistics: {error} is missing or of the wrong type; write the file again from"
                " the data"
            ) from None
        if any(array.shape != (len(names),) for array in arrays.values()):
            raise ValueError(
                f"statistics: every entry needs {len(names)} values ({', '.join(names)}); write the"
                " file again from the data"
            )
        return cls(names, **arrays)
