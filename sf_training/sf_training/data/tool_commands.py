"""Commands for the tool instead of the joints, as joint positions through inverse kinematics: poses
(``geometry_msgs/PoseStamped``) and twists (``geometry_msgs/TwistStamped``, as MoveIt Servo takes
them).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_training.data.synchronisation import JointStream, Knots
from sf_training.recording import messages

LASTS_NS = 100_000_000  # a twist ends after that without a new one, as in MoveIt Servo
OUT_OF_REACH = 0.05  # of the poses may be out of reach: the arm went as near as it could
TOO_FAST = 3.0  # twists that add up to so many times the way that the tool went
_LEAST = np.array([0.02, 0.2])  # m, rad: of a way that tells something


class ToolCommands:
    """Inverse kinematics of recorded tool commands, started from the measured joints.

    Args:
        contract: of a robot with one arm.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._kinematics = Kinematics(contract)
        self._frames = self._kinematics.fixed_links() | {contract.base_frame: pinocchio.SE3(1)}
        self._frames = {"": self._frames[contract.base_frame], **self._frames}

    def knots(
        self, kind: str, stamps: np.ndarray, contents: Sequence, states: JointStream
    ) -> dict[str, Knots]:
        """Return the commanded positions of the arm's joints.

        A pose is a target. A twist moves the tool from where it is measured until the next twist
        comes, at most for :data:`LASTS_NS`.

        Args:
            kind: type name of the messages.
            stamps: (N,) [ns].
            contents: N messages.
            states: measured joints, in the order of ``contract.command_joints``.

        Raises:
            ValueError: poses that the arm cannot reach, twists that are not in m/s and rad/s, or a
                frame that is not fixed to the base.
        """
        order = np.argsort(stamps, kind="stable")
        arm = len(self._contract.arm_joints)
        measured = states.held(stamps[order])[:, :arm]
        known = np.isfinite(measured).all(axis=1)
        order, measured = order[known], measured[known]
        if not len(order):
            return {}
        stamps, contents = stamps[order], [contents[row] for row in order.tolist()]
        starts = [self._kinematics.forward(row) for row in measured]
        if kind == messages.POSE:
            goals = [self._pose(message) for message in contents]
        else:
            goals = self._moved(stamps, contents, starts)
        solutions = [
            self._kinematics.inverse(goal, seed)
            for goal, seed in zip(goals, measured, strict=True)
        ]
        self._check_reached(solutions, stamps)
        positions = np.array([solution.positions for solution in solutions])
        return {
            name: Knots(stamps, column, np.zeros(len(stamps), bool))
            for name, column in zip(self._contract.arm_joints, positions.T, strict=True)
        }

    def _pose(self, message) -> ToolPose:
        place, turn = message.pose.position, message.pose.orientation
        quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
        length = np.linalg.norm(quaternion)
        point = np.array([place.x, place.y, place.z])
        if not (np.isfinite(point).all() and abs(length - 1.0) < 0.1):
            raise ValueError(
                f"a pose is {point.round(3).tolist()} with a quaternion of length {length:.3g};"
                " correct its publisher"
            )
        rotation = pinocchio.Quaternion(quaternion / length).toRotationMatrix()
        goal = self._frame(message).act(pinocchio.SE3(rotation, point))
        return ToolPose(goal.translation, goal.rotation)

    def _moved(
        self, stamps: np.ndarray, contents: Sequence, starts: Sequence[ToolPose]
    ) -> list[ToolPose]:
        """Return where each twist moves the tool from ``starts``."""
        gaps = np.diff(stamps)
        last = np.median(gaps) if len(gaps) else LASTS_NS
        seconds = np.minimum(np.append(gaps, last), LASTS_NS) * 1e-9
        goals, ways = [], np.zeros((len(stamps), 2))
        for row, (message, start) in enumerate(zip(contents, starts, strict=True)):
            linear, angular = (
                self._turned(message, start, np.array([vector.x, vector.y, vector.z]))
                for vector in (message.twist.linear, message.twist.angular)
            )
            ways[row] = np.linalg.norm(linear), np.linalg.norm(angular)
            turn = pinocchio.exp3(angular * seconds[row])
            goals.append(ToolPose(start.position + linear * seconds[row], turn @ start.rotation))
        self._check_ways((ways * seconds[:, None]).sum(axis=0), starts)
        return goals

    def _turned(self, message, start: ToolPose, vector: np.ndarray) -> np.ndarray:
        """Return a vector of a twist in the base frame."""
        if not np.isfinite(vector).all():
            raise ValueError(f"a twist is {vector.tolist()}; correct its publisher")
        if message.header.frame_id == self._contract.tool_frame:
            return start.rotation @ vector
        return self._frame(message).rotation @ vector

    def _frame(self, message) -> pinocchio.SE3:
        frame = message.header.frame_id
        if frame not in self._frames:
            raise ValueError(
                f"commands for the tool are in frame {frame!r}, which is not fixed to"
                f" {self._contract.base_frame!r}; publish them in {self._contract.base_frame!r}"
            )
        return self._frames[frame]

    def _check_ways(self, commanded: np.ndarray, starts: Sequence[ToolPose]) -> None:
        steps = [
            (
                np.linalg.norm(after.position - before.position),
                np.linalg.norm(pinocchio.log3(after.rotation @ before.rotation.T)),
            )
            for before, after in zip(starts, starts[1:], strict=False)
        ]
        went = np.sum(steps, axis=0) if steps else np.zeros(2)
        far = commanded > TOO_FAST * went + _LEAST
        if far.any():
            which = int(np.argmax(far))
            unit = ("m", "rad")[which]
            raise ValueError(
                f"the twists add up to {commanded[which]:.3g} {unit}, but the tool went"
                f" {went[which]:.3g} {unit}: they are not in {unit}/s; record them scaled (MoveIt"
                " Servo: command_in_type speed_units)"
            )

    def _check_reached(self, solutions: Sequence, stamps: np.ndarray) -> None:
        missed = np.array([not solution.reached for solution in solutions])
        if missed.mean() > OUT_OF_REACH:
            first = int(np.argmax(missed))
            raise ValueError(
                f"{missed.sum()} of {len(missed)} poses are out of the arm's reach, the first by"
                f" {solutions[first].position_error:.3f} m; check their frame and the contract's"
                " tool_frame"
            )
