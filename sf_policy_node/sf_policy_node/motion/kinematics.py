"""Forward and inverse kinematics of the arm in a contract, on its URDF, through pinocchio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract, ContractError

_MAX_STEP = 0.2  # rad or m in one iteration: keeps the solution on the branch of the seed
_MAX_ITERATIONS = 60


@dataclass(frozen=True)
class ToolPose:
    """Tool frame in the contract's base frame: ``position`` (3,) [m], ``rotation`` (3, 3)."""

    position: np.ndarray
    rotation: np.ndarray


@dataclass(frozen=True)
class InverseSolution:
    """Arm joints (J,) inside their limits, with what is left of the error [m], [rad]."""

    positions: np.ndarray
    position_error: float
    rotation_error: float

    @property
    def reached(self) -> bool:
        """Within 1 mm and 0.01 rad."""
        return self.position_error < 1e-3 and self.rotation_error < 1e-2


class Kinematics:
    """Kinematics of the arm joints; the gripper and any other joint of the URDF are locked.

    Raises:
        ContractError: when the URDF lacks a joint or a frame that the contract names.
    """

    def __init__(self, contract: Contract) -> None:
        try:
            model = pinocchio.buildModelFromXML(contract.urdf_xml)
        except (ValueError, RuntimeError) as error:
            raise ContractError(f"urdf: {contract.urdf} cannot be parsed ({error})") from None
        for name in contract.arm_joints:
            if not model.existJointName(name):
                raise ContractError(f"joints.{name}: {contract.urdf} has no such joint; it has {', '.join(list(model.names)[1:])}")
        for key, frame in (("base_frame", contract.base_frame), ("tool_frame", contract.tool_frame)):
            if not model.existFrame(frame):
                raise ContractError(f"{key}: {contract.urdf} has no frame {frame!r}")
        locked = [model.getJointId(name) for name in list(model.names)[1:] if name not in contract.arm_joints]
        self._model = pinocchio.buildReducedModel(model, locked, pinocchio.neutral(model))
        self._data = self._model.createData()
        self._tool = self._model.getFrameId(contract.tool_frame)
        self._base = self._model.getFrameId(contract.base_frame)
        self._columns = np.array([self._model.joints[self._model.getJointId(name)].idx_q for name in contract.arm_joints])
        self._lower = np.array([joint.lower for joint in contract.joints])
        self._upper = np.array([joint.upper for joint in contract.joints])

    def forward(self, positions: np.ndarray) -> ToolPose:
        """Tool pose for arm joint positions (J,), in the order of the contract."""
        self._update(np.asarray(positions, dtype=float))
        pose = self._data.oMf[self._base].actInv(self._data.oMf[self._tool])
        return ToolPose(pose.translation.copy(), pose.rotation.copy())

    def inverse(self, target: ToolPose, seed: np.ndarray) -> InverseSolution:
        """Joint positions that bring the tool to ``target``, by damped least squares from ``seed`` (J,).

        Buss, "Introduction to Inverse Kinematics with Jacobian Transpose, Pseudoinverse and Damped Least
        Squares Methods", 2004. Always returns positions inside the limits; check ``reached``.
        """
        q = np.clip(np.asarray(seed, dtype=float), self._lower, self._upper)
        self._update(q)
        goal = self._data.oMf[self._base].act(pinocchio.SE3(target.rotation, target.position))
        for _ in range(_MAX_ITERATIONS):
            error = pinocchio.log6(self._data.oMf[self._tool].actInv(goal)).vector
            if np.linalg.norm(error[:3]) < 1e-5 and np.linalg.norm(error[3:]) < 1e-4:
                break
            jacobian = pinocchio.computeFrameJacobian(self._model, self._data, self._ordered(q), self._tool)[:, self._columns]
            # Damping falls with the error: safe near singularities, quick at the end.
            damping = 1e-6 + 1e-2 * float(error @ error)
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping * np.eye(6), error)
            step *= min(1.0, _MAX_STEP / max(np.abs(step).max(), 1e-12))
            q = np.clip(q + step, self._lower, self._upper)
            self._update(q)
        error = pinocchio.log6(self._data.oMf[self._tool].actInv(goal)).vector
        return InverseSolution(q, float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:])))

    def _ordered(self, positions: np.ndarray) -> np.ndarray:
        q = np.zeros(self._model.nq)
        q[self._columns] = positions
        return q

    def _update(self, positions: np.ndarray) -> None:
        pinocchio.framesForwardKinematics(self._model, self._data, self._ordered(positions))
