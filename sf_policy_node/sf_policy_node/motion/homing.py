"""Moves the arms to the home pose of the contract, slowly and on a straight line of joints."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.safety.verification import Motion, find_violation

_SHARE = 0.25  # of the joints' top speed and acceleration
_LONGER, _TRIES = 1.4, 8  # the way takes longer until the tool keeps its speed limit
_ARRIVED = 1e-3  # rad or m
_STILL = 0.01  # share of the joints' top speed
_LATE_S = 2.0  # the arm may be limited on its way, and arrive later than planned


class Homing:
    """One way home: targets (J,) over time, for :meth:`ChunkExecutor.lead_home`.

    Args:
        start: commanded joints (J,) in the order of ``contract.command_joints``.
        arms: names of the arms that move; empty: all. The others and all grippers stay.
        began: time of the start [s].

    Raises:
        MotionRefused: an arm is unknown or has no home pose, or the way leaves the workspace box
            or collides.
    """

    def __init__(
        self,
        contract: Contract,
        workspace: Workspace,
        start: np.ndarray,
        arms: Collection[str],
        began: float,
    ) -> None:
        limits = JointLimits.of(contract)
        self._velocity = limits.velocity
        self._start, self._began = start.copy(), began
        self.under_way = False
        """The arm has been commanded to move."""
        self._home = _home_pose(contract, limits, start, arms)
        way = np.abs(self._home - start)
        # Peaks of the quintic below are 1.875 d / T and 5.774 d / T^2.
        self._seconds = max(
            float((1.875 * way / (_SHARE * limits.velocity)).max()),
            float(np.sqrt(5.774 * way / (_SHARE * limits.acceleration)).max()),
            0.1,
        )
        period = 1.0 / contract.rate_hz
        for _ in range(_TRIES):
            positions, velocities = self._samples(period)
            survey = workspace.survey(positions, velocities)
            if survey.first_violation is not None or not survey.is_too_fast:
                break
            self._seconds *= _LONGER
        velocities[-1] = 0.0
        if problem := find_violation(Motion(period, positions, velocities), limits, workspace):
            raise MotionRefused(f"the way home is not free: {problem}; lead the arm by hand")

    def target(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and velocities (J,) to follow at a time [s]."""
        return self._at(now - self._began)

    def has_arrived(self, position: np.ndarray, velocity: np.ndarray) -> bool:
        """Whether the joints (J,) are commanded to be at home, and as good as still."""
        slow = (np.abs(velocity) <= _STILL * self._velocity).all()
        return bool(slow) and self.distance(position) <= _ARRIVED

    def distance(self, commanded: np.ndarray) -> float:
        """Return how far the furthest joint is from home [rad or m]."""
        return float(np.abs(self._home - commanded).max())

    def is_overdue(self, now: float) -> bool:
        """Whether the arm should have arrived."""
        return now > self._began + 2.0 * self._seconds + _LATE_S

    def _samples(self, period: float) -> tuple[np.ndarray, np.ndarray]:
        count = int(np.ceil(self._seconds / period)) + 1
        places = [self._at(n * period) for n in range(count + 1)]
        positions, velocities = zip(*places, strict=True)
        return np.array(positions), np.array(velocities)

    def _at(self, elapsed: float) -> tuple[np.ndarray, np.ndarray]:
        """Quintic from rest to rest: s(u) = 10 u^3 - 15 u^4 + 6 u^5 with u = t / T."""
        u = min(max(elapsed / self._seconds, 0.0), 1.0)
        way = self._home - self._start
        share = u**3 * (10.0 - 15.0 * u + 6.0 * u**2)
        rate = 30.0 * u**2 * (1.0 - u) ** 2 / self._seconds
        return self._start + share * way, rate * way


def _home_pose(
    contract: Contract, limits: JointLimits, start: np.ndarray, arms: Collection[str]
) -> np.ndarray:
    if unknown := sorted(set(arms) - set(contract.arms)):
        raise MotionRefused(
            f"arms: there is no {unknown[0]}; name one of {', '.join(contract.arms)}"
        )
    pose = start.copy()
    for name, arm in contract.arms.items():
        if arms and name not in arms:
            continue
        if arm.home is None:
            raise MotionRefused(f"arm {name} has no home pose; add home to the contract")
        pose[contract.columns.commands.indices(ColumnKind.JOINT, arm=name)] = arm.home
    return limits.inside(pose)
