"""The bodies, joints and servos of any robot in MuJoCo, from its URDF as pinocchio reads it."""

from __future__ import annotations

import dataclasses

import coal
import numpy as np
import pinocchio

from sf_policy_node.contract import Contract, ContractError
from sf_policy_node.contract_columns import ColumnKind
from sf_policy_node.motion.arm.joint_tree import JointTree
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.link_geometry import LinkShape
from sf_training.simulation.scene_parts import GRIPPER, NOTHING
from sf_training.simulation.sim_model import Servos

_FREQUENCY = 100.0  # rad/s: of a servo with its joint; steps of 5 ms still resolve it
_ARMATURE = 0.05  # kg m^2 of a turning joint's motor, seen at the joint; also below, in kg
_SLIDE_ARMATURE = 0.02
_LEAST_MASS = 0.05  # kg: a body that the URDF gives less is a frame without a mass of its own
_ASSUMED_MASS = 0.5  # kg, of such a body
_FINGER_FORCE = 15.0  # N of a sliding finger at most
_FINGER_TORQUE = 2.0  # N m of a turning finger at most
_ROOM = 0.02  # of a joint's range beyond the contract's limits [rad], a tenth of it [m]
_LINK, _HAND = [0.9, 0.9, 0.92, 1.0], [0.25, 0.3, 0.4, 1.0]


class RobotBodies:
    """Adds a robot to a MuJoCo specification whose world is the contract's base frame.

    Commanded joints and their mimics become joints with a position servo each; other joints of the
    URDF are rigid, where :class:`JointTree` puts them.
    """

    def __init__(self, spec, contract: Contract, model: pinocchio.Model, tree: JointTree) -> None:
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
        arm_moves = self._movers[:, contract.columns.commands.mask(ColumnKind.JOINT)].any(axis=1)
        # A hand is what the last joint of an arm moves: only it meets objects.
        self._hands = {
            name: np.array(
                [tree.names.index(arm.joint_names[-1]) in self._up(n) for n in range(count)],
                dtype=bool,
            )
            for name, arm in contract.arms.items()
        }
        self._is_finger = self._movers.any(axis=1) & ~arm_moves
        base = model.frames[model.getFrameId(contract.base_frame, pinocchio.FrameType.BODY)]
        self._to_base = base.placement.inverse()
        self.joint_names: dict[str, str] = {}  # of the URDF: of the MuJoCo model
        self.hand_geoms: dict[str, list[str]] = {name: [] for name in contract.arms}
        self.finger_geoms: dict[str, list[str]] = {name: [] for name in contract.arms}

    def add(self, shapes: list[LinkShape]) -> None:
        """Add all bodies with ``shapes``; boxes around the robot are left out by the caller."""
        root = self._spec.worldbody.add_body(name="robot", **_pose(self._to_base))
        self._bodies = {0: root}
        for n in range(len(self._tree.names)):
            joint = n + 1
            placement = self._model.jointPlacements[joint].copy()
            if not self._movers[n].any():
                placement = placement * self._rigid(n)
            parent = self._bodies[int(self._model.parents[joint])]
            body = parent.add_body(name=f"body{joint}", gravcomp=1.0, **_pose(placement))
            self._bodies[joint] = body
            self._set_mass(body, joint)
            if self._movers[n].any():
                self._add_joint(body, n)
        for index, shape in enumerate(shapes):
            self._add_shape(f"shape{index}", shape)

    def body(self, frame: str):
        """Return the body that carries a frame of the URDF, and the frame's placement in it."""
        kind = pinocchio.FrameType.BODY
        if not self._model.existFrame(frame, kind):
            raise ContractError(f"simulation.cameras: the URDF has no link {frame!r}")
        found = self._model.frames[self._model.getFrameId(frame, kind)]
        return self._bodies[found.parentJoint], found.placement

    def add_servos(self) -> Servos:
        """Add a position servo for every commanded joint, and hold mimic joints to theirs.

        Gains follow in :func:`tune`, of the built model.
        """
        import mujoco

        limits, tree = JointLimits.of(self._contract), self._tree
        names = [self.joint_names[name] for name in limits.names]
        followers = []
        for n, name in enumerate(tree.names):
            if not self._movers[n].any():
                continue
            column = int(np.flatnonzero(self._movers[n])[0])
            multiplier, offset = tree.slope(column, n), float(self._angles[n])
            ends = np.array([limits.lower[column], limits.upper[column]])
            ends = np.sort(multiplier * ends + offset)
            room = _ROOM * (0.1 if tree.slides[n] else 1.0)
            joint = self._spec.joint(self.joint_names[name])
            joint.limited, joint.range = True, [ends[0] - room, ends[1] + room]
            if name == limits.names[column]:
                continue
            followers.append((self.joint_names[name], names[column], multiplier, offset))
            held = self._spec.add_equality(name=f"follow{n}", type=mujoco.mjtEq.mjEQ_JOINT)
            held.name1, held.name2 = followers[-1][:2]
            held.data[:2] = offset, multiplier
        for column, name in enumerate(names):
            servo = self._spec.add_actuator(
                name=f"servo{column}", target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT
            )
            servo.set_to_position(kp=1.0, kv=1.0)
            n = tree.names.index(limits.names[column])
            if self._is_finger[n]:
                most = _FINGER_FORCE if tree.slides[n] else _FINGER_TORQUE
                most *= 1 + sum(leader == name for _, leader, _, _ in followers)
                servo.forcelimited, servo.forcerange = True, [-most, most]
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
        chain = []
        while joint >= 0:
            chain.append(joint)
            joint = int(self._tree.parents[joint])
        return chain

    def _rigid(self, n: int) -> pinocchio.SE3:
        axis, angle = self._tree.axes[n], self._angles[n]
        if self._tree.slides[n]:
            return pinocchio.SE3(np.eye(3), axis * angle)
        return pinocchio.SE3(pinocchio.exp3(axis * angle), np.zeros(3))

    def _add_joint(self, body, n: int) -> None:
        import mujoco

        slides, name = bool(self._tree.slides[n]), self._tree.names[n]
        kind = mujoco.mjtJoint.mjJNT_SLIDE if slides else mujoco.mjtJoint.mjJNT_HINGE
        self.joint_names[name] = f"joint/{name}"
        body.add_joint(
            name=self.joint_names[name],
            type=kind,
            axis=self._tree.axes[n],
            armature=_SLIDE_ARMATURE if slides else _armature(self._is_finger[n]),
        )

    def _set_mass(self, body, joint: int) -> None:
        inertia = self._model.inertias[joint]
        body.explicitinertial = True
        principal = np.linalg.eigvalsh(inertia.inertia)
        valid = principal[0] > 1e-7 and principal[2] <= principal[0] + principal[1] + 1e-9
        if inertia.mass >= 1e-3 and valid:
            body.mass, body.ipos = inertia.mass, inertia.lever
            moments = inertia.inertia
            body.fullinertia = [*np.diag(moments), moments[0, 1], moments[0, 2], moments[1, 2]]
            return
        mass = _LEAST_MASS if self._is_finger[joint - 1] else _ASSUMED_MASS
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


