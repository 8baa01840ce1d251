"""Convert Cartesian commands of the tool to joint positions by inverse kinematics: poses
(``geometry_msgs/PoseStamped``) and twists (``geometry_msgs/TwistStamped``, as for MoveIt Servo).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pinocchio

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_training.data.synchronisation import JointStream, Knots
from sf_training.recording import messages
from sf_training.recording.topics import absolute

TWIST_TIMEOUT_NS = 100_000_000  # without a new twist the motion ends, as in MoveIt Servo
OUT_OF_REACH = 0.05  # share of poses that may be out of reach; the arm went as near as possible
# Commanded over travelled distance; above it the twists are not in m/s and rad/s.
TOO_FAST = 3.0
_DISTANCE_MIN = np.array([0.02, 0.2])  # m, rad: with less distance TOO_FAST says nothing


def commanded_arm(contract: Contract, topic: str, frame: str) -> str:
    """Return the name of the arm whose tool is commanded in a frame.

    With several arms it is the one of the contract's ``bags.arms``, else the only one whose tool or
    base frame it is.

    Args:
        topic: name in the bag.

    Raises:
        ValueError: it can be more than one arm.
    """
    if len(contract.arms) == 1:
        return next(iter(contract.arms))
    given = contract.bags.arms if contract.bags else {}
    for name, arm in given.items():
        if absolute(name) == absolute(topic):
            return arm
    owners = [
        name for name, arm in contract.arms.items() if frame in (arm.tool_frame, arm.base_frame)
    ]
    if len(owners) == 1 and frame != contract.base_frame:
        return owners[0]
    raise ValueError(
        f"tool commands in frame {frame!r} can be for {' or '.join(contract.arms)}; name the arm in"
        f" the contract: bags.arms: {{{topic}: {next(iter(contract.arms))}}}"
    )


class ToolCommands:
    """Inverse kinematics of one arm's recorded tool commands, started from the measured joints.

    Args:
        arm: name of the commanded arm.
    """

    def __init__(self, contract: Contract, arm: str) -> None:
        self._contract, self._arm = contract, contract.arms[arm]
        self._columns = contract.columns.commands.indices(ColumnKind.JOINT, arm=arm)
        self._kinematics = Kinematics(contract, arm)
        self._frames = self._kinematics.fixed_links() | {contract.base_frame: pinocchio.SE3(1)}
        self._frames = {"": self._frames[contract.base_frame], **self._frames}

    def knots(
        self,
        type_name: str,
        stamps: np.ndarray,
        contents: Sequence,
        states: JointStream,
        start: int,
    ) -> dict[str, Knots]:
        """Return the commanded positions of the arm's joints.

        A pose is a goal of the tool. A twist is integrated from the measured pose T0 to the time dt
        of the next twist, at most :data:`TWIST_TIMEOUT_NS`: position p0 + v dt, rotation
        exp(w dt) R0, with v [m/s] and w [rad/s] in the base frame.

        Args:
            type_name: of the messages.
            stamps: (N,) [ns].
            contents: N messages.
            states: measured joints of all arms, in the order of ``contract.command_joints``.
            start: first image of the recording [ns], for messages.

        Raises:
            ValueError: the arm cannot reach the poses, the twists are not in m/s and rad/s, a
                value is invalid, or a frame is not fixed to the base.
        """
        order = np.argsort(stamps, kind="stable")
        measured = states.held(stamps[order])[:, self._columns]
        known = np.isfinite(measured).all(axis=1)
        order, measured = order[known], measured[known]
        if not len(order):
            return {}
        stamps, contents = stamps[order], [contents[row] for row in order.tolist()]
        _check_numbers(contents, (stamps - start) * 1e-9)
        starts = [self._kinematics.forward(row) for row in measured]
        if type_name == messages.POSE:
            goals = [self._pose(message) for message in contents]
        else:
            goals = self._integrated(stamps, contents, starts)
        solutions = [
            self._kinematics.inverse(goal, seed) for goal, seed in zip(goals, measured, strict=True)
        ]
        self._check_reached(solutions, (stamps - start) * 1e-9)
        positions = np.array([solution.positions for solution in solutions])
        return {
            name: Knots(stamps, column, np.zeros(len(stamps), bool))
            for name, column in zip(self._arm.joint_names, positions.T, strict=True)
        }

    def _pose(self, message: Any) -> ToolPose:
        """Return a commanded pose in the base frame."""
        point, quaternion = _values(message.pose.position), _values(message.pose.orientation)
        rotation = pinocchio.Quaternion(quaternion / np.linalg.norm(quaternion)).toRotationMatrix()
        goal = self._frame(message).act(pinocchio.SE3(rotation, point))
        return ToolPose(goal.translation, goal.rotation)

    def _integrated(
        self, stamps: np.ndarray, contents: Sequence, starts: Sequence[ToolPose]
    ) -> list[ToolPose]:
        """Return the pose to which each twist moves the tool from ``starts``."""
        gaps = np.diff(stamps)
        last = np.median(gaps) if len(gaps) else TWIST_TIMEOUT_NS
        seconds = np.minimum(np.append(gaps, last), TWIST_TIMEOUT_NS) * 1e-9
        goals, speeds = [], np.zeros((len(stamps), 2))
        for row, (message, start) in enumerate(zip(contents, starts, strict=True)):
            linear, angular = (
                self._in_base_frame(message, start, _values(part)) for part in _vectors(message)
            )
            speeds[row] = np.linalg.norm(linear), np.linalg.norm(angular)
            turn = pinocchio.exp3(angular * seconds[row])
            goals.append(ToolPose(start.position + linear * seconds[row], turn @ start.rotation))
        self._check_distance((speeds * seconds[:, None]).sum(axis=0), starts)
        return goals

    def _in_base_frame(self, message: Any, start: ToolPose, vector: np.ndarray) -> np.ndarray:
        """Return a vector of a twist in the base frame."""
        if message.header.frame_id == self._arm.tool_frame:
            return start.rotation @ vector
        return self._frame(message).rotation @ vector

    def _frame(self, message: Any) -> pinocchio.SE3:
        frame = message.header.frame_id
        if frame not in self._frames:
            raise ValueError(
                f"tool commands are in frame {frame!r}, which is not fixed to"
                f" {self._contract.base_frame!r}; publish them in {self._contract.base_frame!r}"
            )
        return self._frames[frame]

    def _check_distance(self, commanded: np.ndarray, starts: Sequence[ToolPose]) -> None:
        """Raise if the commanded distances (2,) [m, rad] far exceed what the tool travelled."""
        steps = [
            (
                np.linalg.norm(after.position - before.position),
                np.linalg.norm(pinocchio.log3(after.rotation @ before.rotation.T)),
            )
            for before, after in itertools.pairwise(starts)
        ]
        travelled = np.sum(steps, axis=0) if steps else np.zeros(2)
        far = commanded > TOO_FAST * travelled + _DISTANCE_MIN
        if far.any():
            which = int(np.argmax(far))
            unit = ("m", "rad")[which]
            raise ValueError(
                f"the twists command {commanded[which]:.3g} {unit}, but the tool travelled"
                f" {travelled[which]:.3g} {unit}, so they are not in {unit}/s; record them in SI"
                " units (MoveIt Servo: command_in_type speed_units)"
            )

    def _check_reached(self, solutions: Sequence, times: np.ndarray) -> None:
        """Raise if many poses are out of reach.

        Args:
            times: (N,) [s after the first image].
        """
        missed = np.array([not solution.reached for solution in solutions])
        if missed.mean() > OUT_OF_REACH:
            first = int(np.argmax(missed))
            raise ValueError(
                f"{missed.sum()} of {len(missed)} poses are out of the arm's reach, the first at"
                f" {times[first]:.2f} s by {solutions[first].position_error:.3f} m; check their"
                f" frame and the contract's tool_frame {self._arm.tool_frame!r}"
            )


def _check_numbers(contents: Sequence, times: np.ndarray) -> None:
    """Raise if poses or twists hold values that are not finite, or no rotation.

    Args:
        contents: N messages.
        times: (N,) [s after the first image].
    """
    wrong = [row for row, message in enumerate(contents) if not _is_valid(message)]
    if wrong:
        raise ValueError(
            f"at {times[wrong[0]]:.2f} s, {_shown(contents[wrong[0]])} ({len(wrong)} of"
            f" {len(contents)} messages); correct its publisher, trim the episode, or leave it out"
        )


def _is_valid(message: Any) -> bool:
    if hasattr(message, "pose"):
        length = np.linalg.norm(_values(message.pose.orientation))
        return bool(np.isfinite(_values(message.pose.position)).all() and abs(length - 1.0) < 0.1)
    return all(np.isfinite(_values(part)).all() for part in _vectors(message))


def _shown(message: Any) -> str:
    if hasattr(message, "pose"):
        point = _values(message.pose.position).round(3).tolist()
        length = np.linalg.norm(_values(message.pose.orientation))
        return f"a pose is {point} with a quaternion of length {length:.3g}"
    return f"a twist is {[_values(part).tolist() for part in _vectors(message)]}"


def _vectors(message: Any) -> tuple:
    return message.twist.linear, message.twist.angular


def _values(part: Any) -> np.ndarray:
    """Return the numbers of a vector, point or quaternion, as (x, y, z) or (x, y, z, w)."""
    return np.array([getattr(part, axis) for axis in "xyzw" if hasattr(part, axis)])
