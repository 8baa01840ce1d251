"""Forward and inverse kinematics of the arms in a contract, from their URDF, by pinocchio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract, ContractError
from sf_policy_node.motion.arm.chain import check_chain, for_pinocchio
from sf_policy_node.motion.arm.inverse_kinematics import REACHED, follow, jacobians
from sf_policy_node.motion.arm.tool_chain import ToolChain

_POSE = 6  # degrees of freedom of a pose


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
        """Whether the errors are below 1 mm and 0.01 rad."""
        return self.position_error < REACHED[0] and self.rotation_error < REACHED[1]


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
        self._rest = rest if len(spec.joints) > _POSE else np.zeros(0)
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
        # In the tool's own frame: a rotation changes no singular value.
        of_tool = jacobians(self._chain.chain, np.ascontiguousarray(positions, dtype=float))
        values = np.linalg.svd(of_tool, compute_uv=False)
        return values[:, 0] / np.maximum(values[:, -1], 1e-9)

    def inverse(self, target: ToolPose, seed: np.ndarray) -> InverseSolution:
        """Return joint positions that move the tool to ``target``, by damped least squares.

        They are always inside the limits; check ``reached``. A target that is reached already
        changes nothing.

        Args:
            seed: (A,) joints from which the iteration starts.
        """
        found, errors = self.follow(target.position[None], target.rotation[None], seed)
        return InverseSolution(found[-1], *errors[-1].tolist())

    def follow(
        self, positions: np.ndarray, rotations: np.ndarray, seed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return joint positions (R, A) that move the tool along poses, and errors (R, 2).

        R counts the poses up to the first that is not reached, with it. See
        :mod:`sf_policy_node.motion.arm.inverse_kinematics`.

        Args:
            positions: (N, 3) of the tool in the base frame [m].
            rotations: (N, 3, 3).
            seed: (A,) joints from which the first iteration starts.
        """
        turn = self._from_base.rotation
        found, errors, count = follow(
            self._chain.chain,
            np.ascontiguousarray(turn @ rotations),
            np.ascontiguousarray(positions @ turn.T + self._from_base.translation),
            self._lower,
            self._upper,
            self._rest,
            np.array(seed, dtype=float),
        )
        return found[:count], errors[:count]

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
