"""Build the MuJoCo bodies, joints and servos of any robot from its URDF, as pinocchio reads it."""

from __future__ import annotations

import dataclasses
from typing import Any

import coal
import numpy as np
import pinocchio

from sf_policy_node.contract import Contract, ContractError
from sf_policy_node.contract.columns import ColumnKind
from sf_policy_node.motion.arm.joint_tree import JointTree
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.link_geometry import LinkShape
from sf_training.simulation.scene_parts import GRIPPER, NOTHING
from sf_training.simulation.sim_model import Servos

_FREQUENCY = 100.0  # rad/s, natural frequency of servo and joint; 5 ms steps resolve it
_ARMATURE = 0.05  # kg m^2, rotor inertia of a revolute joint, seen at the joint
_SLIDE_ARMATURE = 0.02  # kg, the same of a prismatic joint
_FINGER_MASS = 0.05  # kg, of fingers to which the URDF gives no usable inertia
_ASSUMED_MASS = 0.5  # kg, of other such bodies
_FINGER_FORCE = 15.0  # N, maximum of a prismatic finger
_FINGER_TORQUE = 2.0  # N m, maximum of a revolute finger
_ROOM = 0.02  # rad by which the range of a joint exceeds the contract's limits; a tenth of it in m
_LINK, _HAND = [0.9, 0.9, 0.92, 1.0], [0.25, 0.3, 0.4, 1.0]


