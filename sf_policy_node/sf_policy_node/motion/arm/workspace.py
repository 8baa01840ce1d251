"""Where the tools may be and how fast, and what the arms may not touch on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.collision import CollisionModel
from sf_policy_node.motion.arm.kinematics import Kinematics

LEAVES_BOX = "the tool would leave the workspace box"
TOLERANCE = 1e-3  # m
_ROUNDING = 1e-7  # m, of a tool that stands outside
TOOL_SPEED_OVER = (
    1.05  # the tool is slowed through its joints, which does not hit its limit exactly
)
TOOL_SPEED_USED = 0.95  # share of the limit that is planned with


@dataclass(frozen=True)
class Survey:
    """What was seen of a motion.

    ``leaves``: index of the first sample after the start with a tool outside its box, or with two
    links that touch; None when there is none. ``why`` says which, in one sentence. ``top_speed`` is
    that of the fastest tool [m/s]; ``slower`` is by which factor the motion has to be slowed: 1 or
    more where it need not be. ``fast`` says which tool is too fast, in one sentence; empty when
    none is.
    """

    leaves: int | None
    top_speed: float
    slower: float
    fast: str = ""
    why: str = ""

    @property
    def too_fast(self) -> bool:
        """A tool is faster than it may be."""
        return bool(self.fast)


class ToolBox:
    """The workspace box and the tool speed of one arm.

    Args:
        name: of the arm; begins the sentences of a robot with several.
    """

    def __init__(self, contract: Contract, name: str, kinematics: Kinematics) -> None:
        arm = contract.arms[name]
        self.whose = "" if len(contract.arms) == 1 else f"{name}: "
        self.lower, self.upper = np.array(arm.workspace.lower), np.array(arm.workspace.upper)
        self.tool_speed = arm.workspace.tool_speed or np.inf
        self._speed_key = contract.key_of(name, "workspace.tool_speed")
        self._kinematics = kinematics
        commands = contract.columns.commands
        self._joints = _as_slice(commands.indices(arm=name)[: len(arm.joints)])
        self._turn, self._offset = None, np.zeros(3)  # of the box's frame; None: the common one
        if arm.base_frame != contract.base_frame:
            placement = kinematics.fixed_links()[contract.description().link_of(arm.base_frame)]
            if not placement.isIdentity(1e-12):
                self._turn = np.ascontiguousarray(placement.rotation)
                self._offset = placement.translation.copy()

    def clip(self, places: np.ndarray) -> np.ndarray:
        """Return tool positions (N, 3) in the common base frame, moved into the box [m]."""
        if self._turn is None:
            return np.minimum(np.maximum(places, self.lower), self.upper)
        inside = np.minimum(np.maximum(self._in_box(places), self.lower), self.upper)
        clipped = inside @ self._turn.T + self._offset
        # Where nothing is cut, not even rounding may differ.
        return np.where(np.abs(clipped - places) < 1e-12, places, clipped)

    def motion(self, joints: np.ndarray, velocities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tool positions in the box's frame and velocities (N, 3) for all joints (N, J) twice."""
        places, speeds = self._kinematics.tool_motion(
            joints[:, self._joints], velocities[:, self._joints]
        )
        return self._in_box(places), speeds

    def places(self, joints: np.ndarray) -> np.ndarray:
        """Tool positions (N, 3) in the box's frame for all joints (N, J)."""
        return self.places_of_arm(joints[:, self._joints])

    def places_of_arm(self, joints: np.ndarray) -> np.ndarray:
        """Tool positions (N, 3) in the box's frame for this arm's joints (N, A)."""
        return self._in_box(self._kinematics.tool_motion(joints)[0])

    def excess(self, places: np.ndarray) -> np.ndarray:
        """How far places (N, 3) in the box's frame are outside (N,) [m]; 0 inside."""
        return np.maximum(np.maximum(self.lower - places, places - self.upper).max(axis=1), 0.0)

    def left(self, places: np.ndarray) -> int | None:
        """Return the index after the start of the first place outside; see Workspace.leaves."""
        excess = self.excess(places)
        if not excess.any():
            return None
        # Not the start and a tolerance: motion after motion would go a tolerance further.
        allowed = np.maximum(np.minimum.accumulate(excess[:-1]) + _ROUNDING, TOLERANCE)
        left = np.flatnonzero(excess[1:] > allowed)
        return int(left[0]) if len(left) else None

    def slower(self, speeds: np.ndarray) -> tuple[float, float, str]:
        """Return the top speed, by which factor to slow down, and a sentence if it is too fast.

        Args:
            speeds: (N, 3) tool velocities [m/s], the first at the start.
        """
        speed = np.sqrt((speeds * speeds).sum(axis=1))
        start, top = float(speed[0]), float(speed[1:].max(initial=0.0))
        wanted = max(TOOL_SPEED_USED * self.tool_speed, min(start, self.tool_speed))
        # A tool that is too fast at the start must not get any faster.
        if top <= max(TOOL_SPEED_OVER * self.tool_speed, start + 1e-9):
            return top, wanted / max(top, 1e-9), ""
        allowed = f"{self.tool_speed:g}"
        return (
            top,
            wanted / max(top, 1e-9),
            f"{self.whose}the tool would move at {top:.2f} m/s, {self._speed_key} allows {allowed}",
        )

    def _in_box(self, places: np.ndarray) -> np.ndarray:
        return places if self._turn is None else (places - self._offset) @ self._turn


