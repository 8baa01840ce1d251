"""Joint motion as motion of the tool, for controllers that take a twist or a pose."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics

_GAIN = 2.0  # 1/s: a drift is taken back with a time constant of half a second
_LAG_S = 0.3  # the arm may follow this late: only what is beside its path counts as drift
_FRESH_S = 0.1  # without a newer measurement nobody knows where back is
_FURTHEST = 0.05  # m and rad that are taken back at once
_RAMP = 0.5  # m/s^2 and rad/s^2 with which a correction comes and goes


@dataclass(frozen=True)
class ToolPlace:
    """The tool frame in the contract's base frame: ``position`` (3,) [m], ``quaternion`` (4,) x y z
    w.
    """

    position: np.ndarray
    quaternion: np.ndarray


class ToolMotion:
    """Pose and twist of the tool from the arm joints (J,), in the order of the contract and without
    the gripper.

    Raises:
        ContractError: when the URDF does not fit the contract.
    """

    def __init__(self, contract: Contract) -> None:
        self._kinematics = Kinematics(contract)

    def pose(self, positions: np.ndarray) -> ToolPlace:
        """Return the tool's pose when the joints are at ``positions`` [rad or m]."""
        tool = self._kinematics.forward(positions)
        return ToolPlace(tool.position, pinocchio.Quaternion(tool.rotation).coeffs())

    def twist(self, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        """(6,): velocity of the tool frame's origin [m/s], then angular velocity [rad/s], both
        along the axes of the base frame.

        This is what MoveIt Servo takes in ``speed_units``: it turns about the tool, not about the
        base.
        """
        return self._kinematics.jacobian(positions) @ np.asarray(velocities, dtype=float)


class Drift:
    """How far the tool has strayed from the path it was led along.

    Twists add up: whatever the receiver loses of them (a late cycle, a slowed step) is lost for
    good unless somebody looks where the arm is. A late arm is not a drifted one, so the nearest
    place of the last moments counts.
    """

    def __init__(self) -> None:
        self._path: deque[tuple[float, ToolPlace]] = deque()
        self.forget()

    def note(self, now: float, wanted: ToolPlace) -> None:
        """Remember the commanded tool pose at ``now`` [s]."""
        if self._path and now - self._path[-1][0] > _LAG_S:
            self.forget()
        if now - self._measured > _FRESH_S:
            self._wanted = np.zeros(6)
        furthest = _RAMP * (now - self._path[-1][0]) if self._path else 0.0
        change = self._wanted - self.twist
        self.twist = self.twist + np.append(
            _shortened(change[:3], furthest), _shortened(change[3:], furthest)
        )
        self._path.append((now, wanted))
        while now - self._path[0][0] > _LAG_S:
            self._path.popleft()

    def forget(self) -> None:
        """Forget the motion: it has ended."""
        self._path.clear()
        self._measured = -np.inf
        self.twist, self._wanted = np.zeros(6), np.zeros(6)

    def measure(self, stamp: float, place: ToolPlace) -> None:
        """Take the measured tool pose at ``stamp`` [s]; :attr:`twist` (6,) in the base frame [m/s,
        rad/s] then corrects towards the path.
        """
        self._measured = stamp
        if not self._path:
            return
        gaps = np.array([wanted.position for _, wanted in self._path]) - place.position
        index = int(np.einsum("ij,ij->i", gaps, gaps).argmin())
        away, nearest = gaps[index], self._path[index][1]
        turned = pinocchio.log3(_matrix(nearest.quaternion) @ _matrix(place.quaternion).T)
        self._wanted = _GAIN * np.append(_shortened(away, _FURTHEST), _shortened(turned, _FURTHEST))


def kept_below(speed: float, planned: np.ndarray, correction: np.ndarray) -> np.ndarray:
    """Sum of two twists (6,), whose tool is no faster than ``speed`` [m/s] or than it was
    planned.
    """
    twist = planned + correction
    allowed, found = (
        max(speed, float(np.linalg.norm(planned[:3]))),
        float(np.linalg.norm(twist[:3])),
    )
    return np.append(twist[:3] * min(1.0, allowed / max(found, 1e-12)), twist[3:])


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    x, y, z, w = quaternion
    return pinocchio.Quaternion(w, x, y, z).toRotationMatrix()


def _shortened(vector: np.ndarray, longest: float) -> np.ndarray:
    return vector * min(1.0, longest / max(float(np.linalg.norm(vector)), 1e-12))