class RobotBodies:
    """Add a robot to a MuJoCo specification whose world frame is the base frame of the contract.

    Command joints get a position servo each, their mimic joints follow by a constraint. Other
    joints of the URDF are rigid, at the positions of :class:`JointTree`.
    """

    def __init__(
        self, spec: Any, contract: Contract, model: pinocchio.Model, tree: JointTree
    ) -> None:
        self._spec, self._contract, self._model, self._tree = spec, contract, model, tree
        count = len(tree.names)
        for name, arm in contract.arms.items():
            if arm.gripper and not arm.gripper.in_urdf:
                raise ContractError(
                    f"arms.{name}.gripper.in_urdf: {contract.urdf} has no gripper to simulate; add"
                    " its joint and links"
                )
        self._angles = tree.angles(np.zeros((1, len(contract.command_joints))))[0]
        self._movers = tree.movers()
        arm_moves = np.any(
            self._movers[:, contract.columns.commands.mask(ColumnKind.JOINT)], axis=1
        )
        # A hand is everything that the last joint of an arm moves. Only hands have contacts.
        self._hands = {
            name: np.array(
                [
                    tree.names.index(arm.joint_names[-1]) in self._up(index)
                    for index in range(count)
                ],
                dtype=bool,
            )
            for name, arm in contract.arms.items()
        }
        self._is_finger = np.any(self._movers, axis=1) & ~arm_moves
        base = model.frames[model.getFrameId(contract.base_frame, pinocchio.FrameType.BODY)]
        self._to_base = base.placement.inverse()
        self.joint_names: dict[str, str] = {}  # name in the URDF to name in the MuJoCo model
        self.hand_geoms: dict[str, list[str]] = {name: [] for name in contract.arms}
        self.finger_geoms: dict[str, list[str]] = {name: [] for name in contract.arms}

    def add(self, shapes: list[LinkShape]) -> None:
        """Add all bodies with the shapes of their links."""
        root = self._spec.worldbody.add_body(name="robot", **_pose(self._to_base))
        self._bodies = {0: root}
        for index in range(len(self._tree.names)):
            joint = index + 1
            placement = self._model.jointPlacements[joint].copy()
            if not self._movers[index].any():
                placement = placement * self._rigid(index)
            parent = self._bodies[int(self._model.parents[joint])]
            body = parent.add_body(name=f"body{joint}", gravcomp=1.0, **_pose(placement))
            self._bodies[joint] = body
            self._set_mass(body, joint)
            if self._movers[index].any():
                self._add_joint(body, index)
        for index, shape in enumerate(shapes):
            self._add_shape(f"shape{index}", shape)

    def body(self, frame: str) -> tuple[Any, pinocchio.SE3]:
        """Return the body that carries a link of the URDF, and the placement of the link in it."""
        if not self._model.existFrame(frame, pinocchio.FrameType.BODY):
            raise ContractError(
                f"simulation.cameras: the URDF has no link {frame!r}; correct its frame"
            )
        found = self._model.frames[self._model.getFrameId(frame, pinocchio.FrameType.BODY)]
        return self._bodies[found.parentJoint], found.placement

    def add_servos(self) -> Servos:
        """Add a position servo for every command joint, and couple mimic joints to it.

        :func:`tune` sets the gains in the compiled model.
        """
        import mujoco

        limits, tree = JointLimits.of(self._contract), self._tree
        names = [self.joint_names[name] for name in limits.names]
        followers = []
        for index, name in enumerate(tree.names):
            if not self._movers[index].any():
                continue
            column = int(np.flatnonzero(self._movers[index])[0])
            multiplier, offset = tree.slope(column, index), float(self._angles[index])
            bounds = np.array([limits.lower[column], limits.upper[column]])
            bounds = np.sort(multiplier * bounds + offset)
            room = _ROOM * (0.1 if tree.slides[index] else 1.0)
            joint = self._spec.joint(self.joint_names[name])
            joint.limited, joint.range = True, [bounds[0] - room, bounds[1] + room]
            if name == limits.names[column]:
                continue
            followers.append((self.joint_names[name], names[column], multiplier, offset))
            held = self._spec.add_equality(name=f"follow{index}", type=mujoco.mjtEq.mjEQ_JOINT)
            held.name1, held.name2 = followers[-1][:2]
            held.data[:2] = offset, multiplier
        for column, name in enumerate(names):
            servo = self._spec.add_actuator(
                name=f"servo{column}", target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT
            )
            servo.set_to_position(kp=1.0, kv=1.0)
            index = tree.names.index(limits.names[column])
            if self._is_finger[index]:
                force = _FINGER_FORCE if tree.slides[index] else _FINGER_TORQUE
                force *= 1 + sum(leader == name for _, leader, _, _ in followers)
                servo.forcelimited, servo.forcerange = True, [-force, force]
        count = len(names)
        return Servos(
            joints=tuple(names),
            source=np.arange(count),
            multiplier=np.ones(count),
            offset=np.zeros(count),
            feed_forward=np.zeros(count),
            followers=tuple(followers),
        )

    def _up(self, joint: int) -> list[int]:
        """Return a joint and all its ancestors."""
        chain = []
        while joint >= 0:
            chain.append(joint)
            joint = int(self._tree.parents[joint])
        return chain

    def _rigid(self, index: int) -> pinocchio.SE3:
        """Return the displacement of a joint that is not commanded."""
        axis, angle = self._tree.axes[index], self._angles[index]
        if self._tree.slides[index]:
            return pinocchio.SE3(np.eye(3), axis * angle)
        return pinocchio.SE3(pinocchio.exp3(axis * angle), np.zeros(3))

    def _add_joint(self, body: Any, index: int) -> None:
        import mujoco

        slides, name = bool(self._tree.slides[index]), self._tree.names[index]
        joint_type = mujoco.mjtJoint.mjJNT_SLIDE if slides else mujoco.mjtJoint.mjJNT_HINGE
        self.joint_names[name] = f"joint/{name}"
        body.add_joint(
            name=self.joint_names[name],
            type=joint_type,
            axis=self._tree.axes[index],
            armature=_SLIDE_ARMATURE if slides else _armature(self._is_finger[index]),
        )

    def _set_mass(self, body: Any, joint: int) -> None:
        inertia = self._model.inertias[joint]
        body.explicitinertial = True
        principal = np.linalg.eigvalsh(inertia.inertia)
        valid = principal[0] > 1e-7 and principal[2] <= principal[0] + principal[1] + 1e-9
        if inertia.mass >= 1e-3 and valid:
            body.mass, body.ipos = inertia.mass, inertia.lever
            moments = inertia.inertia
            body.fullinertia = [*np.diag(moments), moments[0, 1], moments[0, 2], moments[1, 2]]
            return
        mass = _FINGER_MASS if self._is_finger[joint - 1] else _ASSUMED_MASS
        body.mass, body.inertia = mass, [mass * 2e-3] * 3

    def _add_shape(self, name: str, shape: LinkShape) -> None:
        joint = shape.joint - 1
        hand = next(
            (arm for arm, inside in self._hands.items() if joint >= 0 and inside[joint]), None
        )
        material = {"rgba": _HAND if hand else _LINK} | (GRIPPER if hand else NOTHING)
        if hand:
            material |= {"friction": [1.5, 0.02, 0.001], "condim": 4}
            self.hand_geoms[hand].append(name)
            if self._is_finger[joint]:
                self.finger_geoms[hand].append(name)
        body, pose = self._bodies[shape.joint], _pose(shape.placement)
        body.add_geom(name=name, **_geometry(self._spec, name, shape.geometry), **pose, **material)