class Workspace:
    """The boxes of all arms, asked with joints (J,) or (N, J) as in ``contract.command_joints``.

    Args:
        kinematics: of every arm by its name; of a robot with one arm also alone.
        collisions: looks also for links that touch each other or a box; None: nobody does.
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

    @classmethod
    def of(cls, contract: Contract, kinematics: Kinematics | Mapping[str, Kinematics]) -> Workspace:
        """Return the workspace with the collision check that the contract asks for."""
        checked = CollisionModel.of(contract) if contract.collision.check else None
        return cls(contract, kinematics, checked)

    @property
    def tool_speed(self) -> float:
        """Highest speed of the slowest tool [m/s]."""
        return min(box.tool_speed for box in self.boxes.values())

    def places(self, joints: np.ndarray) -> np.ndarray:
        """Tool positions (N, 3) [m] of the only arm for joints (N, J)."""
        (box,) = self.boxes.values()
        return box.places(np.atleast_2d(joints))

    def outside(self, joints: np.ndarray) -> float:
        """Return how far the tool is outside at joints (J,) [m]; 0 inside."""
        joints = np.atleast_2d(joints)
        return max(float(box.excess(box.places(joints))[0]) for box in self.boxes.values())

    def leaves(self, start: np.ndarray, positions: np.ndarray) -> int | None:
        """Return the index of the first of ``positions`` (N, J) with a tool outside, or a touch.

        None when there is none. An arm that starts outside may come closer, but not move further
        away; links that touch at the start may move apart. Of a robot with one arm also joints
        without the gripper's (N, A) are taken: touches are not looked for then.
        """
        return self.first_leave(start, positions)[0]

    def first_leave(self, start: np.ndarray, positions: np.ndarray) -> tuple[int | None, str]:
        """Return what :meth:`leaves` does, and why in one sentence."""
        joints = np.vstack([start, positions])
        return self._first(joints, [box.places(joints) for box in self.boxes.values()])

    def survey(self, positions: np.ndarray, velocities: np.ndarray) -> Survey:
        """Look at a whole motion: joints (N + 1, J) and their velocities, the first at its
        start.
        """
        motions = [box.motion(positions, velocities) for box in self.boxes.values()]
        top, slower, fast = 0.0, np.inf, ""
        for box, (_, speeds) in zip(self.boxes.values(), motions, strict=True):
            speed, factor, sentence = box.slower(speeds)
            top, slower, fast = max(top, speed), min(slower, factor), fast or sentence
        leaves, why = self._first(positions, [places for places, _ in motions])
        return Survey(leaves, top, slower, fast, why)

    def _first(self, joints: np.ndarray, places: list[np.ndarray]) -> tuple[int | None, str]:
        """Index of the first sample after the start that may not be, and why."""
        left, why = None, ""
        for box, of_tool in zip(self.boxes.values(), places, strict=True):
            index = box.left(of_tool)
            if index is not None and (left is None or index < left):
                left, why = index, f"{box.whose}{LEAVES_BOX}"
        if self._collisions is None or joints.shape[1] != self._all_joints or len(joints) < 2:
            return left, why
        until = len(joints) if left is None else left + 1  # what comes later is cut anyway
        hit = self._collisions.first_collision(joints[1:until], joints[0]) if until > 1 else None
        return (left, why) if hit is None else (hit.index, hit.sentence)


def _as_slice(indices: np.ndarray) -> slice:
    """Return consecutive indices as a slice, which copies nothing."""
    return slice(int(indices[0]), int(indices[-1]) + 1)
