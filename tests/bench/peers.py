"""Peer methods of executing chunks, behind the interface of ``rollout.Motion``.

They compute joint targets here and not with our executor. None of them has limits, budgets or a
workspace. The controller behind them clips joint positions and speeds, as a joint limiter of
ros2_control does.
"""

from __future__ import annotations

import math

import numpy as np
import pinocchio

from sf_policy_node.contract import ActionSpace, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.types import Chunk, Trajectory


class OnePoint:
    """Send one step of the newest chunk at the policy's rate, as a trajectory of one point.

    ``time_from_start`` is 0. Steps that became due while the policy was predicting are skipped, as
    in LeRobot's queue of timed actions. The state of the arm is ignored.

    Args:
        when_due: send a step at the time for which it was predicted. Otherwise send it one step
            earlier: the first step goes out with the observation, and the arm has one step's time.
        reach_s: ``time_from_start`` of the point.
    """

    def __init__(self, contract: Contract, *, when_due: bool = False, reach_s: float = 0.0) -> None:
        self._reach_s = np.array([reach_s])
        self._targets = StepTargets(contract)
        self._names, self._step = tuple(contract.command_joints), contract.action.step_s
        self._later = self._step if when_due else 0.0
        self._rows: tuple[float, np.ndarray] | None = None

    def activate(self, now: float) -> None:
        self._next = now

    def on_joint_state(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        pass

    def on_chunk(self, chunk: Chunk, now: float) -> None:
        self._rows = (chunk.stamp, self._targets.of(chunk))

    def tick(self, now: float) -> Trajectory | None:
        if now < self._next - 1e-9:
            return None
        self._next += self._step
        if self._rows is None:
            return None
        stamp, positions = self._rows
        row = math.floor((now - stamp - self._later) / self._step + 1e-6)
        if not 0 <= row < len(positions):
            return None
        return Trajectory(0.0, self._names, self._reach_s, positions[row : row + 1], None)


class LatestChunk:
    """Send the newest chunk unblended, positions only; it replaces the chunk before.

    Args:
        skip_passed: leave out steps whose time has passed and keep the times of the others.
            Otherwise step 0 comes first whenever the chunk arrives, as in clients without stamps.
        stamped: send all steps with the observation's stamp; the controller skips passed ones.
    """

    def __init__(
        self, contract: Contract, *, skip_passed: bool = True, stamped: bool = False
    ) -> None:
        self._targets, self._stamped = StepTargets(contract), stamped
        self._names, self._skip_passed = tuple(contract.command_joints), skip_passed

    def activate(self, now: float) -> None:
        pass

    def on_joint_state(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        pass

    def on_chunk(self, chunk: Chunk, now: float) -> Trajectory:
        times = chunk.step_s * np.arange(1, len(chunk.data) + 1)
        if self._stamped:
            return Trajectory(chunk.stamp, self._names, times, self._targets.of(chunk), None)
        if self._skip_passed:
            times = times + chunk.stamp - now
        ahead = times > 1e-6
        if not ahead.any():
            raise ChunkRefused("all its steps have passed")
        return Trajectory(0.0, self._names, times[ahead], self._targets.of(chunk)[ahead], None)

    def tick(self, now: float) -> None:
        pass


class StepTargets:
    """Compute joint positions of ``ee_delta`` chunk steps with a fixed tool orientation.

    The simulated arm's policies predict this action.
    """

    def __init__(self, contract: Contract) -> None:
        if contract.action.space is not ActionSpace.EE_DELTA or len(contract.action.names) != 4:
            raise ValueError(
                "action: needs ee_delta with x y z gripper, the contract has"
                f" {contract.action.space}"
            )
        self._contract, self._kinematics = contract, Kinematics(contract)
        self._rotation = pinocchio.Quaternion(np.array(contract.action.tool_orientation)).matrix()

    def of(self, chunk: Chunk) -> np.ndarray:
        """Return positions (steps, J) in the order of ``contract.command_joints`` [rad, m]."""
        arm = chunk.reference[:-1]
        tool = self._kinematics.forward(arm).position
        rows = []
        for *displacement, opening in chunk.data:
            arm = self._kinematics.inverse(
                ToolPose(tool + displacement, self._rotation), arm
            ).positions
            opening = (
                round(min(max(opening, 0.0), 1.0)) if self._contract.gripper.binary else opening
            )
            rows.append(np.append(arm, self._contract.gripper.to_joint(opening)))
        return np.array(rows)
