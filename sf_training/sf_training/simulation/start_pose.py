"""Find start poses of a simulated arm: tool pointing down above the table, within limits, without
collision.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.collision import Box, CollisionModel
from sf_policy_node.motion.arm.kinematics import InverseSolution, Kinematics, ToolPose
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.simulation.camera_mounts import hand_axes
from sf_training.simulation.scene import CUBE_HALF, PEDESTAL_HEIGHT_MAX
from sf_training.simulation.sim_model import Approach

_HEIGHTS = (0.20, 0.15), (0.11,)  # m of the tool above the table; the first reachable one is used
_TILTS = (0.0, 0.5, 0.9)  # rad away from the base, if the tool cannot point straight down
_SHARE = 0.55  # share of the extent of the workspace that cubes may use
_SPREAD = 0.3  # share of the half extent of the workspace in which the tool may start
_LIFT = 0.12  # m above the highest pedestal that the tool must reach
_ABOVE = 0.06  # m from the highest cube to the tool at the start, including the spread
# rad about the tool: first with the fingers left and right of a tilted tool, then turned by 90 deg
_YAWS = (0.5 * np.pi, -0.5 * np.pi), (0.0, np.pi)
_TRIES = 12  # seeds of the inverse kinematics
_TURNS = 6  # steps in which the tool of an arm with fewer joints than that is turned
_POSE = 6  # joints that are needed for any orientation of the tool
_log = logging.getLogger(__name__)


class StartPoses:
    """Draw start poses of an arm.

    An arm that reaches no pose with the tool down starts in the middle of its joint ranges, with a
    warning.

    Args:
        table: height of the table in the base frame [m].

    Attributes:
        home: (J,) joints with the tool at the centre.
        approach: orientation of the tool; None if it cannot point down.
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
        self.approach: Approach | None = None
        self.home = self._find_home()
        self._room = self._find_room()

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Return joints (J,) with the tool down at a random position, gripper open.

        :attr:`home` if that position is out of reach or in collision.
        """
        spread = _SPREAD * 0.5 * (self._upper - self._lower)
        spread[2] = min(spread[2], 0.03)
        position = self._centre + random.uniform(-spread, spread)
        if self.approach is None:
            return self.home.copy()
        found = self._reach(np.clip(position, self._lower, self._upper))
        return self.home.copy() if found is None else found

    def pedestal_height(self) -> float:
        """Return the maximum height of pedestals [m], so that the tool starts above the cubes."""
        return self._room[0]

    def cube_area(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the corners (2,), (2,) of the largest centred area that the tool reaches [m]."""
        return self._room[1], self._room[2]

    def _find_room(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Return pedestal height [m] and corners of the cube area; lower pedestals are preferred to
        a smaller area.
        """
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
            positions = [
                np.append(self._centre[:2] + corner, self._table + height)
                for corner in corners
                for height in (CUBE_HALF, pedestal + _LIFT)
            ]
            if self.approach is None or all(self._reach(each) is not None for each in positions):
                break
        return pedestal, self._centre[:2] - scale * half, self._centre[:2] + scale * half

    def _reach(self, position: np.ndarray) -> np.ndarray | None:
        """Return joints (J,) with the tool at a position; None if unreachable or in collision."""
        assert self.approach is not None
        target = ToolPose(position, self.approach.at(position))
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
            "simulation: %s reaches no pose with the tool down above %s and starts in the middle "
            "of its joint ranges; check workspace and tool_frame",
            self._contract.robot,
            np.round(self._centre[:2], 3).tolist(),
        )
        return self._with_gripper(0.5 * (lower + upper))

    def _find_joints(self, rotations: list[np.ndarray]) -> np.ndarray | None:
        """Return joints (J,) with the tool at the centre in one of ``rotations``, as far from their
        limits as possible; None if unreachable.

        The cost of joints q with limits [l, u] is max |q - (l + u) / 2| / (u - l). Seeds of the
        inverse kinematics are the zero pose, the middle of the ranges, and random ones.
        """
        lower, upper = self._limits.lower[: self._arm], self._limits.upper[: self._arm]
        middle, random = 0.5 * (lower + upper), np.random.default_rng(0)
        zero = np.clip(np.zeros(self._arm), lower, upper)
        best, best_cost = None, np.inf
        for attempt in range(_TRIES):
            share = 0.0 if attempt < 2 else 0.5
            aside = share * random.uniform(-0.5, 0.5, self._arm) * (upper - lower)
            for straight in rotations:
                seed = (zero, middle)[attempt % 2] + aside
                rotation, found = self._turned(straight, seed)
                if not found.reached:
                    continue
                joints = self._with_gripper(found.positions)
                cost = float((np.abs(found.positions - middle) / (upper - lower)).max())
                if cost < best_cost and self._collisions.first_collision(joints[None]) is None:
                    best, best_cost = joints, cost
                    self.approach = self._approach(rotation, straight)
            if best_cost < 0.3:
                break
        return best

    def _approach(self, rotation: np.ndarray, straight: np.ndarray) -> Approach:
        """Return the approach with a ``rotation`` that :meth:`_turned` made of ``straight``."""
        if self._arm >= _POSE:
            return Approach(rotation, self._centre.copy())
        turn = rotation @ straight.T
        distance = float(np.linalg.norm(self._centre[:2] - self._root[:2]))
        aside = -distance * float(np.sin(np.arctan2(turn[1, 0], turn[0, 0])))
        return Approach(rotation, self._centre.copy(), self._root, aside)

    def _turned(self, rotation: np.ndarray, seed: np.ndarray) -> tuple[np.ndarray, InverseSolution]:
        """Return a rotation (3, 3) of the tool with which the arm reaches the centre, and the
        joints.

        The tool of an arm with fewer than six joints turns with the arm. If it lies beside the
        plane in which the arm moves, it reaches a position only turned a little about the vertical
        axis.
        """
        found = self._kinematics.inverse(ToolPose(self._centre, rotation), seed)
        for _ in range(_TURNS if self._arm < _POSE else 0):
            if found.reached:
                break
            here = self._kinematics.forward(found.positions).position - self._root
            wanted = self._centre - self._root
            angle = np.arctan2(wanted[1], wanted[0]) - np.arctan2(here[1], here[0])
            cos, sin = np.cos(angle), np.sin(angle)
            rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ rotation
            found = self._kinematics.inverse(ToolPose(self._centre, rotation), found.positions)
        return rotation, found

    def _rotations(self, tilt: float, yaws: Sequence[float]) -> list[np.ndarray]:
        """Return orientations (3, 3) with the tool pointing down, tilted by ``tilt`` [rad] away
        from the base and turned by each of ``yaws`` [rad] about its axis.

        If the contract fixes the orientation of the tool, return only that.
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
        """Return the horizontal axis (3,) of the base frame closest to the direction from the arm
        to its workspace. An axis, because the sides of cubes are along the axes.
        """
        direction = self._centre[:2] - self._root[:2]
        axis = int(np.abs(direction).argmax())
        outward = np.zeros(3)
        outward[axis] = np.sign(direction[axis]) or 1.0
        return outward

    def _with_gripper(self, positions: np.ndarray) -> np.ndarray:
        gripper = self._contract.gripper
        return np.append(positions, gripper.to_joints(1.0)) if gripper else np.array(positions)


def _root(contract: Contract) -> np.ndarray:
    """Return the position (3,) [m] of the first joint of the arm in the base frame."""
    model = pinocchio.buildModelFromXML(contract.urdf_xml)
    data = model.createData()
    pinocchio.framesForwardKinematics(model, data, pinocchio.neutral(model))
    base = data.oMf[model.getFrameId(contract.base_frame, pinocchio.FrameType.BODY)]
    return base.actInv(data.oMi[model.getJointId(contract.joints[0].name)]).translation
