"""Watches the measured arm: are joint states fresh, does it stand where it was sent, does it follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.safety.clock import FUTURE_S
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.measured import JointHistory
from sf_policy_node.motion.types import Chunk

_AT_COMMAND = 0.1  # share of the tracking error within which an arm at rest stands where it was sent
_STILL = 0.1  # share of the top speed below which a joint counts as standing
_ELSEWHERE = 2.0  # times the tracking error: not pushed away, but somewhere else
_IMPOSSIBLE = 3.0  # times the top speed between two joint states: nothing pushes an arm that fast
_RESTING, _RESTING_S = 0.02, 0.1  # share of the top speed below which a joint that stays so for this long is at rest
_CONFIRMED = 2  # joint states in a row that must agree: one bad reading stops nothing
_CLOCK_S = 1.0  # a stamp that is that much older is of another clock, and the ones before it may be wrong
_LOOK_BACK = 10  # joint states in which a leap is looked for


@dataclass(frozen=True)
class Deviation:
    """A joint that is not where it was sent; ``elsewhere``: so far off that it cannot be following."""

    joint: str
    distance: float
    measured: np.ndarray
    elsewhere: bool


class ArmMonitor:
    """Judges measured joints (J,) in the order of ``contract.command_joints`` against the contract."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._limits = JointLimits.of(contract)
        self._history = JointHistory(contract.budgets.chunk_age_s + 1.0)

    def add(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Remember a joint state; one with values that are not finite counts as lost.

        Raises:
            ValueError: when the number of joints is wrong.
        """
        positions, velocities = np.asarray(positions, dtype=float), np.asarray(velocities, dtype=float)
        names = self._limits.names
        if positions.shape != (len(names),) or velocities.shape != (len(names),):
            raise ValueError(f"joint state: needs {len(names)} positions and velocities ({', '.join(names)}), got {positions.shape}")
        if not (np.isfinite(stamp) and np.isfinite(positions).all() and np.isfinite(velocities).all()):
            return
        if self._history and stamp < self._history.newest[0] - _CLOCK_S:
            self._history.clear()
        self._history.add(stamp, positions, velocities)

    def forget(self) -> None:
        """Drop all joint states, as after a jump of the clock."""
        self._history.clear()

    @property
    def heard(self) -> bool:
        """There is a joint state."""
        return bool(self._history)

    def age(self, now: float) -> float:
        """Age of the newest joint state [s]; -1 before the first."""
        return now - self._history.newest[0] if self._history else -1.0

    def problem(self, now: float) -> str:
        """Why joint states cannot be used at ``now``; empty when they can."""
        if not self._history:
            return f"no joint states on {self._contract.topics.joint_states}"
        age, budget = self.age(now), self._contract.budgets.joint_state_age_s
        if age > budget:
            return f"the newest joint state is {age:.3f} s old, budgets.joint_state_age_s allows {budget:g} s"
        if age < -FUTURE_S:
            return f"joint states are stamped {-age:.3f} s in the future; synchronise the clocks"
        return ""

    @property
    def newest(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Stamp [s], positions and velocities (J,) of the newest joint state; there must be one."""
        return self._history.newest

    def near(self, place: np.ndarray) -> np.ndarray:
        """``place`` (J,) where the arm stands near it; joints that are further away than their tracking error, as measured."""
        _, measured, _ = self._history.newest
        return np.where(np.abs(place - measured) <= self._limits.tracking_error, place, measured)

    def at_rest(self, now: float) -> bool:
        """Fresh joint states say that every joint has stood still for a tenth of a second."""
        if self.problem(now):
            return False
        recent = self._history.since(self._history.newest[0] - _RESTING_S)
        slow = all((np.abs(speed) < _RESTING * self._limits.velocity).all() for _, _, speed in recent)
        return slow and recent[-1][0] - recent[0][0] >= 0.8 * _RESTING_S

    def check_reference(self, chunk: Chunk) -> None:
        """The joints that the policy saw are those that were measured then.

        Raises:
            ChunkRefused: when a joint differs by more than its tracking error.
        """
        measured = self._history.at(chunk.stamp)
        if measured is None:
            return
        error = np.abs(np.asarray(chunk.reference, dtype=float) - measured) / self._limits.tracking_error
        if error.max() > 1.0:
            name = self._limits.names[int(error.argmax())]
            raise ChunkRefused(f"its reference for {name} is not where {name} was measured at that time")

    def standing_position(self, path: CommandedPath | None) -> np.ndarray:
        """Where a motion from rest starts (J,), inside the limits.

        As long as the arm stands where it was sent, that is the commanded position: it does not carry
        the servo's error along, and a gripper keeps its grip. Else somebody moved the arm, and it is the measured one.

        Raises:
            MotionRefused: when somebody else moves the arm, or it stands outside its limits.
        """
        _, measured, speed = self._history.newest
        if path is not None:
            commanded, _ = path.at(len(path.positions))
            if (np.abs(commanded - measured) <= _AT_COMMAND * self._limits.tracking_error).all():
                return commanded
        arm, names = len(self._contract.joints), self._limits.names
        fast = np.abs(speed[:arm]) / self._limits.velocity[:arm]
        if fast.max() > _STILL:
            raise MotionRefused(f"{names[int(fast.argmax())]} is moving and not by this executor, which takes over only an arm that stands")
        inside = np.clip(measured, self._limits.lower, self._limits.upper)
        excess = np.abs(inside - measured) / self._limits.tracking_error
        if excess.max() > _AT_COMMAND:
            raise MotionRefused(f"{names[int(excess.argmax())]} is measured outside its limits in the contract; move it back first")
        return inside

    def deviation(self, path: CommandedPath) -> Deviation | None:
        """The joint that is further than its tracking error from where ``path`` had it at that time."""
        shares = [
            np.abs(measured - path.state(stamp)[0]) / self._limits.tracking_error for stamp, measured, _ in self._history.last(_CONFIRMED)
        ]
        share = np.min(shares, axis=0)
        worst = int(share.argmax())
        if len(shares) < _CONFIRMED or share[worst] <= 1.0:
            return None
        distance = float(share[worst] * self._limits.tracking_error[worst])
        elsewhere = bool(share[worst] > _ELSEWHERE) or self._leapt(worst)
        return Deviation(self._limits.names[worst], distance, self._history.newest[1], elsewhere)

    def _leapt(self, joint: int) -> bool:
        recent = self._history.last(_LOOK_BACK)
        way = np.abs(np.diff([measured[joint] for _, measured, _ in recent]))
        reach = _IMPOSSIBLE * self._limits.velocity[joint] * np.diff([stamp for stamp, _, _ in recent])
        return bool((way > reach + _AT_COMMAND * self._limits.tracking_error[joint]).any())
