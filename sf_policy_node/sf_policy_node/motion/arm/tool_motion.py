"""Converts joint motion to tool motion, for controllers that take a twist or a pose."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics

_GAIN = 2.0  # 1/s: a drift is corrected with a time constant of half a second
_LAG_S = 0.3  # the arm may lag by this much; a lag along the path is not a drift
_FRESH_S = 0.1  # an older measurement is not used for corrections
_FURTHEST = 0.05  # m and rad: the largest drift that counts for a correction
_DAMPING = 1e-6  # of joint velocities near a singularity
_RAMP = 0.5  # m/s^2 and rad/s^2: how fast a correction changes


@dataclass(frozen=True)
class QuaternionPose:
    """Pose of the tool frame in the contract's base frame.

    ``position`` (3,) [m], ``quaternion`` (4,) in the order x, y, z, w.
    """

    position: np.ndarray
    quaternion: np.ndarray


class ToolMotion:
    """Computes pose and twist of the tool of the only arm.

    Joints (J,) are in the order of the contract, without the gripper.

    Raises:
        ContractError: the URDF does not fit the contract.
    """

    def __init__(self, contract: Contract) -> None:
        self._kinematics = Kinematics(contract)

    def pose(self, positions: np.ndarray) -> QuaternionPose:
        """Return the tool's pose at joint positions (J,) [rad or m]."""
        tool = self._kinematics.forward(positions)
        return QuaternionPose(tool.position, pinocchio.Quaternion(tool.rotation).coeffs())

    def twist(self, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        """Return the twist (6,) of the tool at joint positions and velocities (J,).

        It is the velocity of the tool frame's origin [m/s], then the angular velocity [rad/s], both
        along the axes of the base frame. MoveIt Servo takes this form with ``speed_units``: it
        rotates about the tool, not about the base.
        """
        return self._kinematics.jacobian(positions) @ np.asarray(velocities, dtype=float)

    def joint_velocities(self, positions: np.ndarray, twist: np.ndarray) -> np.ndarray:
        """Return the joint velocities (J,) of a ``twist`` (6,) of the tool, by damped least
        squares: dq = J^T (J J^T + d I)^-1 twist.
        """
        jacobian = self._kinematics.jacobian(positions)
        squared = jacobian @ jacobian.T + _DAMPING * np.eye(6)
        return jacobian.T @ np.linalg.solve(squared, np.asarray(twist, dtype=float))


class Drift:
    """Measures how far the tool has drifted from its commanded path, and corrects it.

    Twists are integrated by the receiver. What it loses (a late cycle, a slowed step) accumulates
    as drift unless the measured pose is fed back. A lag along the path is not a drift, so the
    measured pose is compared with the nearest commanded pose of the last 0.3 s.

    :attr:`twist` (6,) is the correction in the base frame [m/s, rad/s].
    """

    def __init__(self) -> None:
        self._path: deque[tuple[float, QuaternionPose]] = deque()
        self.forget()

    def note(self, now: float, wanted: QuaternionPose) -> None:
        """Take the commanded tool pose at ``now`` [s] and update :attr:`twist`."""
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
        """Forget the path and the correction, because the motion has ended."""
        self._path.clear()
        self._measured = -np.inf
        self.twist, self._wanted = np.zeros(6), np.zeros(6)

    def measure(self, stamp: float, measured: QuaternionPose) -> None:
        """Take the measured tool pose at ``stamp`` [s], which :attr:`twist` then corrects."""
        self._measured = stamp
        if not self._path:
            return
        gaps = np.array([wanted.position for _, wanted in self._path]) - measured.position
        index = int(np.einsum("ij,ij->i", gaps, gaps).argmin())
        away, nearest = gaps[index], self._path[index][1]
        turned = pinocchio.log3(_matrix(nearest.quaternion) @ _matrix(measured.quaternion).T)
        self._wanted = _GAIN * np.append(_shortened(away, _FURTHEST), _shortened(turned, _FURTHEST))


def limit_correction(speed: float, planned: np.ndarray, correction: np.ndarray) -> np.ndarray:
    """Return the sum of two twists (6,), with its linear part limited.

    The tool is no faster than ``speed`` [m/s] or, if that is faster, than planned.
    """
    twist = planned + correction
    allowed, found = (
        max(speed, float(np.linalg.norm(planned[:3]))),
        float(np.linalg.norm(twist[:3])),
    )
    return np.append(twist[:3] * min(1.0, allowed / max(found, 1e-12)), twist[3:])


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) of a quaternion x y z w."""
    x, y, z, w = quaternion
    return pinocchio.Quaternion(w, x, y, z).toRotationMatrix()


def _shortened(vector: np.ndarray, longest: float) -> np.ndarray:
    return vector * min(1.0, longest / max(float(np.linalg.norm(vector)), 1e-12))
