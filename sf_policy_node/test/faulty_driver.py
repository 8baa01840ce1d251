"""A faulty driver: droop, lag, noise, quantisation, wrong, wrapped, lost and late joint states.

Rarely its stamps drift, or a second publisher reports the same joints.
"""

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
        self._rare = RareFaults(rng, joints)

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
        return self._rare(stamp, true, velocity, self._readings(stamp, true, velocity))

    def _readings(self, stamp: float, true: np.ndarray, velocity: np.ndarray) -> list[tuple]:
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


class RareFaults:
    """Adds faults that few drivers have: drifting stamps, and other publishers of the same joints.

    They are drawn from a generator of their own, seeded by the state of the driver's generator:
    other draws of a seed are the same with and without them.

    Args:
        share: of drivers with each of these faults.
    """

    def __init__(self, rng: np.random.Generator, joints: int, share: float = 0.06) -> None:
        self._rng = own = np.random.default_rng(rng.bit_generator.state["state"]["state"])
        sign = own.choice([-1.0, 1.0])
        # s per s; a driver whose clock is corrected once a second starts again at 0
        drifts = own.random() < share
        self.drift = sign * float(own.choice([1e-4, 5e-3, 0.05])) if drifts else 0.0
        self._corrected_s = float(own.choice([1.0, np.inf]))
        self._ahead, self._last_stamp = 0.0, -np.inf
        count = int(own.choice([1, 2])) if own.random() < share else 0
        self.others = [self._draw_publisher(joints) for _ in range(count)]
        self._past: deque[tuple] = deque(maxlen=16)
        self._start: np.ndarray | None = None  # where a publisher froze

    def _draw_publisher(self, joints: int) -> tuple:
        """Return how another publisher differs: kind, delay in readings, displacement, share."""
        kind = self._rng.choice(["copy", "late", "beside", "frozen", "unfinished"])
        beside = self._rng.normal(0.0, 0.02, joints)
        return kind, int(self._rng.integers(1, 8)), beside, float(self._rng.choice([0.1, 0.5, 1.0]))

    def __call__(
        self, stamp: float, true: np.ndarray, velocity: np.ndarray, readings: list[tuple]
    ) -> list[tuple]:
        """Return the ``readings`` of the driver with drifting stamps, and those of the others."""
        if not self.drift and not self.others:
            return readings
        elapsed = stamp - self._last_stamp
        self._last_stamp = stamp
        if 0.0 < elapsed < 0.1:
            self._ahead += self.drift * elapsed
        if abs(self._ahead) > abs(self.drift) * self._corrected_s:
            self._ahead = 0.0
        self._past.append((stamp, true.copy(), velocity.copy()))
        out = [(at + self._ahead, *rest) for at, *rest in readings]
        for other in self.others:
            reading = self._other(*other)
            if reading is not None:  # before or after that of the driver
                out.insert(int(self._rng.integers(0, len(out) + 1)), reading)
        return out

    def _other(self, kind: str, delay: int, beside: np.ndarray, share: float) -> tuple | None:
        if self._rng.random() >= share:
            return None
        stamp, true, velocity = self._past[-1]
        if kind == "late":
            return self._past[max(0, len(self._past) - 1 - delay)]
        if kind == "beside":
            return stamp, true + beside, velocity
        if kind == "frozen":  # an old driver that still publishes where it was started
            self._start = true.copy() if self._start is None else self._start
            return stamp, self._start, 0.0 * velocity
        if kind == "unfinished":
            return stamp, np.where(beside > 0.0, true, np.nan), velocity
        return stamp, true.copy(), velocity
