"""Checks motions against the workspace boxes, the tool speed limits and collisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.collision import Collision, CollisionModel
from sf_policy_node.motion.arm.kinematics import Kinematics

LEAVES_BOX = "the tool would leave the workspace box"
TOLERANCE = 1e-3  # m
_ROUNDING = 1e-7  # m by which a tool outside the box may move further away
# The tool is slowed through its joints, which does not meet its limit exactly: up to this multiple
# of the limit is accepted.
TOOL_SPEED_OVER = 1.05
TOOL_SPEED_USED = 0.95  # share of the limit for which motions are planned


@dataclass(frozen=True)
class Survey:
    """The result of checking a motion.

    Attributes:
        first_violation: index, counted after the start, of the first sample with a tool outside
            its box or with two links that touch; None when there is none.
        top_speed: of the fastest tool [m/s].
        speed_factor: factor for the speed with which the fastest tool moves at
            :data:`TOOL_SPEED_USED` of its limit, or as at the start if that is faster.
        speed_violation: which tool is too fast, in one sentence; empty when none is.
        reason: which tool or links cause the violation, in one sentence; empty without one.
    """

    first_violation: int | None
    top_speed: float
    speed_factor: float
    speed_violation: str = ""
    reason: str = ""

    @property
    def is_too_fast(self) -> bool:
        """Whether a tool exceeds its speed limit."""
        return bool(self.speed_violation)


class ToolBox:
    """Checks the workspace box and the tool speed of one arm.

    Args:
        name: of the arm; messages of a robot with several arms start with it.
    """

    def __init__(self, contract: Contract, name: str, kinematics: Kinematics) -> None:
        arm = contract.arms[name]
        self.prefix = "" if len(contract.arms) == 1 else f"{name}: "
        self.lower, self.upper = np.array(arm.workspace.lower), np.array(arm.workspace.upper)
        self.tool_speed = arm.workspace.tool_speed or np.inf
        self._speed_key = contract.key_of(name, "workspace.tool_speed")
        self._kinematics = kinematics
        commands = contract.columns.commands
        self._joints = _as_slice(commands.indices(arm=name)[: len(arm.joints)])
        # Rotation and position of the box's frame in the common base frame; None: they are equal.
        self._turn, self._offset = None, np.zeros(3)
        if arm.base_frame != contract.base_frame:
            placement = kinematics.fixed_links()[contract.description().link_of(arm.base_frame)]
            if not placement.isIdentity(1e-12):
                self._turn = np.ascontiguousarray(placement.rotation)
                self._offset = placement.translation.copy()

    def clip(self, points: np.ndarray) -> np.ndarray:
        """Return tool positions (N, 3) in the common base frame, clipped to the box [m]."""
        if self._turn is None:
            return np.minimum(np.maximum(points, self.lower), self.upper)
        inside = np.minimum(np.maximum(self._in_box(points), self.lower), self.upper)
        clipped = inside @ self._turn.T + self._offset
        # Positions inside the box are returned exactly, without the rounding of the transforms.
        return np.where(np.abs(clipped - points) < 1e-12, points, clipped)

    def motion(self, joints: np.ndarray, velocities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return tool positions [m] in the box's frame and tool velocities [m/s], both (N, 3).

        Args:
            joints, velocities: (N, J) of all commanded joints.
        """
        positions, speeds = self._kinematics.tool_motion(
            joints[:, self._joints], velocities[:, self._joints]
        )
        return self._in_box(positions), speeds

    def tool_positions(self, joints: np.ndarray) -> np.ndarray:
        """Return tool positions (N, 3) [m] in the box's frame for all joints (N, J)."""
        return self.tool_positions_of_arm(joints[:, self._joints])

    def tool_positions_of_arm(self, joints: np.ndarray) -> np.ndarray:
        """Return tool positions (N, 3) [m] in the box's frame for this arm's joints (N, A)."""
        return self._in_box(self._kinematics.tool_motion(joints)[0])

    def excess(self, points: np.ndarray) -> np.ndarray:
        """Return how far tool positions (N, 3) in the box's frame are outside (N,) [m], or 0."""
        return np.maximum(np.maximum(self.lower - points, points - self.upper).max(axis=1), 0.0)

    def first_outside(self, points: np.ndarray) -> int | None:
        """Return the index, counted after the start, of the first tool position outside the box.

        None when there is none; see :meth:`Workspace.first_violation`.

        Args:
            points: (N + 1, 3) in the box's frame, the first at the start [m].
        """
        excess = self.excess(points)
        if not excess.any():
            return None
        # The tolerance is not added to the excess at the start: otherwise each motion could leave
        # the box a little further than the one before.
        allowed = np.maximum(np.minimum.accumulate(excess[:-1]) + _ROUNDING, TOLERANCE)
        outside = np.flatnonzero(excess[1:] > allowed)
        return int(outside[0]) if len(outside) else None

    def check_speed(self, speeds: np.ndarray) -> tuple[float, float, str]:
        """Return the top speed [m/s], the factor by which to slow down, and a sentence.

        The sentence is empty unless the tool is too fast.

        Args:
            speeds: (N, 3) tool velocities [m/s], the first at the start.
        """
        speed = np.sqrt((speeds * speeds).sum(axis=1))
        start, top = float(speed[0]), float(speed[1:].max(initial=0.0))
        wanted = max(TOOL_SPEED_USED * self.tool_speed, min(start, self.tool_speed))
        # A tool that is too fast at the start must not become faster.
        if top <= max(TOOL_SPEED_OVER * self.tool_speed, start + 1e-9):
            return top, wanted / max(top, 1e-9), ""
        limit = f"{self.tool_speed:g}"
        return (
            top,
            wanted / max(top, 1e-9),
            f"{self.prefix}the tool would move at {top:.2f} m/s, {self._speed_key} allows {limit}",
        )

    def _in_box(self, points: np.ndarray) -> np.ndarray:
        return points if self._turn is None else (points - self._offset) @ self._turn


