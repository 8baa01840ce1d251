"""Judges the measured arm: are joint states fresh, can they be true, does the arm follow.

Measured joints are evidence, not commands: drivers report zeros, wrap angles at pi, droop, lag and
flicker. Speeds are taken from positions, since many drivers report none or wrong ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.safety.clock import FUTURE_S
from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.displacement import DisplacementWatch
from sf_policy_node.motion.safety.findings import Deviation, Fault, StartPlace
from sf_policy_node.motion.safety.measured import JointHistory
from sf_policy_node.motion.types import Chunk

_AT_COMMAND = 0.1  # share of the tracking error within which a joint counts as being at a place
_ELSEWHERE = 2.0  # times the tracking error: not pushed away, but somewhere else
_IMPOSSIBLE = 3.0  # times the top speed between two joint states: nothing moves an arm that fast
_RESTING_S = 0.1  # an arm that is measured at one place for this long is at rest
_STEADY_S = 0.2  # somebody moved the arm: it must be measured at one place for this long ...
_STEADY_AFTER_LEAP_S = 0.5  # ... and for this long where the joint states leapt there
_COVERED = 0.8  # share of such a time that joint states must cover
_GRIPPER_BAND = 0.05  # share of its range within which a gripper is at a place
_NEAR = 0.9  # share of the joint states that must agree on a place
_SEVERAL = 3  # joint states that are needed to call anything steady
_CONFIRMED = 2  # joint states in a row that must agree: one bad reading stops nothing
_CLOCK_S = 1.0  # a stamp that is that much older is of another clock
_LOOK_BACK = 10  # joint states in which a leap is looked for
_STALLED_S = 0.05  # an arm that did not move for so long while it was commanded to has stalled ...
_STALLED = 0.1  # ... when it went less than this share of the commanded way
_SCALED_S = 1.0  # how late an arm whose speed is scaled down may follow
_SPEED_S = 0.03  # joint states over which a speed is taken
_SAME = 0.01  # share of the tracking error within which two accounts of one place agree
_AT_REST = 0.02  # share of the top speed below which a controller holds position
_WRAPS = (
    "that is a full turn, so the driver wraps angles and commands do not; make the driver report "
    "joint states that do not wrap"
)


@dataclass(frozen=True)
class _Reference:
    """What a controller commands its ``joints`` (N,) by its own account: positions, velocities."""

    stamp: float
    joints: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray


class ArmMonitor:
    """Judges measured joints (J,) in the order of ``contract.command_joints`` against the contract.

    Args:
        joint_state_problem: why whoever receives joint states cannot use them at a time [s].
    """

    def __init__(
        self, contract: Contract, joint_state_problem: Callable[[float], str] | None = None
    ) -> None:
        self._contract = contract
        self._receives = joint_state_problem or (lambda now: "")
        self._limits = JointLimits.of(contract)
        error = self._limits.tracking_error
        grips = _GRIPPER_BAND * (self._limits.upper - self._limits.lower)
        self.band = np.where(np.isfinite(error), _AT_COMMAND * error, grips)
        """By how much the measured joints of an arm at rest may scatter (J,)."""
        self._joints = np.flatnonzero(~self._limits.is_gripper)  # of all arms, without grippers
        commands = contract.columns.commands
        self._units = [
            "" if column.kind is ColumnKind.GRIPPER else column.unit for column in commands
        ]
        self._history = JointHistory(max(contract.budgets.chunk_age_s, _STEADY_AFTER_LEAP_S) + 1.0)
        self._references: dict[tuple[int, ...], _Reference] = {}  # by the joints of a controller

    # ---- what is measured ----

    def add(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Remember a joint state. One whose positions are not finite counts as lost.

        Velocities that are not finite count as left out.

        Raises:
            ValueError: when the number of joints is wrong.
        """
        positions = np.asarray(positions, dtype=float)
        velocities = np.asarray(velocities, dtype=float)
        names = self._limits.names
        if positions.shape != (len(names),) or velocities.shape != (len(names),):
            raise ValueError(
                f"joint state: needs {len(names)} positions and velocities ({', '.join(names)}), "
                f"got {positions.shape}"
            )
        if not (np.isfinite(stamp) and np.isfinite(positions).all()):
            return
        velocities = np.where(np.isfinite(velocities), velocities, 0.0)
        if self._history and stamp < self._history.newest[0] - _CLOCK_S:
            self._history.clear()
        self._history.add(stamp, positions, velocities)

    def add_reference(
        self,
        stamp: float,
        positions: np.ndarray,
        velocities: np.ndarray,
        joints: np.ndarray | None = None,
    ) -> None:
        """Remember what a controller commands by its own account (N,) twice; not finite: nothing.

        Args:
            joints: (N,) which joints the controller has; None: all, in order.
        """
        joints = np.arange(len(self._limits.names)) if joints is None else np.asarray(joints)
        key = tuple(joints.tolist())
        if np.isfinite(positions).all() and np.isfinite(velocities).all():
            self._references[key] = _Reference(stamp, joints, positions, velocities)
        else:
            self._references.pop(key, None)

    def _is_fresh(self, reference: _Reference, now: float) -> bool:
        """Whether a controller reported lately, on the clock of ``now``."""
        return abs(now - reference.stamp) <= self._contract.budgets.joint_state_age_s

    def forget(self) -> None:
        """Drop all joint states, as after a jump of the clock."""
        self._history.clear()
        self._references.clear()

    @property
    def newest(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Stamp [s], positions and velocities (J,) of the newest joint state; there must be one."""
        return self._history.newest

    def age(self, now: float) -> float:
        """Return the age of the newest joint state [s]; -1 before the first."""
        return now - self._history.newest[0] if self._history else -1.0

    def problem(self, now: float) -> str:
        """Return why joint states cannot be used at ``now``; empty when they can."""
        if problem := self._receives(now):
            return problem
        if not self._history:
            return f"no joint states on {self._contract.topics.joint_states}"
        age, budget = self.age(now), self._contract.budgets.joint_state_age_s
        if age > budget:
            return (
                f"the newest joint state is {age:.3f} s old, budgets.joint_state_age_s allows"
                f" {budget:g} s"
            )
        if age < -FUTURE_S:
            return f"joint states are stamped {-age:.3f} s in the future; synchronise the clocks"
        return ""

    def state_from_positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the newest positions (J,), and velocities (J,) from the positions before them.

        With a single joint state the velocities are the reported ones.
        """
        stamp, positions, reported = self._history.newest
        recent = self._history.since(stamp - _SPEED_S)
        if len(recent) < 2:
            recent = self._history.last(2)
        velocities = reported
        if len(recent) > 1:
            velocities = (positions - recent[0][1]) / (stamp - recent[0][0])
        return positions, np.clip(velocities, -self._limits.velocity, self._limits.velocity)

    def away(self, place: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Return which joints (J,) are measured further than their tracking error from a place."""
        return np.abs(place - measured) > self._limits.tracking_error

    def at_rest(self, now: float) -> bool:
        """Fresh joint states say that no joint has moved for a tenth of a second."""
        return not self.problem(now) and self._is_steady(_RESTING_S, gripper=True)

    def _is_steady(self, seconds: float, *, gripper: bool = False) -> bool:
        """The arm (with its gripper) was measured at one place all that time.

        Encoders flicker, and single readings may be wrong: nine of ten must be near the median, and
        the halves of the time must agree on average.
        """
        recent = self._history.covering(seconds, _SEVERAL)
        if len(recent) < _SEVERAL or recent[-1][0] - recent[0][0] < _COVERED * seconds:
            return False
        joints = slice(None) if gripper else self._joints
        places = np.array([positions[joints] for _, positions, _ in recent])
        band = self.band[joints]
        near = (np.abs(places - np.median(places, axis=0)) <= band).all(axis=1)
        if near.mean() < _NEAR:
            return False
        halves = np.array_split(places[near], 2)
        return bool((np.abs(halves[0].mean(axis=0) - halves[-1].mean(axis=0)) <= 0.5 * band).all())

    def resting_place(self) -> np.ndarray:
        """Return where an arm is that :meth:`at_rest` has found at rest (J,)."""
        return self._steady_place(_RESTING_S)

    def _steady_place(self, seconds: float) -> np.ndarray:
        """Return the median of the measured joints (J,)."""
        recent = self._history.covering(seconds, _SEVERAL)
        return np.median([positions for _, positions, _ in recent], axis=0)

    # ---- chunks ----

    def check_reference(self, chunk: Chunk) -> None:
        """Check that the joints that the policy saw are those that were measured then.

        Raises:
            ChunkRefused: when a joint differs by more than its tracking error.
        """
        measured = self._history.at(chunk.stamp)
        if measured is None:
            return
        error = (
            np.abs(np.asarray(chunk.reference, dtype=float) - measured)
            / self._limits.tracking_error
        )
        if error.max() > 1.0:
            name = self._limits.names[int(error.argmax())]
            raise ChunkRefused(
                f"its reference for {name} is not where {name} was measured at that time"
            )

    # ---- starts ----

    def place_to_start(
        self,
        path: CommandedPath | None,
        now: float,
        displacement: DisplacementWatch | None = None,
    ) -> StartPlace:
        """Return where a motion from rest starts, inside the limits.

        Args:
            displacement: whether joint states jumped beside the commanded path. It counts where
                the controller does not report what it commands.

        As long as every joint is within its tracking error of where it was commanded to be, that
        is the commanded place: the servo's error is not carried along, and a gripper keeps its
        grip. What the controller itself reports to command counts more than what this executor
        commanded last. Else somebody moved the arm: it starts where it is measured.

        Raises:
            MotionRefused: joint states may be wrong, somebody else moves the arm, or it is outside
                its limits.
        """
        stamp, measured, _ = self._history.newest
        commanded, reported = self._commanded(path, now)
        if commanded is None:
            if not self._is_steady(_RESTING_S):
                raise MotionRefused(
                    f"{self._restless()}; this executor takes over only an arm at rest"
                )
            return StartPlace(self._inside(self.resting_place()), False)
        away, displaced = self.away(commanded, measured), False
        if displacement is not None:
            error = measured - commanded
            jumped = displacement.displaced(error) & (np.abs(error) > self.band)
            jumped &= np.isfinite(self._limits.tracking_error) & ~reported
            away, displaced = away | jumped, bool(jumped.any())
        if not away.any():
            return StartPlace(self._inside(commanded), True)
        worst = int(np.where(away, np.abs(commanded - measured), 0.0).argmax())
        reason = self._off(worst, measured - commanded)
        if self._wraps(worst, (measured - commanded)[worst]):
            raise MotionRefused(f"{reason}: {_WRAPS}")
        leapt = displaced or self._leapt(worst, stamp - _STEADY_AFTER_LEAP_S)
        needed = _STEADY_AFTER_LEAP_S if leapt else _STEADY_S
        if not self._is_steady(needed):
            raise MotionRefused(
                f"{reason}; it must be measured at one place for {needed:g} s before it counts"
            )
        place = self._steady_place(needed)  # of all joints: the controller is most likely there
        if not displaced:  # a gripper keeps its grip
            grips = self._limits.is_gripper
            place[grips] = commanded[grips]
        return StartPlace(self._inside(place), False, reason)

    def _commanded(
        self, path: CommandedPath | None, now: float
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Return where controllers hold position (J,), and for which joints they report it (J,).

        None where that is not known of every joint.

        Raises:
            MotionRefused: the controller moves, commanded by somebody else.
        """
        own = None if path is None else path.positions[-1]
        known = np.zeros(len(self._limits.names), dtype=bool)
        place = np.full(len(known), np.nan) if own is None else own.copy()
        for each in self._references.values():
            if not self._is_fresh(each, now):
                continue
            moving = np.abs(each.velocities) / self._limits.velocity[each.joints]
            if moving.max() > _AT_REST:
                name = self._limits.names[each.joints[int(moving.argmax())]]
                raise MotionRefused(f"the controller moves {name}, commanded by somebody else")
            known[each.joints], place[each.joints] = True, each.positions
        if own is None:
            return place if known.all() else None, known
        if not known.any() or (np.abs(place - own) <= _SAME * self._limits.tracking_error).all():
            return own, known
        return place, known

    def _restless(self) -> str:
        recent = self._history.covering(_RESTING_S, _SEVERAL)
        places = np.array([positions for _, positions, _ in recent])
        ways = np.ptp(places, axis=0) / self._limits.tracking_error
        if ways.max() <= _AT_COMMAND:
            return f"there are only {len(recent)} joint states so far"
        return f"{self._limits.names[int(ways.argmax())]} is moving and not by this executor"

    def _inside(self, place: np.ndarray) -> np.ndarray:
        """Return a measured place (J,), moved inside the limits where it is hardly outside."""
        inside = self._limits.inside(place)
        excess = np.abs(inside - place) / self._limits.tracking_error
        if excess.max() > _AT_COMMAND:
            name = self._limits.names[int(excess.argmax())]
            raise MotionRefused(
                f"{name} is measured outside its limits in the contract; move it back first"
            )
        return inside

    # ---- while it moves ----

    def deviation(self, path: CommandedPath) -> Deviation | None:
        """Return the joint that is further than its tracking error from ``path``, and why.

        Two joint states in a row must agree.
        """
        recent = self._history.last(_CONFIRMED)
        errors = [measured - path.state(stamp)[0] for stamp, measured, _ in recent]
        shares = [np.abs(error) / self._limits.tracking_error for error in errors]
        share = np.min(shares, axis=0)
        worst = int(share.argmax())
        if len(shares) < _CONFIRMED or share[worst] <= 1.0:
            return None
        _, measured, _ = recent[-1]
        error = float(errors[-1][worst])
        fault, reason = self._explain(path, worst, error, share[worst])
        reason = f"{self._off(worst, errors[-1])}{reason}"
        return Deviation(self._limits.names[worst], abs(error), fault, reason, measured)

    def reference_deviation(
        self, path: CommandedPath, now: float
    ) -> tuple[str, tuple[int, ...]] | None:
        """Return how far a controller itself is from ``path``, by its own account, and its joints.

        None: all follow, or have not reported lately.
        """
        for each in self._references.values():
            if each.stamp < path.begins or not self._is_fresh(each, now):
                continue
            wanted, speed = (part[each.joints] for part in path.state(each.stamp))
            error = self._limits.tracking_error[each.joints]
            over = np.abs(each.positions - wanted) / (
                _AT_COMMAND * error + np.abs(speed) * _SPEED_S
            )
            worst = int(over.argmax())
            if over[worst] > 1.0:
                sentence = (
                    f"the controller commands {self._limits.names[each.joints[worst]]}"
                    f" {abs(each.positions - wanted)[worst]:.2f} from the path"
                )
                return sentence, tuple(each.joints.tolist())
        return None

    def _explain(
        self, path: CommandedPath, joint: int, error: float, share: float
    ) -> tuple[Fault, str]:
        arm = self._limits.arm_of(joint)  # another arm may follow well
        if self._wraps(joint, error):
            return Fault.SENSOR, f": {_WRAPS}"
        if self._leapt(joint, -np.inf):
            return (
                Fault.SENSOR,
                (
                    " and leapt there faster than it can move: the sensor or its driver reports"
                    " wrong joint states; check its cable and driver"
                ),
            )
        if self._is_scaled(path, arm):
            return (
                Fault.SCALED,
                (
                    ": the arm follows its path too slowly; set the speed scaling of the robot to"
                    " 100 %"
                ),
            )
        if share > _ELSEWHERE:
            return Fault.ELSEWHERE, "; find out who moved it"
        if self._has_stalled(path, arm):
            return (
                Fault.STALLED,
                (
                    ": the arm stands still; something is in its way, or its controller does not"
                    " follow"
                ),
            )
        return Fault.OBSTACLE, ", something is in its way; clear it"

    def _off(self, joint: int, errors: np.ndarray) -> str:
        distance = f"{abs(errors[joint]):.2f} {self._units[joint]}".rstrip()
        return f"{self._limits.names[joint]} is measured {distance} from where it was sent"

    def _wraps(self, joint: int, error: float) -> bool:
        if self._units[joint] != "rad":  # a gripper has no unit here
            return False
        turns = round(error / (2.0 * np.pi))
        return turns != 0 and abs(error - turns * 2.0 * np.pi) <= self._limits.tracking_error[joint]

    def _leapt(self, joint: int, since: float) -> bool:
        """The joint was measured to move faster than it can, lately or since a stamp."""
        recent = self._history.last(_LOOK_BACK) if since == -np.inf else self._history.since(since)
        way = np.abs(np.diff([measured[joint] for _, measured, _ in recent]))
        reach = (
            _IMPOSSIBLE * self._limits.velocity[joint] * np.diff([stamp for stamp, _, _ in recent])
        )
        return bool((way > reach + _AT_COMMAND * self._limits.tracking_error[joint]).any())

    def _has_stalled(self, path: CommandedPath, arm: np.ndarray) -> bool:
        """No joint of an arm (N,) moved while the path moved all along."""
        stamp, _, _ = self._history.newest
        recent = self._history.since(stamp - _STALLED_S)
        if len(recent) < 3:
            return False
        first = recent[0][0]
        wanted = np.abs(path.state(stamp)[0] - path.state(first)[0])[arm]
        moved = np.ptp([positions[arm] for _, positions, _ in recent], axis=0)
        shares = wanted / self._limits.tracking_error[arm]
        return bool(shares.max() > _STALLED and (moved <= _STALLED * wanted.max()).all())

    def _is_scaled(self, path: CommandedPath, arm: np.ndarray) -> bool:
        """An arm (N,) is measured on its path, where it should have been earlier, and still moves
        on.
        """
        stamp, measured, _ = self._history.newest
        lags = np.arange(0.05, _SCALED_S, 0.02)
        earlier = np.array([path.state(stamp - lag)[0][arm] for lag in lags])
        beside = np.abs(earlier - measured[arm]) / self._limits.tracking_error[arm]
        lag = lags[int(beside.max(axis=1).argmin())]
        return (
            bool(beside.max(axis=1).min() < _AT_COMMAND)
            and not self._has_stalled(path, arm)
            and lag > 0.1
        )
