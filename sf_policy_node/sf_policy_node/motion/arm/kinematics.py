"""Forward and inverse kinematics of the arms in a contract, from their URDF, by pinocchio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import pinocchio

from sf_policy_node.contract import Contract, ContractError
from sf_policy_node.motion.arm.chain import check_chain, for_pinocchio
from sf_policy_node.motion.arm.tool_chain import ToolChain

_MAX_STEP = 0.2  # rad or m in one iteration: keeps the solution on the branch of the seed
_MAX_ITERATIONS = 60
_POSE = 6  # degrees of freedom of a pose
_POSTURE_GAIN = 0.2  # share of the distance to the rest posture that each solution moves ...
_POSTURE_MOST = 0.02  # ... and the largest such motion of a joint [rad or m]
_CLOSE = 5e-5  # m, and ten times as many rad: errors below this end the iteration


@dataclass(frozen=True)
class ToolPose:
    """Pose of the tool frame in the contract's base frame: ``position`` (3,) [m], ``rotation``
    (3, 3).
    """

    position: np.ndarray
    rotation: np.ndarray


@dataclass(frozen=True)
class InverseSolution:
    """Arm joints ``positions`` (J,) inside their limits, and the remaining error [m], [rad]."""

    positions: np.ndarray
    position_error: float
    rotation_error: float

    @property
    def reached(self) -> bool:
        """Whether the error is below 1 mm and 0.01 rad."""
        return self.position_error < 1e-3 and self.rotation_error < 1e-2


class Kinematics:
    """Kinematics of one arm in the contract's ``base_frame``; all joints but this arm's are locked.

    For an arm with more than six joints :meth:`inverse` moves the posture in the null space towards
    the arm's home pose, or the middle of the joint ranges if it has none.

    Args:
        arm: name of the arm; None: the only one.

    Raises:
        ContractError: the URDF lacks a joint or a frame that the contract names, or other joints
            than the arm's move its tool (:func:`check_chain`).
    """

    def __init__(self, contract: Contract, arm: str | None = None) -> None:
        spec = contract.only_arm if arm is None else contract.arms[arm]
        check_chain(contract, next(iter(contract.arms)) if arm is None else arm)
        try:
            xml, renamed = for_pinocchio(contract)
            model = pinocchio.buildModelFromXML(xml)
        except (ValueError, RuntimeError) as error:
            raise ContractError(
                f"urdf: {contract.urdf} cannot be parsed ({' '.join(str(error).split())}); export"
                " it again"
            ) from None
        self._fixed_links = _fixed_links(model, contract.base_frame)
        names = [renamed.get(name, name) for name in spec.joint_names]
        locked = [model.getJointId(name) for name in list(model.names)[1:] if name not in names]
        self._model = pinocchio.buildReducedModel(model, locked, pinocchio.neutral(model))
        self._data = self._model.createData()
        self._tool = _frame(self._model, spec.tool_frame)
        self._base = _frame(self._model, contract.base_frame)
        self._columns = np.array(
            [self._model.joints[self._model.getJointId(name)].idx_q for name in names]
        )
        self._in_order = bool((self._columns == np.arange(self._model.nq)).all())
        self._lower = np.array([joint.lower for joint in spec.joints])
        self._upper = np.array([joint.upper for joint in spec.joints])
        rest = 0.5 * (self._lower + self._upper) if spec.home is None else np.array(spec.home)
        self._rest = rest if len(spec.joints) > _POSE else None
        base = self._model.frames[self._base]
        self._from_base = base.placement.copy()
        self._to_base = self._from_base.inverse()
        try:
            self._chain = ToolChain(self._model, self._tool, self._from_base, self._columns)
        except ValueError as error:
            raise ContractError(
                f"{contract.urdf}: {error}; an arm joint must be revolute, continuous or prismatic"
            ) from None

    def fixed_links(self) -> dict[str, pinocchio.SE3]:
        """Return the poses in the base frame of the links that do not move in it, by name."""
        return self._fixed_links

    def forward(self, positions: np.ndarray) -> ToolPose:
        """Return the tool pose for arm joint positions (J,), in the order of the contract."""
        pose = self._to_base.act(self._placement(np.asarray(positions, dtype=float)))
        return ToolPose(pose.translation.copy(), pose.rotation.copy())

    def tool_motion(
        self, positions: np.ndarray, velocities: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return tool positions (N, 3) [m] and velocities (N, 3) [m/s] in the base frame.

        Args:
            positions: (N, J) of the arm joints [rad or m].
            velocities: (N, J); None: 0.
        """
        return self._chain.move(positions, velocities)

    def jacobian(self, positions: np.ndarray) -> np.ndarray:
        """Return the Jacobian (6, J) of the tool in the base frame at arm joints (J,).

        It gives velocity [m/s], then angular velocity [rad/s], per joint velocity.
        """
        q = self._ordered(np.asarray(positions, dtype=float))
        jacobian = pinocchio.computeFrameJacobian(
            self._model, self._data, q, self._tool, pinocchio.LOCAL_WORLD_ALIGNED
        )[:, self._columns]
        rotation = self._to_base.rotation
        return np.vstack([rotation @ jacobian[:3], rotation @ jacobian[3:]])

    def condition(self, positions: np.ndarray) -> np.ndarray:
        """Return the condition numbers (N,) of the Jacobian (m and rad mixed) at arm joints (N, J).

        They are large near a singularity.
        """
        jacobians = np.empty((len(positions), 6, len(self._columns)))
        # In the tool's own frame: a rotation changes no singular value.
        for n, joints in enumerate(positions):
            jacobians[n] = pinocchio.computeFrameJacobian(
                self._model, self._data, self._ordered(joints), self._tool
            )[:, self._columns]
        values = np.linalg.svd(jacobians, compute_uv=False)
        return values[:, 0] / np.maximum(values[:, -1], 1e-9)

    def inverse(self, target: ToolPose, seed: np.ndarray) -> InverseSolution:
        """Return joint positions that move the tool to ``target``, by damped least squares.

        They are always inside the limits; check ``reached``. Each step is
        dq = J^T (J J^T + d I)^-1 e: dq (A,) the change of the joints, J (6, A) the Jacobian in the
        tool's frame, e (6,) the error of the pose (log of SE(3)) [m, rad], d the damping. With more
        than six joints the first step adds (I - J^+ J) p, with p (A,) towards the rest posture,
        which keeps the posture from drifting. A target that is reached already changes nothing.

        Source: Buss, "Introduction to Inverse Kinematics with Jacobian Transpose, Pseudoinverse and
        Damped Least Squares Methods", 2004, there also the null space method.

        Args:
            seed: (A,) joints from which the iteration starts.
        """
        q = np.minimum(np.maximum(np.asarray(seed, dtype=float), self._lower), self._upper)
        goal = self._from_base.act(pinocchio.SE3(target.rotation, target.position))
        for iteration in range(_MAX_ITERATIONS + 1):
            error = pinocchio.log6(self._placement(q).actInv(goal)).vector
            distance, angle = math.sqrt(error[:3] @ error[:3]), math.sqrt(error[3:] @ error[3:])
            if (distance < _CLOSE and angle < 10.0 * _CLOSE) or iteration == _MAX_ITERATIONS:
                break
            jacobian = pinocchio.computeFrameJacobian(
                self._model, self._data, self._ordered(q), self._tool
            )
            if not self._in_order:
                jacobian = jacobian[:, self._columns]
            jacobian = np.ascontiguousarray(jacobian)
            # Damping decreases with the error: stable near singularities, fast at the end.
            damping = 1e-6 + 1e-2 * (distance * distance + angle * angle)
            if iteration == 0 and self._rest is not None:
                posture = _posture_step(self._rest - q)
                step = posture + _damped_least_squares(
                    jacobian, error - jacobian @ posture, damping
                )
            else:
                step = _damped_least_squares(jacobian, error, damping)
            furthest = max(float(step.max()), -float(step.min()))
            if furthest > _MAX_STEP:
                step *= _MAX_STEP / furthest
            q = np.minimum(np.maximum(q + step, self._lower), self._upper)
        return InverseSolution(q, distance, angle)

    def _ordered(self, positions: np.ndarray) -> np.ndarray:
        if self._in_order:
            return positions
        q = np.zeros(self._model.nq)
        q[self._columns] = positions
        return q

    def _placement(self, positions: np.ndarray) -> pinocchio.SE3:
        """Return the tool's pose in the frame of the URDF's root. Valid until the next call."""
        pinocchio.forwardKinematics(self._model, self._data, self._ordered(positions))
        return pinocchio.updateFramePlacement(self._model, self._data, self._tool)