class Workspace:
    """Checks the tools of all arms, and collisions.

    Joints (J,) or (N, J) are in the order of ``contract.command_joints``.

    Args:
        kinematics: by arm name; a single :class:`Kinematics` serves all arms.
        collisions: checks collisions of the links; None: they are not checked.
    """

    def __init__(
        self,
        contract: Contract,
        kinematics: Kinematics | Mapping[str, Kinematics],
        collisions: CollisionModel | None = None,
    ) -> None:
        if isinstance(kinematics, Kinematics):
            kinematics = dict.fromkeys(contract.arms, kinematics)
        self.boxes = {name: ToolBox(contract, name, each) for name, each in kinematics.items()}
        self._collisions, self._all_joints = collisions, len(contract.command_joints)
        self._surveyed: tuple[tuple[bytes, bytes], Survey] | None = None

    @classmethod
    def of(cls, contract: Contract, kinematics: Kinematics | Mapping[str, Kinematics]) -> Workspace:
        """Return the workspace with the collision check that the contract asks for."""
        checked = CollisionModel.of(contract) if contract.collision.check else None
        return cls(contract, kinematics, checked)

    @property
    def other_joints(self) -> list[str]:
        """The joints that are not commanded and matter for collisions, by name."""
        return self._collisions.other_joints if self._collisions is not None else []

    def set_other_joints(self, positions: Mapping[str, float]) -> None:
        """Take the measured positions [rad or m] of joints that are not commanded, by name.

        Tools do not depend on them: such a joint between base and tool is refused.
        """
        self._surveyed = None
        if self._collisions is not None:
            self._collisions.set_other_joints(positions)

    @property
    def tool_speed(self) -> float:
        """The lowest tool speed limit of all arms [m/s]."""
        return min(box.tool_speed for box in self.boxes.values())

    def tool_positions(self, joints: np.ndarray) -> np.ndarray:
        """Return the tool positions (N, 3) [m] of the only arm for joints (N, J)."""
        (box,) = self.boxes.values()
        return box.tool_positions(np.atleast_2d(joints))

    def outside(self, joints: np.ndarray) -> float:
        """Return how far the furthest tool is outside its box at joints (J,) [m]; 0 inside."""
        joints = np.atleast_2d(joints)
        return max(float(box.excess(box.tool_positions(joints))[0]) for box in self.boxes.values())

    def first_violation(self, start: np.ndarray, positions: np.ndarray) -> int | None:
        """Return the index of the first of ``positions`` (N, J) with a tool outside its box or a
        collision.

        None when there is none. A tool that is outside at ``start`` (J,) may come closer, but not
        move further away. Links that touch at the start may move apart. For a robot with one arm
        the gripper's joints may be left out (N, A); collisions are then not checked.
        """
        return self.explain_violation(start, positions)[0]

    def explain_violation(self, start: np.ndarray, positions: np.ndarray) -> tuple[int | None, str]:
        """Return the index of :meth:`first_violation`, and the reason in one sentence."""
        joints = np.vstack([start, positions])
        return self._first(joints, [box.tool_positions(joints) for box in self.boxes.values()])

    def explain_box_violation(self, start: np.ndarray, positions: np.ndarray) -> str:
        """Return which tool leaves its box, in one sentence; empty if none does.

        Collisions are not checked. For the arguments see :meth:`first_violation`.
        """
        joints = np.vstack([start, positions])
        return self._first_outside([box.tool_positions(joints) for box in self.boxes.values()])[1]

    def first_collision(self, start: np.ndarray, positions: np.ndarray) -> Collision | None:
        """Return the first collision of ``positions`` (N, J); boxes of tools are not checked."""
        if self._collisions is None or positions.shape[1] != self._all_joints or not len(positions):
            return None
        return self._collisions.first_collision(positions, start)

    def survey(self, positions: np.ndarray, velocities: np.ndarray) -> Survey:
        """Check a motion: joints and their velocities (N + 1, J), the first at its start.

        The guard checks what a planner has planned with the same function. The last result is kept
        for exactly the same numbers.
        """
        motion = positions.tobytes(), velocities.tobytes()
        if self._surveyed is None or self._surveyed[0] != motion:
            self._surveyed = motion, self._survey(positions, velocities)
        return self._surveyed[1]

    def _survey(self, positions: np.ndarray, velocities: np.ndarray) -> Survey:
        motions = [box.motion(positions, velocities) for box in self.boxes.values()]
        top, slowest, too_fast = 0.0, np.inf, ""
        for box, (_, speeds) in zip(self.boxes.values(), motions, strict=True):
            speed, factor, sentence = box.check_speed(speeds)
            top, slowest, too_fast = max(top, speed), min(slowest, factor), too_fast or sentence
        index, reason = self._first(positions, [points for points, _ in motions])
        return Survey(index, top, slowest, too_fast, reason)

    def _first(self, joints: np.ndarray, points: list[np.ndarray]) -> tuple[int | None, str]:
        """Return the index of the first violation after the start and its reason.

        Args:
            joints: (N + 1, J).
            points: for each arm the tool positions (N + 1, 3) in its box's frame.
        """
        first, reason = self._first_outside(points)
        # Later samples are not checked: the motion is refused from the first violation on.
        until = len(joints) if first is None else first + 1
        hit = self.first_collision(joints[0], joints[1:until])
        return (first, reason) if hit is None else (hit.index, hit.sentence)

    def _first_outside(self, points: list[np.ndarray]) -> tuple[int | None, str]:
        """Return the index of the first tool position outside its box after the start, and the
        reason.

        Args:
            points: see :meth:`_first`.
        """
        first, reason = None, ""
        for box, of_tool in zip(self.boxes.values(), points, strict=True):
            index = box.first_outside(of_tool)
            if index is not None and (first is None or index < first):
                first, reason = index, f"{box.prefix}{LEAVES_BOX}"
        return first, reason


def _as_slice(indices: np.ndarray) -> slice:
    """Return consecutive indices as a slice, which copies nothing."""
    return slice(int(indices[0]), int(indices[-1]) + 1)
