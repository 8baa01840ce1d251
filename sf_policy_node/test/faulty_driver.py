"""A faulty driver: droop, lag, noise, quantisation, wrong, wrapped, lost and late joint states."""

from __future__ import annotations

from collections import deque

import numpy as np

ARM = 6


class FaultyDriver:
    """Converts true joints (J,) to the joint states of a faulty driver; see ``Bench.driver``.

    ``rng`` draws which faults the driver has, how large they are, and when they occur.
    """

    def __init__(self, rng: np.random.Generator, joints: int) -> None:
        self._rng, self._joints = rng, joints

        def maybe(share: float, value):
            return value if rng.random() < share else np.zeros_like(value)

        self._droop = maybe(
            0.5,
            np.append(
                np.clip(rng.normal(0.0, 0.05, ARM), -0.04, 0.04),
                rng.uniform(0.0, 0.02, joints - ARM),
            ),
        )
        self._lag = int(maybe(0.4, np.array(rng.integers(1, 12))))
        self._noise = float(maybe(0.5, np.array(rng.choice([1e-4, 2e-3, 1e-2]))))
        self._grid = float(maybe(0.3, np.array(rng.choice([1e-3, 5e-3]))))
        self._wrap_at = rng.uniform(-0.5, 1.5) if rng.random() < 0.15 else None
        self._single = float(maybe(0.4, np.array(0.01)))
        self._burst = float(maybe(0.5, np.array(0.004)))
        self._drop = float(maybe(0.4, np.array(0.01)))
        self._late = float(maybe(0.3, np.array(0.02)))
        self._velocity = rng.choice(["true", "nan", "zero", "noise"])
        self._past: deque[np.ndarray] = deque(maxlen=16)
        self._wrong: np.ndarray | None = None
        self._wrong_left = self._lost_left = 0
        self._held: tuple | None = None

    def _wrong_by(self, true: np.ndarray) -> np.ndarray:
        kind = self._rng.choice(["zeros", "one", "all", "far", "turn"])
        measured = true.copy()
        joint = self._rng.integers(0, self._joints)
        if kind == "zeros":
            measured = np.zeros_like(true)
        elif kind == "one":
            measured[joint] += self._rng.choice([-1.0, 1.0]) * self._rng.uniform(0.05, 1.5)
        elif kind == "all":
            measured += self._rng.choice([-1.0, 1.0])
        elif kind == "turn":
            measured[joint] += 2.0 * np.pi * self._rng.choice([-1.0, 1.0])
        else:
            measured = self._rng.uniform(-3.0, 3.0, len(true))
        return measured - true

    def __call__(self, stamp: float, true: np.ndarray, velocity: np.ndarray) -> list[tuple]:
        rng = self._rng
        self._past.append(true.copy())
        measured = self._past[max(0, len(self._past) - 1 - self._lag)] + self._droop
        if self._wrong_left:
            self._wrong_left -= 1
            measured = measured + self._wrong
        elif rng.random() < self._single:
            measured = measured + self._wrong_by(true)
        elif rng.random() < self._burst:
            self._wrong, self._wrong_left = (
                self._wrong_by(true),
                int(rng.choice([1, 2, 5, 20, 100])),
            )
        if self._wrap_at is not None and measured[0] > self._wrap_at:
            measured[0] -= 2.0 * np.pi
        measured = measured + self._noise * rng.normal(size=len(measured))
        if self._grid:
            measured = np.round(measured / self._grid) * self._grid
        speed = {
            "true": velocity,
            "nan": np.full_like(velocity, np.nan),
            "zero": 0.0 * velocity,
        }.get(self._velocity)
        if speed is None:
            speed = rng.normal(0.0, 0.3, len(velocity))
        if self._lost_left:
            self._lost_left -= 1
            return []
        if rng.random() < self._drop:
            self._lost_left = int(rng.choice([1, 3, 10, 40]))
            return []
        reading, out = (stamp, measured, speed), []
        if rng.random() < self._late and self._held is None:
            self._held = reading
            return []
        out.append(reading)
        if self._held is not None:
            out.append(self._held)  # overtaken by the next one
            self._held = None
        return out
