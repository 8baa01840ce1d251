"""Plans homing: a slow motion to the home or rest pose of the contract, straight in joint space."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract, ContractError
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import ToolBox, Workspace
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.safety.verification import Motion, find_violation

_SHARE = 0.25  # share of the joints' top speed and acceleration that is used
_LONGER, _TRIES = 1.4, 8  # the duration is increased until the tool keeps its speed limit
_ARRIVED = 1e-3  # rad or m within which the arm is in the pose
_STATIONARY = 0.01  # share of the joints' top speed below which the arm is stationary
_LATE_S = 2.0  # besides twice the planned duration: how late the arm may arrive


class Pose(StrEnum):
    """A pose that the contract names for an arm; the values are keys of ``arms.NAME``."""

    HOME = "home"
    REST = "rest"


class Homing:
    """One motion to a pose of the contract: targets (J,) over time for
    :meth:`ChunkExecutor.continue_homing`.

    Args:
        start: commanded joints (J,) in the order of ``contract.command_joints``.
        arms: names of the arms that move; empty: all. Other arms and all grippers do not move.
        began: time of the start [s].
        pose: which pose of the contract.

    Raises:
        MotionRefused: an arm is unknown or has no such pose, or the motion leaves the workspace box
            or collides.
    """

    def __init__(
        self,
        contract: Contract,
        workspace: Workspace,
        start: np.ndarray,
        arms: Collection[str],
        began: float,
        pose: Pose = Pose.HOME,
    ) -> None:
        limits = JointLimits.of(contract)
        self._velocity = limits.velocity
        self._start, self._began = start.copy(), began
        self.has_started = False
        """Whether the arm has been commanded to move."""
        self.pose = pose
        self._target = _target(contract, limits, start, arms, pose)
        distance = np.abs(self._target - start)
        # A quintic over a distance d in T [s] has the peak velocity 1.875 d / T and the peak
        # acceleration 5.774 d / T^2.
        self._seconds = max(
            float((1.875 * distance / (_SHARE * limits.velocity)).max()),
            float(np.sqrt(5.774 * distance / (_SHARE * limits.acceleration)).max()),
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
            raise MotionRefused(
                f"the motion to the {pose} pose is not possible: {problem}; move the arm by hand or"
                " by teleoperation"
            )

    @property
    def seconds(self) -> float:
        """The planned duration [s]."""
        return self._seconds

    def target(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the target positions and velocities (J,) at ``now`` [s]."""
        return self._at(now - self._began)

    def has_arrived(self, position: np.ndarray, velocity: np.ndarray) -> bool:
        """Return whether the commanded state (J,) is the pose, almost stationary."""
        slow = (np.abs(velocity) <= _STATIONARY * self._velocity).all()
        return bool(slow) and self.distance(position) <= _ARRIVED

    def distance(self, commanded: np.ndarray) -> float:
        """Return the largest distance of a commanded joint (J,) from the pose [rad or m]."""
        return float(np.abs(self._target - commanded).max())

    def is_overdue(self, now: float) -> bool:
        """Return whether the arm should have arrived before ``now`` [s]."""
        return now > self._began + 2.0 * self._seconds + _LATE_S

    def _samples(self, period: float) -> tuple[np.ndarray, np.ndarray]:
        count = int(np.ceil(self._seconds / period)) + 1
        states = [self._at(n * period) for n in range(count + 1)]
        positions, velocities = zip(*states, strict=True)
        return np.array(positions), np.array(velocities)

    def _at(self, elapsed: float) -> tuple[np.ndarray, np.ndarray]:
        """Return position and velocity (J,) on the quintic s(u) = 10 u^3 - 15 u^4 + 6 u^5.

        u = t / T with the elapsed time t and the duration T [s]; s is the share (0 to 1) of the
        distance. Velocity and acceleration are 0 at both ends (minimum jerk; Flash and Hogan, "The
        coordination of arm movements", 1985).
        """
        u = min(max(elapsed / self._seconds, 0.0), 1.0)
        distance = self._target - self._start
        share = u**3 * (10.0 - 15.0 * u + 6.0 * u**2)
        rate = 30.0 * u**2 * (1.0 - u) ** 2 / self._seconds
        return self._start + share * distance, rate * distance


def check_rest_poses(contract: Contract) -> None:
    """Check that the tool is inside its workspace box in every rest pose.

    Raises:
        ContractError: it is outside; a shutdown could not move the arm there.
    """
    arms = {name: arm.rest for name, arm in contract.arms.items() if arm.rest is not None}
    kinematics = kinematics_of(contract) if arms else {}
    for name, rest in arms.items():
        box = ToolBox(contract, name, kinematics[name])
        outside = float(box.excess(box.tool_positions_of_arm(np.array([rest])))[0])
        if outside > 0.0:
            raise ContractError(
                f"{contract.key_of(name, 'rest')}: has the tool {1e3 * outside:.0f} mm outside"
                " workspace; choose a pose inside it, or widen workspace"
            )


def _target(
    contract: Contract, limits: JointLimits, start: np.ndarray, arms: Collection[str], pose: Pose
) -> np.ndarray:
    """Return the target joints (J,): the pose of ``arms``, ``start`` for all other joints."""
    if unknown := sorted(set(arms) - set(contract.arms)):
        raise MotionRefused(
            f"arms: there is no {unknown[0]}; name one of {', '.join(contract.arms)}"
        )
    target = start.copy()
    for name, arm in contract.arms.items():
        if arms and name not in arms:
            continue
        joints = arm.home if pose is Pose.HOME else arm.rest
        if joints is None:
            raise MotionRefused(f"arm {name} has no {pose} pose; add {pose} to the contract")
        target[contract.columns.commands.indices(ColumnKind.JOINT, arm=name)] = joints
    return limits.inside(target)