def tune(model, data, servos: Servos) -> Servos:
    """Give every servo the gains of a critically damped joint at :data:`_FREQUENCY`.

    The moment of inertia is the largest that the joint sees in ``data``'s pose and stretched out.
    """
    import mujoco

    matrix = np.zeros((model.nv, model.nv))
    mujoco.mj_forward(model, data)
    mujoco.mj_fullM(model, data, matrix)
    feed_forward = np.zeros(len(servos.joints))
    for n, name in enumerate(servos.joints):
        # A follower adds its own inertia to its leader's, by the square of its multiplier.
        moved = [(name, 1.0)] + [
            (each, m) for each, leader, m, _ in servos.followers if leader == name
        ]
        dofs = [(model.joint(each).dofadr[0], factor) for each, factor in moved]
        inertia = sum(a * b * matrix[i, j] for i, a in dofs for j, b in dofs)
        stiffness, damping = inertia * _FREQUENCY**2, 2.0 * inertia * _FREQUENCY
        model.actuator_gainprm[n, 0] = stiffness
        model.actuator_biasprm[n, :3] = [0.0, -stiffness, -damping]
        feed_forward[n] = damping / stiffness
    return dataclasses.replace(servos, feed_forward=feed_forward)


def _armature(is_finger: bool) -> float:
    return 0.002 if is_finger else _ARMATURE


def _pose(placement: pinocchio.SE3) -> dict:
    x, y, z, w = pinocchio.Quaternion(placement.rotation).coeffs()
    return {"pos": placement.translation, "quat": [w, x, y, z]}


def _geometry(spec, name: str, geometry: coal.CollisionGeometry) -> dict:
    """Type and size of a geom; meshes are added to the specification."""
    import mujoco

    kinds = mujoco.mjtGeom
    if isinstance(geometry, coal.Capsule):
        return {"type": kinds.mjGEOM_CAPSULE, "size": [geometry.radius, geometry.halfLength, 0]}
    if isinstance(geometry, coal.Cylinder):
        return {"type": kinds.mjGEOM_CYLINDER, "size": [geometry.radius, geometry.halfLength, 0]}
    if isinstance(geometry, coal.Sphere):
        return {"type": kinds.mjGEOM_SPHERE, "size": [geometry.radius, 0, 0]}
    if isinstance(geometry, coal.Box):
        return {"type": kinds.mjGEOM_BOX, "size": geometry.halfSide}
    spec.add_mesh(name=name, uservert=np.asarray(geometry.points()).ravel())
    return {"type": kinds.mjGEOM_MESH, "meshname": name}
