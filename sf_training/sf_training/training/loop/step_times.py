"""Durations of optimiser steps, and the labels per second that follow from them."""

from __future__ import annotations

import numpy as np

WARM_UP_STEPS = 10  # left out: they load libraries, fill caches and compile kernels


class StepTimes:
    """Collects the durations of the steps of this process.

    Args:
        labels: number of labels in a step, of all processes.
    """

    def __init__(self, labels: int) -> None:
        self._labels = labels
        self._seconds: list[float] = []

    def add(self, seconds: float) -> None:
        """Add the duration of the next step [s], reading of the batch included."""
        self._seconds.append(seconds)

    @property
    def rate(self) -> float | None:
        """Labels per second over all steps after the warm-up; None before them."""
        measured = self._seconds[WARM_UP_STEPS:]
        return self._labels * len(measured) / sum(measured) if measured else None

    def summary(self) -> dict[str, float]:
        """Return the rate, the number of measured steps, and median and 95 % quantile of a step.

        Of runs without a step after the warm-up, the numbers of steps alone.
        """
        measured = self._seconds[WARM_UP_STEPS:]
        found: dict[str, float] = {"steps": len(measured), "warm_up_steps": WARM_UP_STEPS}
        if self.rate is None:
            return found
        median, slow = np.quantile(measured, [0.5, 0.95])
        return {
            "mean": round(self.rate, 2),
            **found,
            "step_s_median": round(float(median), 5),
            "step_s_95": round(float(slow), 5),
        }
