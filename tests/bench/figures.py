"""Collect figures with their unit, number of samples and method."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from sf_training.simulation.evaluate import wilson


class Figures:
    """Collect ``{name: {value, unit, n, note}}``."""

    def __init__(self) -> None:
        self.entries: dict[str, dict] = {}

    def add(self, name: str, value: float, unit: str, n: int, note: str = "", **more) -> None:
        """Add one figure; ``more`` adds entries beside it in the file."""
        self.entries[name] = {
            "value": float(f"{float(value):.5g}"),
            "unit": unit,
            "n": int(n),
            "note": note,
            **more,
        }

    def spread(
        self,
        name: str,
        samples: np.ndarray,
        unit: str,
        note: str = "",
        percents: tuple[int, ...] = (50, 95, 99),
    ) -> None:
        """Add percentiles of samples, one figure each; percentile 100 is called max."""
        for percent in percents:
            self.add(
                f"{name}_{'max' if percent == 100 else f'p{percent}'}",
                np.percentile(samples, percent),
                unit,
                len(samples),
                note,
            )

    def rate(self, name: str, successes: int, n: int, note: str = "") -> None:
        """Add a share of successes with its 95 % interval (Wilson)."""
        low, high = wilson(successes, n)
        self.add(
            name,
            successes / n,
            "share",
            n,
            f"95 %: {low:.2f} to {high:.2f}; {note}",
            interval_95=[round(low, 4), round(high, 4)],
        )

    def table(self, title: str) -> Table:
        """Return the figures as a table for a terminal."""
        rows = [
            (name, f"{entry['value']:g}", entry["unit"], str(entry["n"]), entry["note"])
            for name, entry in self.entries.items()
        ]
        table = Table(title=title)
        for column, heading in enumerate(("figure", "value", "unit", "n", "note")):
            width = (
                None if heading == "note" else max(len(row[column]) for row in rows)
            )  # notes are cut off on a narrow terminal
            table.add_column(heading, no_wrap=True, min_width=width)
        for row in rows:
            table.add_row(*row)
        return table
