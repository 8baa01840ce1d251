"""Where the tool may be and how fast, and what the arm may not touch on the way."""

from __future__ import annotations

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

    ``leaves``: index of the first sample after the start with the tool outside the box, or with two
    links that touch; None when there is none. ``why`` says which, in one sentence. Speeds are of
    the tool [m/s]; ``slower`` is by which factor the motion has to be slowed: 1 or more where it
    need not be.
    """

    leaves: int | None
    top_speed: float
    slower: float
    too_fast: bool
    why: str = ""


class Workspace:
    """``contract.workspace``, asked with joints (J,) or (N, J) as in ``contract.command_joints``.

    Args:
        collisions: looks also for links that touch each other or a box; None: nobody does.
    """

    def __init__(
        self, contract: Contract, kinematics: Kinematics, collisions: CollisionModel | None = None
    ) -> None:
        self.lower, self.upper = (
            np.array(contract.workspace.lower),
            np.array(contract.workspace.upper),
        )
        self.tool_speed = contract.workspace.tool_speed or np.inf
        self._kinematics = kinematics
        self._arm = len(contract.joints)
        self._collisions, self._all_joints = collisions, len(contract.command_joints)

    @classmethod
    def of(cls, contract: Contract, kinematics: Kinematics) -> Workspace:
        """Return the workspace with the collision check that the contract asks for."""
        checked = CollisionModel.of(contract) if contract.collision.check else None
        return cls(contract, kinematics, checked)

    def places(self, joints: np.ndarray) -> np.ndarray:
        """Tool positions (N, 3) [m] for joints (N, J)."""
        return self._kinematics.tool_motion(np.atleast_2d(joints)[:, : self._arm])[0]

    def outside(self, joints: np.ndarray) -> float:
        """How far the tool is outside at joints (J,) [m]; 0 inside."""
        return float(self._excess(self.places(joints))[0])

    def leaves(self, start: np.ndarray, positions: np.ndarray) -> int | None:
        """Return the index of the first of ``positions`` (N, J) with the tool outside, or a touch.

        None when there is none. An arm that starts outside may come closer, but not move further
        away; links that touch at the start may move apart. Without the gripper's column (N, A)
        touches are not looked for.
        """
        return self.first_leave(start, positions)[0]

    def first_leave(self, start: np.ndarray, positions: np.ndarray) -> tuple[int | None, str]:
        """Return what :meth:`leaves` does, and why in one sentence."""
        joints = np.vstack([start, positions])
        return self._first(joints, self.places(joints))

    def survey(self, positions: np.ndarray, velocities: np.ndarray) -> Survey:
        """Look at a whole motion: joints (N + 1, J) and their velocities, the first at its
        start.
        """
        places, speeds = self._kinematics.tool_motion(
            positions[:, : self._arm], velocities[:, : self._arm]
        )
        speed = np.sqrt((speeds * speeds).sum(axis=1))
        start, top = float(speed[0]), float(speed[1:].max(initial=0.0))
        # A tool that is too fast at the start must not get any faster.
        too_fast = top > max(TOOL_SPEED_OVER * self.tool_speed, start + 1e-9)
        wanted = max(TOOL_SPEED_USED * self.tool_speed, min(start, self.tool_speed))
        leaves, why = self._first(positions, places)
        return Survey(leaves, top, wanted / max(top, 1e-9), too_fast, why)

    def _first(self, joints: np.ndarray, places: np.ndarray) -> tuple[int | None, str]:
        """Index of the first sample after the start that may not be, and why."""
        left = self._left(places)
        why = "" if left is None else LEAVES_BOX
        if self._collisions is None or joints.shape[1] != self._all_joints or len(joints) < 2:
            return left, why
        until = len(joints) if left is None else left + 1  # what comes later is cut anyway
        hit = self._collisions.first_collision(joints[1:until], joints[0]) if until > 1 else None
        return (left, why) if hit is None else (hit.index, hit.sentence)

    def _left(self, places: np.ndarray) -> int | None:
        excess = self._excess(places)
        if not excess.any():
            return None
        # Not the start and a tolerance: motion after motion would go a tolerance further.
        allowed = np.maximum(np.minimum.accumulate(excess[:-1]) + _ROUNDING, TOLERANCE)
        left = np.flatnonzero(excess[1:] > allowed)
        return int(left[0]) if len(left) else None

    def _excess(self, places: np.ndarray) -> np.ndarray:
        return np.maximum(np.maximum(self.lower - places, places - self.upper).max(axis=1), 0.0)