def tune(model: Any, data: Any, servos: Servos) -> Servos:
    """Set the gains of every servo for critical damping at the natural frequency w =
    :data:`_FREQUENCY`.

    With the inertia I that the joint sees in the pose of ``data`` (diagonal of the joint-space
    inertia matrix, plus followers), stiffness is I w^2 and damping 2 I w. Velocity feed-forward is
    damping / stiffness = 2 / w [s].
    """
    import mujoco

    matrix = np.zeros((model.nv, model.nv))
    mujoco.mj_forward(model, data)
    mujoco.mj_fullM(model, data, matrix)
    feed_forward = np.zeros(len(servos.joints))
    for column, name in enumerate(servos.joints):
        # A follower with multiplier m adds m^2 times its own inertia, and m times the coupling.
        moved = [(name, 1.0)] + [
            (each, m) for each, leader, m, _ in servos.followers if leader == name
        ]
        dofs = [(model.joint(each).dofadr[0], factor) for each, factor in moved]
        inertia = sum(a * b * matrix[i, j] for i, a in dofs for j, b in dofs)
        stiffness, damping = inertia * _FREQUENCY**2, 2.0 * inertia * _FREQUENCY
        model.actuator_gainprm[column, 0] = stiffness
        model.actuator_biasprm[column, :3] = [0.0, -stiffness, -damping]
        feed_forward[column] = damping / stiffness
    return dataclasses.replace(servos, feed_forward=feed_forward)


def _armature(is_finger: bool) -> float:
    return 0.002 if is_finger else _ARMATURE


def _pose(placement: pinocchio.SE3) -> dict:
    x, y, z, w = pinocchio.Quaternion(placement.rotation).coeffs()
    return {"pos": placement.translation, "quat": [w, x, y, z]}


def _geometry(spec: Any, name: str, geometry: coal.CollisionGeometry) -> dict:
    """Return type and size of a geom; add meshes to the specification."""
    import mujoco

    types = mujoco.mjtGeom
    if isinstance(geometry, coal.Capsule):
        return {"type": types.mjGEOM_CAPSULE, "size": [geometry.radius, geometry.halfLength, 0]}
    if isinstance(geometry, coal.Cylinder):
        return {"type": types.mjGEOM_CYLINDER, "size": [geometry.radius, geometry.halfLength, 0]}
    if isinstance(geometry, coal.Sphere):
        return {"type": types.mjGEOM_SPHERE, "size": [geometry.radius, 0, 0]}
    if isinstance(geometry, coal.Box):
        return {"type": types.mjGEOM_BOX, "size": geometry.halfSide}
    spec.add_mesh(name=name, uservert=np.asarray(geometry.points()).ravel())
    return {"type": types.mjGEOM_MESH, "meshname": name}