def _posture_step(distance: np.ndarray) -> np.ndarray:
    """Return the step (J,) towards the rest posture, ``distance`` (J,) away, before projection."""
    step = _POSTURE_GAIN * distance
    return step * min(1.0, _POSTURE_MOST / max(float(np.abs(step).max()), 1e-12))


def _frame(model: pinocchio.Model, name: str) -> int:
    """Return the index of a link's frame, or of a joint's frame if no link has that name.

    A URDF may give a link and a joint the same name.
    """
    if model.existFrame(name, pinocchio.FrameType.BODY):
        return model.getFrameId(name, pinocchio.FrameType.BODY)
    return model.getFrameId(name)


def kinematics_of(contract: Contract) -> dict[str, Kinematics]:
    """Return the kinematics of every arm of a contract, by arm name."""
    return {name: Kinematics(contract, name) for name in contract.arms}


def _fixed_links(model: pinocchio.Model, base_frame: str) -> dict[str, pinocchio.SE3]:
    """Return the poses of the links that are fixed to the base frame.

    ``model`` must have all joints of the URDF: a joint that the contract does not name may move.
    """
    base = model.frames[_frame(model, base_frame)]
    links = (
        frame
        for frame in model.frames
        if frame.type == pinocchio.FrameType.BODY and frame.parentJoint == base.parentJoint
    )
    return {frame.name: base.placement.actInv(frame.placement) for frame in links}


@numba.njit("f8[::1](f8[:, ::1], f8[::1], f8)", cache=True)
def _damped_least_squares(jacobian, error, damping):  # pragma: no cover - compiled
    """Compute J^T (J J^T + damping I)^-1 error (A,) for a Jacobian (6, A) and an error (6,).

    By Cholesky decomposition: the matrix is symmetric and positive definite.
    """
    size, joints = jacobian.shape
    lower = np.zeros((size, size))
    x = error.copy()
    for i in range(size):
        for j in range(i + 1):
            total = damping if i == j else 0.0
            for k in range(joints):
                total += jacobian[i, k] * jacobian[j, k]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            lower[i, j] = math.sqrt(total) if i == j else total / lower[j, j]
        for k in range(i):
            x[i] -= lower[i, k] * x[k]
        x[i] /= lower[i, i]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, size):
            x[i] -= lower[k, i] * x[k]
        x[i] /= lower[i, i]
    step = np.zeros(joints)
    for i in range(size):
        for k in range(joints):
            step[k] += jacobian[i, k] * x[i]
    return step
