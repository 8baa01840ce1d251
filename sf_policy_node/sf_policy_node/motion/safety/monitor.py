"""Monitors the measured arm: whether joint states are fresh and plausible, and whether the arm
follows its path.

Joint states are not trusted blindly: drivers report zeros and wrap angles at pi, and measured
joints droop, lag and flicker. Velocities are computed from positions, because many drivers report
none or wrong ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.safety.clock import FUTURE_S
from sf_policy_node.motion.safety.commanded import CommandedPath, Start
from sf_policy_node.motion.safety.displacement import DisplacementWatch
from sf_policy_node.motion.safety.findings import Deviation, Fault, StartPosition
from sf_policy_node.motion.safety.measured import JointHistory
from sf_policy_node.motion.safety.missing_joint_states import late_joint_states, no_joint_states
from sf_policy_node.motion.safety.references import AT_COMMAND, ControllerReferences
from sf_policy_node.motion.types import Chunk

_ELSEWHERE = 2.0  # times the tracking error: beyond it no obstacle explains the error
_IMPOSSIBLE = 3.0  # times the top speed between two joint states: faster than any arm moves
_STATIONARY_S = 0.1  # an arm whose joint states agree for this long is stationary
_STEADY_S = 0.2  # an arm that something else moved must be stationary for this long ...
_STEADY_AFTER_JUMP_S = 1.0  # ... and for this long if its joint states jumped
_COVERED = 0.8  # share of such a time that joint states must cover
_GRIPPER_BAND = 0.05  # share of its range within which a gripper is at a position
_NEAR = 0.9  # share of the joint states that must agree on a position
_SEVERAL = 3  # joint states that are needed to call an arm stationary
_CONFIRMED = 2  # consecutive joint states that must agree: a single bad reading stops nothing
_CLOCK_S = 1.0  # a stamp that is older by more than this is of another clock
_LOOK_BACK = 10  # joint states that are searched for a jump
_STALLED_S = 0.05  # an arm has stalled when in this time ...
_STALLED = 0.1  # ... it moved less than this share of the commanded distance
_STILL = 0.02  # share of the tracking error within which a joint stands
_SCALED_S = 1.0  # the longest delay of an arm whose speed is scaled down
_SPEED_S = 0.03  # time over which a velocity is computed
_WRAPS = (
    "that is a full turn, so the driver wraps angles and commands do not; make the driver report "
    "joint states that do not wrap"
)


class ArmMonitor:
    """Compares measured joints (J,) with the contract and the commanded path.

    Joints are in the order of ``contract.command_joints``.

    Args:
        joint_state_problem: returns why the receiver of the joint states cannot use them at a time
            [s]; empty when it can. None: there is no such check.
        future_s: how far stamps may be ahead of this computer's clock [s].
    """

    def __init__(
        self,
        contract: Contract,
        joint_state_problem: Callable[[float], str] | None = None,
        future_s: float = FUTURE_S,
    ) -> None:
        self._contract, self._future_s = contract, future_s
        self._receives = joint_state_problem or (lambda now: "")
        self._limits = JointLimits.of(contract)
        error = self._limits.tracking_error
        grips = _GRIPPER_BAND * (self._limits.upper - self._limits.lower)
        self.band = np.where(np.isfinite(error), AT_COMMAND * error, grips)
        """By how much the joint states of a stationary arm may scatter (J,) [rad or m]."""
        self._joints = np.flatnonzero(~self._limits.is_gripper)  # of all arms, without grippers
        firsts = dict(zip(self._limits.arms, range(len(self._limits.arms)), strict=True))
        self._arms = [self._limits.arm_of(joint) for joint in firsts.values()]
        commands = contract.columns.commands
        self._units = [
            "" if column.kind is ColumnKind.GRIPPER else column.unit for column in commands
        ]
        self._history = JointHistory(max(contract.budgets.chunk_age_s, _STEADY_AFTER_JUMP_S) + 1.0)
        self._has_forgotten = False  # whether joint states before the oldest one are forgotten
        self.references = ControllerReferences(self._limits, contract.budgets.joint_state_age_s)

    # ---- what is measured ----

    def add(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> bool:
        """Take a joint state (J,), stamped at ``stamp`` [s], and return whether it is used.

        It is ignored when its stamp or a position is not finite, or when it is not newer than the
        last one. A velocity that is not finite counts as 0.

        Raises:
            ValueError: the number of joints is wrong.
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
            return False
        velocities = np.where(np.isfinite(velocities), velocities, 0.0)
        if self._history and stamp < self._history.newest[0] - _CLOCK_S:
            self._history.clear()
            self._has_forgotten = True
        return self._history.add(stamp, positions, velocities)

    def forget(self) -> None:
        """Forget all joint states and controller reports, as after a clock jump."""
        self._history.clear()
        self._has_forgotten = True
        self.references.forget()

    @property
    def has_joint_states(self) -> bool:
        """Whether a joint state is known."""
        return bool(self._history)

    @property
    def newest(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Stamp [s], positions and velocities (J,) of the newest joint state; there must be one."""
        return self._history.newest

    def age(self, now: float) -> float:
        """Return the age of the newest joint state [s]; -1 before the first."""
        return now - self._history.newest[0] if self._history else -1.0

    def problem(self, now: float) -> str:
        """Return why joint states cannot be used at ``now`` [s]; empty when they can."""
        if problem := self._receives(now):
            return problem
        if not self._history:
            return no_joint_states(self._contract.topics.joint_states)
        age, budget = self.age(now), self._contract.budgets.joint_state_age_s
        if age > budget:
            return late_joint_states(age, budget)
        if age < -self._future_s:
            return f"joint states are stamped {-age:.3f} s in the future; synchronise the clocks"
        return ""

    def state_from_positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the newest positions (J,) and velocities (J,) computed from recent positions.

        With a single joint state the velocities are the reported ones. Velocities are clipped to
        the limits.
        """
        stamp, positions, reported = self._history.newest
        recent = self._history.since(stamp - _SPEED_S)
        if len(recent) < 2:
            recent = self._history.last(2)
        velocities = reported
        if len(recent) > 1:
            velocities = (positions - recent[0][1]) / (stamp - recent[0][0])
        return positions, np.clip(velocities, -self._limits.velocity, self._limits.velocity)

    def track(
        self, since: float, joints: list[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Return how joints moved from ``since`` [s] on; None when too little was measured.

        Args:
            joints: N indices.

        Returns:
            Stamps (T,) [s], positions (T, N) and tracking errors (N,) of the joints that have a
            finite one; of others the error is infinite.
        """
        recent = self._history.since(since)
        if len(recent) < _SEVERAL:
            return None
        stamps = np.array([stamp for stamp, _, _ in recent])
        positions = np.array([measured[joints] for _, measured, _ in recent])
        return stamps, positions, self._limits.tracking_error[joints]

    def away(self, position: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Return which joints (J,) are further than their tracking error from ``position``."""
        return np.abs(position - measured) > self._limits.tracking_error

    def is_stationary(self, now: float) -> bool:
        """Return whether fresh joint states show that no joint has moved for 0.1 s."""
        return not self.problem(now) and self._is_steady(_STATIONARY_S, gripper=True)

    def _is_steady(self, seconds: float, *, gripper: bool = False) -> bool:
        """Return whether the arm was measured at one position for ``seconds``.

        Encoders flicker, and single readings may be wrong. So nine of ten readings must be near
        the median, and the means of the first and the second half must agree.

        Args:
            gripper: the gripper must be stationary as well.
        """
        recent = self._history.covering(seconds, _SEVERAL)
        if len(recent) < _SEVERAL or recent[-1][0] - recent[0][0] < _COVERED * seconds:
            return False
        joints = slice(None) if gripper else self._joints
        measured = np.array([positions[joints] for _, positions, _ in recent])
        band = self.band[joints]
        near = (np.abs(measured - np.median(measured, axis=0)) <= band).all(axis=1)
        if near.mean() < _NEAR:
            return False
        halves = np.array_split(measured[near], 2)
        return bool((np.abs(halves[0].mean(axis=0) - halves[-1].mean(axis=0)) <= 0.5 * band).all())

    def stationary_position(self) -> np.ndarray:
        """Return the joints (J,) of an arm for which :meth:`is_stationary` is True."""
        return self._median_position(_STATIONARY_S)

    def _steady_position(self, seconds: float) -> np.ndarray | None:
        """Return the joints (J,) at which the arm was measured for ``seconds``; None: it was not.

        One of ten readings may be wrong, and the newest one may be that reading.
        """
        position = self._median_position(seconds)
        is_outlier = self.away(position, self._history.newest[1]).any()
        return position if self._is_steady(seconds) and not is_outlier else None

    def _median_position(self, seconds: float) -> np.ndarray:
        """Return the median of the joints (J,) measured in the last ``seconds``."""
        recent = self._history.covering(seconds, _SEVERAL)
        return np.median([positions for _, positions, _ in recent], axis=0)

    # ---- chunks ----

    def check_reference(self, chunk: Chunk) -> None:
        """Check that a chunk's reference agrees with the joints measured at its stamp.

        Nothing is checked when no joint state that old is known.

        Raises:
            ChunkRefused: a joint differs by more than its tracking error.
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
                f"its reference for {name} is not where {name} was measured at that time; send the"
                " measured positions of the observation"
            )

    def check_commanded(self, chunk: Chunk, start: Start, path: CommandedPath | None) -> None:
        """Check that the arm was commanded to be near a chunk's reference at its stamp.

        The same wrong joint state may have reached the policy and this executor.

        Args:
            start: where the motion of the chunk starts.
            path: the commanded path; None: unknown.

        Raises:
            ChunkRefused: a joint differs by more than its tracking error.
        """
        approaches = not start.moving and start.path.begins > -np.inf
        if path is None or approaches:
            commanded = start.position
        elif chunk.stamp < path.origin and len(path.positions) > 1:
            return  # it is not known any more
        else:
            commanded = path.state(chunk.stamp)[0]
        error = np.abs(np.asarray(chunk.reference, dtype=float) - commanded)
        share = error / self._limits.tracking_error
        worst = int(share.argmax())
        if share[worst] > 1.0:
            name = self._limits.names[worst]
            raise ChunkRefused(
                f"its reference for {name} is {error[worst]:.2f} from where {name} was commanded to"
                " be then; if this goes on, check the sensor and the driver of that joint"
            )

    # ---- starts ----

    def start_position(
        self,
        path: CommandedPath | None,
        now: float,
        displacement: DisplacementWatch | None = None,
    ) -> StartPosition:
        """Return the position, inside the limits, from which a motion from standstill starts.

        It is the commanded position while every joint is within its tracking error of it: servo
        errors do not add up, and a gripper keeps its grip. The reference that a controller reports
        takes precedence over the last command of this executor. Otherwise something else moved the
        arm, and the motion starts at the measured position.

        Args:
            path: the commanded path; None: unknown.
            displacement: whether joint states jumped away from the commanded path. It is used for
                joints whose controller does not report its reference. None: not used.

        Raises:
            MotionRefused: joint states may be wrong, something else moves the arm, or it is outside
                its limits.
        """
        _, measured, _ = self._history.newest
        commanded, reported = self.references.held(path, now)
        if commanded is None:
            needed = _STEADY_AFTER_JUMP_S if self._may_have_jumped().any() else _STATIONARY_S
            if (position := self._steady_position(needed)) is None:
                raise MotionRefused(
                    f"{self._describe_motion(needed)}; this executor takes over only an arm that"
                    f" was stationary for {needed:g} s"
                )
            return StartPosition(self._inside(position), False)
        away, displaced = self.away(commanded, measured), False
        if displacement is not None:
            error = measured - commanded
            jumped = displacement.displaced(error) & (np.abs(error) > self.band)
            jumped &= np.isfinite(self._limits.tracking_error) & ~reported
            away, displaced = away | jumped, bool(jumped.any())
        if not away.any():
            return StartPosition(self._inside(commanded), True)
        worst = int(np.where(away, np.abs(commanded - measured), 0.0).argmax())
        reason = self._describe_error(worst, measured - commanded)
        if self._wraps(worst, (measured - commanded)[worst]):
            raise MotionRefused(f"{reason}: {_WRAPS}")
        needed = _STEADY_AFTER_JUMP_S if displaced or self._may_have_jumped()[worst] else _STEADY_S
        # The controller is most likely where all joints are measured.
        if (position := self._steady_position(needed)) is None:
            raise MotionRefused(
                f"{reason}; a motion starts there once it has been stationary for {needed:g} s"
            )
        if not displaced:  # a gripper keeps its commanded position, and so its grip
            grippers = self._limits.is_gripper
            position[grippers] = commanded[grippers]
        return StartPosition(self._inside(position), False, reason)

    def _describe_motion(self, seconds: float) -> str:
        """Return why the arm does not count as stationary for ``seconds``."""
        recent = self._history.covering(seconds, _SEVERAL)
        measured = np.array([positions for _, positions, _ in recent])
        moved = np.ptp(measured, axis=0) / self._limits.tracking_error
        if moved.max() <= AT_COMMAND:
            return f"there are only {len(recent)} joint states so far"
        return f"{self._limits.names[int(moved.argmax())]} is moving and not by this executor"

    def _inside(self, position: np.ndarray) -> np.ndarray:
        """Return a measured position (J,), moved inside the limits where it is slightly outside.

        Raises:
            MotionRefused: it is outside by more than a tenth of the tracking error.
        """
        inside = self._limits.inside(position)
        excess = np.abs(inside - position) / self._limits.tracking_error
        if excess.max() > AT_COMMAND:
            name = self._limits.names[int(excess.argmax())]
            raise MotionRefused(
                f"{name} is measured outside its limits in the contract; move it back first"
            )
        return inside

    # ---- while it moves ----

    def deviation(self, path: CommandedPath) -> Deviation | None:
        """Return the joint that is further than its tracking error from ``path``, and the cause.

        None when no joint is, in at least one of the last two joint states.
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
        reason = f"{self._describe_error(worst, errors[-1])}{reason}"
        return Deviation(self._limits.names[worst], abs(error), fault, reason, measured)

    def _explain(
        self, path: CommandedPath, joint: int, error: float, share: float
    ) -> tuple[Fault, str]:
        """Return the cause of a tracking error and the end of the message about it.

        Args:
            error: measured minus commanded position [rad or m].
            share: its size as a multiple of the tracking error that the contract allows.
        """
        arm = self._limits.arm_of(joint)  # other arms may follow their paths
        if self._wraps(joint, error):
            return Fault.SENSOR, f": {_WRAPS}"
        if self._jumped(-np.inf)[joint]:
            return (
                Fault.SENSOR,
                (
                    " and jumped there faster than it can move: the sensor or its driver reports"
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
            return Fault.ELSEWHERE, "; find out what moved it"
        if self._stands(path, arm)[0]:
            return (
                Fault.STALLED,
                (
                    ": the arm does not move; something is in its way, or its controller does not"
                    " follow"
                ),
            )
        return Fault.OBSTACLE, ", something is in its way; clear it"

    def _describe_error(self, joint: int, errors: np.ndarray) -> str:
        distance = f"{abs(errors[joint]):.2f} {self._units[joint]}".rstrip()
        return f"{self._limits.names[joint]} is measured {distance} from its commanded position"

    def _wraps(self, joint: int, error: float) -> bool:
        """Return whether an error is a whole number of turns: the driver wraps angles at pi."""
        if self._units[joint] != "rad":  # a gripper has no unit here
            return False
        turns = round(error / (2.0 * np.pi))
        return turns != 0 and abs(error - turns * 2.0 * np.pi) <= self._limits.tracking_error[joint]

    def _jumped(self, since: float) -> np.ndarray:
        """Return which joints (J,) were measured to move faster than they can.

        Args:
            since: the stamp [s] from which joint states are searched; -inf: the last ten.
        """
        recent = self._history.last(_LOOK_BACK) if since == -np.inf else self._history.since(since)
        moved = np.abs(np.diff(np.array([measured for _, measured, _ in recent]), axis=0))
        seconds = np.diff([stamp for stamp, _, _ in recent])[:, None]
        reach = _IMPOSSIBLE * self._limits.velocity * seconds
        return (moved > reach + AT_COMMAND * self._limits.tracking_error).any(axis=0)

    def _may_have_jumped(self) -> np.ndarray:
        """Return which joints (J,) were measured to jump in the last second, as far as is known.

        After a clock jump older joint states are forgotten, and a jump with them.
        """
        since = self._history.newest[0] - _STEADY_AFTER_JUMP_S
        is_unknown = self._has_forgotten and self._history.oldest[0] > since
        return is_unknown | self._jumped(since)

    def _stands(self, path: CommandedPath, arm: np.ndarray) -> tuple[bool, bool]:
        """Return whether no joint of an arm moved for 0.05 s, and whether its path did.

        Args:
            arm: (N,) indices of the arm's joints.
        """
        stamp, _, _ = self._history.newest
        recent = self._history.covering(_STALLED_S, _SEVERAL)  # drivers report at 20 Hz as well
        if len(recent) < _SEVERAL:
            return False, False
        first, error = recent[0][0], self._limits.tracking_error[arm]
        wanted = np.abs(path.state(stamp)[0] - path.state(first)[0])[arm]
        moved = np.ptp([positions[arm] for _, positions, _ in recent], axis=0)
        stands = (moved <= np.maximum(_STALLED * wanted.max(), _STILL * error)).all()
        return bool(stands), bool((wanted > _STALLED * error).any())

    def explain_standstill(self, path: CommandedPath) -> str:
        """Return which arm stopped in the middle of its path, in one sentence; empty: none did.

        Its controller may have been restarted, and would jump if it continued on the path. An arm
        that has not moved since the motion began lags behind it.
        """
        recent = self._history.since(path.last_rest(self._history.newest[0]))
        for arm in self._arms if recent else ():
            moved = np.ptp([positions[arm] for _, positions, _ in recent], axis=0)
            has_moved = (moved > _STALLED * self._limits.tracking_error[arm]).any()
            if has_moved and all(self._stands(path, arm)):
                name = self._limits.names[arm[int(moved.argmax())]]
                return (
                    f"{name} stopped in the middle of its motion; check whether its controller was"
                    " restarted, and its driver"
                )
        return ""

    def _is_scaled(self, path: CommandedPath, arm: np.ndarray) -> bool:
        """Return whether an arm is measured at an earlier point of its path, and still moves.

        Args:
            arm: (N,) indices of the arm's joints.
        """
        stamp, measured, _ = self._history.newest
        lags = np.arange(0.05, _SCALED_S, 0.02)
        earlier = np.array([path.state(stamp - lag)[0][arm] for lag in lags])
        beside = np.abs(earlier - measured[arm]) / self._limits.tracking_error[arm]
        lag = lags[int(beside.max(axis=1).argmin())]
        is_beside = beside.max(axis=1).min() < AT_COMMAND
        return bool(is_beside and lag > 0.1 and not self._stands(path, arm)[0])
