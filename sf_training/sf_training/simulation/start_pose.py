"""Where a simulated arm begins: the tool points down above the table, within limits and without
touching.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.collision import Box, CollisionModel
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.simulation.camera_mounts import hand_axes
from sf_training.simulation.scene import CUBE_HALF, PEDESTAL_HEIGHT_MAX
from sf_training.simulation.sim_model import Approach

_HEIGHTS = (0.20, 0.15), (0.11,)  # m of the tool above the table, the first that can be reached
_TILTS = (0.0, 0.5, 0.9)  # rad away from the base, where the tool cannot point straight down
_SHARE = 0.55  # of the workspace's extent: where cubes may stand
_SPREAD = 0.3  # of the workspace's half extent: where the tool may begin
_LIFT = 0.12  # m above the highest pedestal: the tool must get there too
_ABOVE = 0.06  # m of the tool above the highest cube at the start, the spread included
_YAWS = (0.5 * np.pi, -0.5 * np.pi), (0.0, np.pi)  # fingers left and right of a tilted tool, else
_TRIES = 12
_POSE = 6  # joints that hold a tool anywhere in one direction
_log = logging.getLogger(__name__)


class StartPoses:
    """Draws start poses of an arm; :attr:`home` (J,) is the one in the middle.

    Args:
        table: height of the table in the base frame [m].

    An arm that reaches no pose with the tool down starts in the middle of its joint ranges, and a
    warning says so.
    """

    def __init__(self, contract: Contract, table: float) -> None:
        self._contract, self._table = contract, table
        self._kinematics = Kinematics(contract)
        self._limits = JointLimits.of(contract)
        self._arm = len(contract.joints)
        self._lower, self._upper = (
            np.array(contract.workspace.lower),
            np.array(contract.workspace.upper),
        )
        box = Box("table", (*self._lower[:2] - 0.15, table - 0.1), (*self._upper[:2] + 0.15, table))
        self._collisions = CollisionModel.of(contract, boxes=[box], margin=0.0)
        self._centre = 0.5 * (self._lower + self._upper)
        self._root = _root(contract)
        self.approach: Approach | None = None  # of the tool, when it points down
        self.home = self._find_home()
        self._room = self._find_room()

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Return joints (J,) with the tool down at a random place above the table, gripper open."""
        spread = _SPREAD * 0.5 * (self._upper - self._lower)
        spread[2] = min(spread[2], 0.03)
        place = self._centre + random.uniform(-spread, spread)
        if self.approach is None:
            return self.home.copy()
        found = self._reach(np.clip(place, self._lower, self._upper))
        return self.home.copy() if found is None else found

    def pedestal_height(self) -> float:
        """Return how high pedestals may be [m], so that the tool starts above the cubes."""
        return self._room[0]

    def cube_area(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the corners (2,), (2,) of the largest centred area that the tool reaches [m]."""
        return self._room[1], self._room[2]

    def _find_room(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Height of pedestals and corners of the cubes' area: low pedestals before a small area."""
        room = float(self._centre[2]) - self._table - _ABOVE - 2.0 * CUBE_HALF
        highest = min(max(room, 0.005), PEDESTAL_HEIGHT_MAX)
        half = 0.5 * _SHARE * (self._upper - self._lower)[:2]
        choices = [
            (scale, share * highest)
            for scales in (np.linspace(1.0, 0.7, 4), np.linspace(0.6, 0.3, 4))
            for share in (1.0, 0.6, 0.3, 0.1)
            for scale in scales
        ]
        for scale, pedestal in choices:
            corners = [scale * half * np.array([x, y]) for x in (-1, 1) for y in (-1, 1)]
            places = [
                np.append(self._centre[:2] + corner, self._table + height)
                for corner in corners
                for height in (CUBE_HALF, pedestal + _LIFT)
            ]
            if self.approach is None or all(self._reach(place) is not None for place in places):
                break
        return pedestal, self._centre[:2] - scale * half, self._centre[:2] + scale * half

    def _reach(self, place: np.ndarray) -> np.ndarray | None:
        target = ToolPose(place, self.approach.at(place))
        found = self._kinematics.inverse(target, self.home[: self._arm])
        if not found.reached:
            return None
        joints = self._with_gripper(found.positions)
        return None if self._collisions.first_collision(joints[None]) else joints

    def _find_home(self) -> np.ndarray:
        for heights, tilt in itertools.product(_HEIGHTS, _TILTS):
            for height, yaws in itertools.product(heights, _YAWS if tilt else [sum(_YAWS, ())]):
                self._centre[2] = np.clip(self._table + height, self._lower[2], self._upper[2])
                found = self._find_joints(self._rotations(tilt, yaws))
                if found is not None:
                    return found
        lower, upper = self._limits.lower[: self._arm], self._limits.upper[: self._arm]
        _log.warning(
            "simulation: %s reaches no pose with the tool down above %s; it starts in the middle "
            "of its joint ranges. Check workspace and tool_frame",
            self._contract.robot,
            np.round(self._centre[:2], 3).tolist(),
        )
        return self._with_gripper(0.5 * (lower + upper))

    def _find_joints(self, rotations: list[np.ndarray]) -> np.ndarray | None:
        """Joints (J,) far from their limits with the tool in the middle, in one of
        ``rotations``.
        """
        lower, upper = self._limits.lower[: self._arm], self._limits.upper[: self._arm]
        middle, random = 0.5 * (lower + upper), np.random.default_rng(0)
        zero = np.clip(np.zeros(self._arm), lower, upper)
        best, best_cost = None, np.inf
        for attempt in range(_TRIES):
            share = 0.0 if attempt < 2 else 0.5
            aside = share * random.uniform(-0.5, 0.5, self._arm) * (upper - lower)
            for rotation in rotations:
                target = ToolPose(self._centre, rotation)
                found = self._kinematics.inverse(target, (zero, middle)[attempt % 2] + aside)
                if not found.reached:
                    continue
                joints = self._with_gripper(found.positions)
                cost = float((np.abs(found.positions - middle) / (upper - lower)).max())
                if cost < best_cost and self._collisions.first_collision(joints[None]) is None:
                    root = self._root if self._arm < _POSE else None
                    best, best_cost = joints, cost
                    self.approach = Approach(rotation, self._centre.copy(), root)
            if best_cost < 0.3:
                break
        return best

    def _rotations(self, tilt: float, yaws: Sequence[float]) -> list[np.ndarray]:
        """Orientations (3, 3) in which the tool points down, ``tilt`` [rad] away from the base and
        turned by ``yaws`` [rad].

        The contract's own orientation comes first, if there is one.
        """
        given = self._contract.action.tool_orientation
        if given is not None:
            x, y, z, w = given
            return [pinocchio.Quaternion(w, x, y, z).normalized().toRotationMatrix()]
        model = pinocchio.buildModelFromXML(self._contract.urdf_xml)
        frame = model.getFrameId(self._contract.tool_frame, pinocchio.FrameType.BODY)
        tool = model.frames[frame].placement
        ahead, aside = (
            tool.rotation.T @ axis for axis in hand_axes(model, self._contract.tool_frame)
        )
        tool_axes = np.column_stack([ahead, aside, np.cross(ahead, aside)])
        turned = []
        for yaw in yaws:
            outward = self._outward()
            down = np.array([0.0, 0.0, -np.cos(tilt)]) + np.sin(tilt) * outward
            across = np.cross(down, outward)
            across /= np.linalg.norm(across)
            side = np.cos(yaw) * across + np.sin(yaw) * np.cross(down, across)
            turned.append(np.column_stack([down, side, np.cross(down, side)]) @ tool_axes.T)
        return turned

    def _outward(self) -> np.ndarray:
        """The axis (3,) of the base frame along which the workspace lies, seen from the arm.

        An axis, because cubes stand with their sides along the axes.
        """
        way = self._centre[:2] - self._root[:2]
        axis = int(np.abs(way).argmax())
        outward = np.zeros(3)
        outward[axis] = np.sign(way[axis]) or 1.0
        return outward

    def _with_gripper(self, positions: np.ndarray) -> np.ndarray:
        gripper = self._contract.gripper
        return np.append(positions, gripper.open) if gripper else np.array(positions)


def _root(contract: Contract) -> np.ndarray:
    """Where the first joint of the arm is in the base frame (3,) [m]."""
    model = pinocchio.buildModelFromXML(contract.urdf_xml)
    data = model.createData()
    pinocchio.framesForwardKinematics(model, data, pinocchio.neutral(model))
    base = data.oMf[model.getFrameId(contract.base_frame, pinocchio.FrameType.BODY)]
    return base.actInv(data.oMi[model.getJointId(contract.joints[0].name)]).translation
