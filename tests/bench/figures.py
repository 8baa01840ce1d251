"""Where figures are collected: each with its unit, over how many samples it was taken, and how."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from sf_training.simulation.evaluate import wilson


class Figures:
    """Collects ``{name: {value, unit, n, note}}``."""

    def __init__(self) -> None:
        self.entries: dict[str, dict] = {}

    def add(self, name: str, value: float, unit: str, n: int, note: str = "", **more) -> None:
        """One figure; ``more`` goes beside it into the file."""
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
        """Percentiles of samples, one figure each; 100 is called max."""
        for percent in percents:
            self.add(
                f"{name}_{'max' if percent == 100 else f'p{percent}'}",
                np.percentile(samples, percent),
                unit,
                len(samples),
                note,
            )

    def rate(self, name: str, successes: int, n: int, note: str = "") -> None:
        """A share of successes with its interval of 95 % (Wilson)."""
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
        """For a terminal."""
        rows = [
            (name, f"{entry['value']:g}", entry["unit"], str(entry["n"]), entry["note"])
            for name, entry in self.entries.items()
        ]
        table = Table(title=title)
        for column, heading in enumerate(("figure", "value", "unit", "n", "note")):
            width = (
                None if heading == "note" else max(len(row[column]) for row in rows)
            )  # notes give way on a narrow terminal
            table.add_column(heading, no_wrap=True, min_width=width)
        for row in rows:
            table.add_row(*row)
        return table
