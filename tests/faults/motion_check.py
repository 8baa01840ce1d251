"""Check the true motion of the simulated arm against the limits of its contract.

The check uses no code or estimate of the suite.

A limit is broken when the true motion exceeds it by more than the simulated servo does by itself.
The tolerances follow from measurements on ``ArmSim``. "bang-bang": commanded at the full limits,
each joint alone and all together, 42 runs; "picks": the shipped policy, seeds 970000 to 970013.

=======================  ================================================  =======================
quantity                 measured                                          tolerance
=======================  ================================================  =======================
position                 bang-bang: 0.003 rad past the commanded end       0.005 rad past limit
velocity                 bang-bang: 1.04 of the limit; picks: 0.97         1.06 of the limit
acceleration, 20 ms      bang-bang: 1.15 of the limit; picks: 1.20; where  2.0 of the limit
                         a finger touches something: up to 1.74
tool, workspace box      picks: 2.5 mm from the tool of the setpoints;     4 mm outside the box
                         the executor itself allows 1 mm
tool speed, 20 ms        picks: 1.075 of the commanded one                 1.08 of the limit
commanded velocity,      picks: 0.98 of the limit                          1.05 of the limit
acceleration, speed
=======================  ================================================  =======================

"Commanded" is the setpoint of the arm's controller at every step, part of the ground truth. It is
always checked. The true velocity, acceleration and tool speed are not checked within 50 ms of a
contact, because nothing commands the motion of an arm that slips off an object. A contact is a
joint further than 0.008 rad from its setpoint (picks: 0.005), or a gripper further than 4 mm from
its own (bang-bang: 2.5 mm), because it holds an object. Lighter contacts are in the tolerance of
the acceleration. A setpoint that jumps still breaks a commanded limit. Of the gripper only the
command is checked. Position and box are always checked.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.simulation.motion_trace import Motion

POSITION, BOX = 0.005, 0.004  # rad, m
VELOCITY, ACCELERATION, TOOL_SPEED, COMMANDED = 1.06, 2.0, 1.08, 1.05  # relative to the limit
PUSHED, GRIPPING = 0.008, 0.004  # distance from the setpoint, rad, m
PUSHED_STEPS = 10  # steps before and after
WINDOW = 4  # steps over which accelerations and the tool's speed are taken
REST = 0.02  # share of a joint's speed limit below which it is stationary
_GAP_S = 1e-4


@dataclass
class Violation:
    """The worst violation of one kind.

    ``value`` against ``limit`` (tolerance not included) at ``time`` [s], in ``steps`` physics
    steps.
    """

    quantity: str
    what: str
    value: float
    limit: float
    time: float
    steps: int = 1

    def __str__(self) -> str:
        return f"{self.quantity} of {self.what}: {self.value:.4g}, limit {self.limit:.4g}"


class MotionCheck:
    """Check motion that arrives in parts, ``PUSHED_STEPS`` late; calls must not overlap."""

    def __init__(self, contract: Contract) -> None:
        self._limits, self._kinematics = JointLimits.of(contract), Kinematics(contract)
        self._arm = len(contract.joints)
        workspace = contract.workspace
        self._lower, self._upper = np.array(workspace.lower), np.array(workspace.upper)
        self._tool_speed = workspace.tool_speed or np.inf
        self._recent: Motion | None = None  # motion not judged yet, and the steps before it
        self._waiting = 0  # number of steps at its end that are not judged yet
        self._worst: dict[tuple[str, str], tuple[float, Violation]] = {}
        self.time = 0.0
        """Of the newest step [s]."""
        self.speed = 0.0
        """Share of its speed limit at which the quickest arm joint moved in the newest step."""
        self.moved_at = 0.0
        """The newest step in which a joint did not stand [s]: since then the arm is at rest."""
        self.steps = 0
        """Steps taken in since :meth:`begin`."""

    @property
    def violations(self) -> list[Violation]:
        """Return the worst violation of every kind since :meth:`begin`."""
        return [violation for _, violation in self._worst.values()]

    @property
    def worst(self) -> dict[tuple[str, str], tuple[float, Violation]]:
        """Return a copy of the violations, for :meth:`begin`."""
        return dict(self._worst)

    def begin(self, worst: dict[tuple[str, str], tuple[float, Violation]] | None = None) -> None:
        """Clear the violations, or return to an earlier :attr:`worst`."""
        self._worst, self.steps = dict(worst or {}), 0

    def add(self, motion: Motion, step_s: float, *, follows_on: bool = True) -> None:
        """Add N steps, ``step_s`` [s] apart.

        ``follows_on`` is False when a reset moved the arm before them.
        """
        before, count = self._recent, len(motion.positions)
        if before is not None and follows_on:
            gap = abs(motion.time - count * step_s - before.time)
            if gap > _GAP_S:
                self._note(
                    "gap", "the truth", np.array([gap]), 0.0, np.array([motion.time]), _GAP_S
                )
                follows_on = False
        if before is not None and not follows_on:
            self._judge(before, step_s, self._waiting, 0)
            before, self._waiting = None, 0
        recent = motion if before is None else _join(before, motion)
        waiting = self._waiting + count
        self._waiting = min(PUSHED_STEPS, waiting)
        self._judge(recent, step_s, waiting, self._waiting)
        self._recent = _last(recent, self._waiting + PUSHED_STEPS + WINDOW + 1)
        self.time, self.steps = motion.time, self.steps + count
        shares = np.abs(motion.velocities) / self._limits.velocity
        self.speed = float(shares[-1, : self._arm].max())
        moving = np.flatnonzero((shares >= REST).any(axis=1))
        if len(moving):
            self.moved_at = motion.time - step_s * float(count - 1 - moving[-1])

    def _judge(self, motion: Motion, step_s: float, first: int, last: int) -> None:
        """Check the steps from ``first`` to ``last``, both counted from the end."""
        total = len(motion.positions)
        part = slice(total - first, total - last)
        if first == last:
            return
        limits, arm = self._limits, self._arm
        times = motion.time - step_s * np.arange(total)[::-1]
        wanted = _rate(motion.setpoints, 1, step_s)
        commanded, reached = _rate(wanted, WINDOW, step_s), _rate(motion.velocities, WINDOW, step_s)
        free = self._free(motion)[part]
        for joint, name in enumerate(limits.names):
            position = (motion.positions if joint < arm else motion.setpoints)[part, joint]
            outside = np.maximum(limits.lower[joint] - position, position - limits.upper[joint])
            self._note("position", name, outside, 0.0, times[part], POSITION)
            top, most = limits.velocity[joint], limits.acceleration[joint]
            self._note(
                "commanded velocity",
                name,
                np.abs(wanted[part, joint]),
                top,
                times[part],
                share=COMMANDED,
            )
            self._note(
                "commanded acceleration",
                name,
                np.abs(commanded[part, joint]),
                most,
                times[part],
                share=COMMANDED,
            )
            if joint < arm:
                self._note(
                    "velocity",
                    name,
                    free * np.abs(motion.velocities[part, joint]),
                    top,
                    times[part],
                    share=VELOCITY,
                )
                self._note(
                    "acceleration",
                    name,
                    free * np.abs(reached[part, joint]),
                    most,
                    times[part],
                    share=ACCELERATION,
                )
        outside = np.maximum(self._lower - motion.tool[part], motion.tool[part] - self._upper).max(
            axis=1
        )
        self._note("workspace", "the tool", outside, 0.0, times[part], BOX)
        speed = np.linalg.norm(_rate(motion.tool, WINDOW, step_s), axis=1)[part]
        self._note(
            "speed", "the tool", free * speed, self._tool_speed, times[part], share=TOOL_SPEED
        )
        positions = np.array(
            [self._kinematics.forward(joints[:arm]).position for joints in motion.setpoints]
        )
        speed = np.linalg.norm(_rate(positions, WINDOW, step_s), axis=1)[part]
        self._note(
            "commanded speed", "the tool", speed, self._tool_speed, times[part], share=COMMANDED
        )

    def _free(self, motion: Motion) -> np.ndarray:
        lag = np.abs(motion.positions - motion.setpoints)
        touching = (lag[:, : self._arm] > PUSHED).any(axis=1) | (
            lag[:, self._arm :] > GRIPPING
        ).any(axis=1)
        near = (
            np.convolve(touching, np.ones(2 * PUSHED_STEPS + 1), mode="full")[
                PUSHED_STEPS:-PUSHED_STEPS
            ]
            > 0
        )
        return ~near

    def _note(
        self,
        quantity: str,
        what: str,
        values: np.ndarray,
        limit: float,
        times: np.ndarray,
        tolerance: float = 0.0,
        share: float = 1.0,
    ) -> None:
        excess = values - share * limit - tolerance
        steps = int((excess > 0).sum())
        if not steps:
            return
        worst = int(excess.argmax())
        found = Violation(
            quantity, what, float(values[worst]), float(limit), float(times[worst]), steps
        )
        known = self._worst.get((quantity, what))
        if known is not None:
            found.steps += known[1].steps
            if known[0] >= excess[worst]:
                known[1].steps = found.steps
                return
        self._worst[quantity, what] = (float(excess[worst]), found)


def as_dicts(violations: list[Violation]) -> list[dict]:
    """Return violations as dictionaries for JSON."""
    return [
        {
            key: round(value, 5) if isinstance(value, float) else value
            for key, value in asdict(each).items()
        }
        for each in violations
    ]


def _rate(values: np.ndarray, steps: int, step_s: float) -> np.ndarray:
    """Return the change (N, K) per second over ``steps`` steps; 0 where there are fewer."""
    rate = np.zeros_like(values)
    rate[steps:] = (values[steps:] - values[:-steps]) / (steps * step_s)
    if steps == 1 and len(values) > 1:
        rate[0] = rate[1]
    return rate


def _parts(motion: Motion) -> tuple[np.ndarray, ...]:
    return motion.positions, motion.velocities, motion.setpoints, motion.tool


def _join(before: Motion, after: Motion) -> Motion:
    return Motion(
        after.time, *(np.vstack(pair) for pair in zip(_parts(before), _parts(after), strict=True))
    )


def _last(motion: Motion, count: int) -> Motion:
    return Motion(motion.time, *(part[-count:] for part in _parts(motion)))
