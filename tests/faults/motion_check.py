"""Judges the true motion of the simulated arm against the limits of its contract. Knows nothing of the suite's own reckoning.

Limits are broken when the true motion exceeds them by more than the simulated servo does by itself. That was measured on
``ArmSim`` (seeds as named), and one tolerance per quantity set from it:

====================  =====================================================  ==============================================
quantity              commanded bang-bang motion at the full limits,         tolerance
                      each joint alone and all together (42 runs);
                      picks of the shipped policy (14, seeds 970000..13)
====================  =====================================================  ==============================================
position              0.003 rad past the commanded end                       0.005 rad past the limit
velocity              1.04 of the limit; picks 0.97                          1.06 of the limit
acceleration, 20 ms   1.15 of the limit; picks 1.20 (a finger touches)       1.30 of the limit
tool, box             picks: 2.5 mm from where the setpoints have it;        4 mm outside the box
                      the executor itself allows 1 mm
tool speed, 20 ms     1.02 of the commanded one                              1.05 of the limit
====================  =====================================================  ==============================================

The gripper is stopped by what it grips, and its fingers give way: its speed and acceleration are those that its
controller wanted, its position is the true one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.limits import JointLimits
from sf_training.simulation.motion_trace import Motion

POSITION, VELOCITY, ACCELERATION, BOX, TOOL_SPEED = 0.005, 1.06, 1.30, 0.004, 1.05
WINDOW = 4  # steps over which accelerations and the tool's speed are taken
REST = 0.02  # share of a joint's speed limit below which it stands
_HOLE_S = 1e-4


@dataclass
class Violation:
    """The worst of one kind: ``value`` against ``limit`` (tolerance not included) at ``time`` [s], seen in ``steps`` physics steps."""

    quantity: str
    what: str
    value: float
    limit: float
    time: float
    steps: int = 1

    def __str__(self) -> str:
        return f"{self.quantity} of {self.what}: {self.value:.4g}, limit {self.limit:.4g}"


class MotionCheck:
    """Takes the motion piece by piece; calls must not overlap."""

    def __init__(self, contract: Contract) -> None:
        self._limits = JointLimits.of(contract)
        self._arm = len(contract.joints)
        workspace = contract.workspace
        self._lower, self._upper = np.array(workspace.lower), np.array(workspace.upper)
        self._tool_speed = workspace.tool_speed or np.inf
        self._tail: Motion | None = None
        self._worst: dict[tuple[str, str], tuple[float, Violation]] = {}
        self.time = 0.0
        """Of the newest step [s]."""
        self.speed = 0.0
        """Share of its speed limit at which the quickest arm joint moved in the newest step."""
        self.moved_at = 0.0
        """The newest step in which a joint did not stand [s]: since then the arm is at rest."""
        self.steps = 0
        """Steps judged since :meth:`begin`."""

    @property
    def violations(self) -> list[Violation]:
        """The worst of every kind since :meth:`begin`."""
        return [violation for _, violation in self._worst.values()]

    def begin(self) -> None:
        """Forget the violations so far."""
        self._worst, self.steps = {}, 0

    def add(self, motion: Motion, step_s: float, *, follows_on: bool = True) -> None:
        """Judge N more steps, ``step_s`` [s] apart; ``follows_on`` is False when a reset moved the arm before them."""
        count, before = len(motion.positions), self._tail
        if before is not None and follows_on:
            hole = motion.time - (count - 1) * step_s - before.time - step_s
            if abs(hole) > _HOLE_S:
                self._note("hole", "the truth", np.array([abs(hole)]), 0.0, np.array([motion.time]), _HOLE_S)
                before = None
        joined = motion if before is None or not follows_on else _join(before, motion)
        times = joined.time - step_s * np.arange(len(joined.positions))[::-1]
        self._check(joined, times, step_s, new=count)
        self._tail = Motion(joined.time, *(part[-WINDOW - 1 :] for part in _parts(joined)))  # for windows that reach back
        self.time, self.steps = motion.time, self.steps + count
        shares = np.abs(motion.velocities) / self._limits.velocity
        self.speed = float(shares[-1, : self._arm].max())
        moving = np.flatnonzero((shares >= REST).any(axis=1))
        if len(moving):
            self.moved_at = float(times[-count:][moving[-1]])

    def _check(self, motion: Motion, times: np.ndarray, step_s: float, new: int) -> None:
        limits, arm, names = self._limits, self._arm, self._limits.names
        velocities = motion.velocities.copy()
        wanted = np.diff(motion.setpoints[:, arm:], axis=0) / step_s
        velocities[:, arm:] = np.vstack([wanted[:1], wanted]) if len(wanted) else 0.0
        fresh = slice(-new, None)
        for index, name in enumerate(names):
            below, above = limits.lower[index] - motion.positions[fresh, index], motion.positions[fresh, index] - limits.upper[index]
            self._note("position", name, np.maximum(below, above), 0.0, times[fresh], POSITION)
            speed, top = np.abs(velocities[fresh, index]), limits.velocity[index]
            self._note("velocity", name, speed, top, times[fresh], (VELOCITY - 1) * top)
        outside = np.maximum(self._lower - motion.tool[fresh], motion.tool[fresh] - self._upper).max(axis=1)
        self._note("workspace", "the tool", outside, 0.0, times[fresh], BOX)
        if len(times) > WINDOW:
            span = WINDOW * step_s
            accelerations = np.abs(velocities[WINDOW:] - velocities[:-WINDOW]) / span
            for index, name in enumerate(names):
                top = limits.acceleration[index]
                self._note("acceleration", name, accelerations[-new:, index], top, times[WINDOW:][-new:], (ACCELERATION - 1) * top)
            speed = np.linalg.norm(motion.tool[WINDOW:] - motion.tool[:-WINDOW], axis=1) / span
            self._note("speed", "the tool", speed[-new:], self._tool_speed, times[WINDOW:][-new:], (TOOL_SPEED - 1) * self._tool_speed)

    def _note(self, quantity: str, what: str, values: np.ndarray, limit: float, times: np.ndarray, tolerance: float) -> None:
        excess = values - limit - tolerance
        steps = int((excess > 0).sum())
        if not steps:
            return
        worst = int(excess.argmax())
        found = Violation(quantity, what, float(values[worst]), float(limit), float(times[worst]), steps)
        known = self._worst.get((quantity, what))
        if known is not None:
            found.steps += known[1].steps
            if known[0] >= excess[worst]:
                known[1].steps = found.steps
                return
        self._worst[quantity, what] = (float(excess[worst]), found)


def as_dicts(violations: list[Violation]) -> list[dict]:
    """For JSON."""
    return [{key: round(value, 5) if isinstance(value, float) else value for key, value in asdict(each).items()} for each in violations]


def _parts(motion: Motion) -> tuple[np.ndarray, ...]:
    return motion.positions, motion.velocities, motion.setpoints, motion.tool


def _join(before: Motion, after: Motion) -> Motion:
    return Motion(after.time, *(np.vstack(pair) for pair in zip(_parts(before), _parts(after), strict=True)))
