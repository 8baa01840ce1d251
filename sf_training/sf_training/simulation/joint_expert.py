"""Compute the chunks of the scripted expert in joint space, for one or several arms at once.

Each cube is picked by the arm that reaches it. An arm without a target moves to its home pose. The
tool moves as in :func:`expert.expert_chunk`; inverse kinematics, seeded with the previous step,
gives the joints.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import ActionSpace, Contract
from sf_policy_node.contract.columns import ColumnKind
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.expert import can_approach, expert_chunk
from sf_training.simulation.one_arm import in_base_frame, one_arm
from sf_training.simulation.sim_model import Approach, Hand

STEP_S = 0.1  # between two steps of the expert
_HOME_GAIN = 0.5  # share of the remaining distance to the home pose covered in one step
_HOLD_DISTANCE = 0.03  # m between tool and cube up to which a closed gripper holds the cube
_HOME_STEP = 0.12  # rad: maximum motion of a joint in one step
Goal = tuple[str, ...]
"""Colours of the cubes to pick, at most one per arm."""


@dataclass(frozen=True)
class ArmPath:
    """Path of one arm: joints (K, J) [rad, m] and gripper openings (K,), ``STEP_S`` apart."""

    joints: np.ndarray
    openings: np.ndarray


class ArmExpert:
    """The expert for one arm.

    Args:
        contract: of the robot with all arms.
        hand: of the arm in the simulation.

    Attributes:
        joints, fingers: indices of its joints and fingers in ``contract.command_joints``.

    Raises:
        ValueError: the arm cannot point its tool down.
    """

    def __init__(self, contract: Contract, hand: Hand) -> None:
        contract, commands = in_base_frame(contract), contract.columns.commands
        own = one_arm(contract, hand.arm)
        if hand.approach is None:
            raise ValueError(
                f"arms.{hand.arm}: the expert finds no pose with the tool pointing down; check"
                " workspace and tool_frame"
            )
        self.arm, self.gripper = hand.arm, contract.arms[hand.arm].fitted_gripper
        self._kinematics = Kinematics(own)
        box = contract.arms[hand.arm].workspace
        self._lower, self._upper = np.array(box.lower), np.array(box.upper)
        self.joints = commands.indices(ColumnKind.JOINT, arm=hand.arm)
        self.fingers = commands.indices(ColumnKind.GRIPPER, arm=hand.arm)
        self._hand, self._home = hand, hand.home[: len(self.joints)]

    @property
    def _approach(self) -> Approach:
        assert self._hand.approach is not None  # checked by the constructor
        return self._hand.approach

    def opening(self, positions: np.ndarray) -> float:
        """Return the opening of the gripper, 0 to 1, from positions of all command joints."""
        return self.gripper.mean_opening(positions[self.fingers])

    def pick(self, sim: ArmSim, colour: str, steps: int) -> np.ndarray:
        """Return tool displacements [m] and openings (steps, 4) that pick a cube."""
        return expert_chunk(
            self._grip_position(sim),
            self.opening(sim.joint_positions()),
            sim.cube_position(colour),
            sim.support_height(colour),
            steps,
            grip=self._hand.grip,
        )

    def path(self, sim: ArmSim, moves: np.ndarray) -> ArmPath:
        """Return the joints that move the tool by ``moves`` (K, 4) from :meth:`pick`."""
        tool, seed = sim.tool_position(self.arm), sim.joint_positions()[self.joints]
        rows = []
        for move in moves[:, :3]:
            position = np.clip(tool + move, self._lower, self._upper)
            target = ToolPose(position, self._approach.at(position))
            seed = self._kinematics.inverse(target, seed).positions
            rows.append(seed)
        return ArmPath(np.array(rows), moves[:, 3])

    def _grip_position(self, sim: ArmSim) -> np.ndarray:
        """Return the centre (3,) [m] of a cube that the gripper would hold now."""
        tool = sim.tool_position(self.arm)
        return tool + self._approach.at(tool) @ np.array(self._hand.grip.offset)

    def go_home(self, sim: ArmSim, steps: int) -> ArmPath:
        """Return a path to the home pose with an open gripper."""
        position, rows = sim.joint_positions()[self.joints], []
        for _ in range(steps):
            move = _HOME_GAIN * (self._home - position)
            move *= min(1.0, _HOME_STEP / max(float(np.abs(move).max()), 1e-9))
            position = position + move
            rows.append(position)
        return ArmPath(np.array(rows), np.full(steps, self._hand.grip.wide))

    def holds(self, sim: ArmSim, colour: str) -> bool:
        """Return whether the gripper is closed with this cube between its fingers."""
        offset = self._grip_position(sim) - sim.cube_position(colour)
        closed = self.opening(sim.joint_positions()) < self._hand.grip.gripped
        return bool(closed and np.linalg.norm(offset) < _HOLD_DISTANCE)

    def may_leave(self, sim: ArmSim, colour: str) -> bool:
        """Return whether the arm could still approach this cube, or leave it for another one."""
        opening = self.opening(sim.joint_positions())
        position, cube = self._grip_position(sim), sim.cube_position(colour)
        return can_approach(position, opening, cube, grip=self._hand.grip)


class JointExpert:
    """The expert for all arms of a simulated robot.

    Attributes:
        steps: number of expert steps that cover the horizon of a chunk.
    """

    def __init__(self, contract: Contract, sim: ArmSim) -> None:
        self._contract, self._sim = contract, sim
        self.arms = {hand.arm: ArmExpert(contract, hand) for hand in sim.hands}
        self._action = contract.columns.action
        rows = contract.action.horizon
        self._times = contract.action.step_s * np.arange(1, rows + 1)
        self.steps = int(np.ceil(self._times[-1] / STEP_S - 1e-6))

    def goals(self) -> list[Goal]:
        """Return all possible goals: each cube, and each pair of cubes of two arms."""
        scene = self._sim.scene
        pairs = itertools.combinations(scene.colours, 2)
        apart = [pair for pair in pairs if scene.arm_of(pair[0]) != scene.arm_of(pair[1])]
        return [*((colour,) for colour in scene.colours), *apart]

    def answers(self, target: Goal) -> dict[Goal, np.ndarray]:
        """Return the chunk (H, A) of ``target``, and then of all other goals that are still
        possible while it is picked.
        """
        cache: dict[tuple[str, str | None], ArmPath] = {}
        goals = [target] + [
            goal for goal in self.goals() if set(goal) != set(target) and self._free(target, goal)
        ]
        return {goal: self._chunk(self._paths(goal, cache)) for goal in goals}

    def positions(self, paths: Mapping[str, ArmPath], times: np.ndarray) -> np.ndarray:
        """Return positions (N, J) of all command joints at ``times`` (N,) [s] from now."""
        now = self._sim.joint_positions()
        rows = np.empty((len(times), len(now)))
        for arm, path in paths.items():
            expert, knots = self.arms[arm], STEP_S * np.arange(len(path.joints) + 1)
            joints = np.vstack([now[expert.joints], path.joints])
            for column, values in zip(expert.joints, joints.T, strict=True):
                rows[:, column] = np.interp(times, knots, values)
            rows[:, expert.fingers] = [
                expert.gripper.to_joints(each) for each in _openings(path, times)
            ]
        return rows

    def _paths(self, goal: Goal, cache: dict) -> dict[str, ArmPath]:
        """Return the path of each arm for a goal; ``cache`` holds those of other goals."""
        wanted = assignment(self._sim, goal)
        for name, expert in self.arms.items():
            key = (name, wanted.get(name))
            if key not in cache:
                colour = key[1]
                cache[key] = (
                    expert.go_home(self._sim, self.steps)
                    if colour is None
                    else expert.path(self._sim, expert.pick(self._sim, colour, self.steps))
                )
        return {name: cache[name, wanted.get(name)] for name in self.arms}

    def _chunk(self, paths: Mapping[str, ArmPath]) -> np.ndarray:
        chunk = np.empty((len(self._times), len(self._action)))
        rows = self.positions(paths, self._times)
        if self._contract.action.space is ActionSpace.JOINT_DELTA:
            rows = rows - self._sim.joint_positions()
        for arm, expert in self.arms.items():
            columns = self._action.indices(ColumnKind.JOINT, arm=arm)
            chunk[:, columns] = rows[:, expert.joints]
            gripper = self._action.indices(ColumnKind.GRIPPER, arm=arm)
            chunk[:, gripper] = _openings(paths[arm], self._times)[:, None]
        return chunk

    def _free(self, target: Goal, goal: Goal) -> bool:
        """Return whether every arm with different cubes in ``goal`` and ``target`` could change."""
        now, other = assignment(self._sim, target), assignment(self._sim, goal)
        for arm, expert in self.arms.items():
            if now.get(arm) == other.get(arm):
                continue
            colours = [each for each in (now.get(arm), other.get(arm)) if each]
            if not all(expert.may_leave(self._sim, colour) for colour in colours):
                return False
        return True


def assignment(sim: ArmSim, goal: Sequence[str]) -> dict[str, str]:
    """Return arm to colour of the cube that it picks."""
    return {sim.scene.arm_of(colour): colour for colour in goal}


def _openings(path: ArmPath, times: np.ndarray) -> np.ndarray:
    """Return the openings (N,) at ``times``: each is held for a step, not interpolated."""
    index = np.ceil(times / STEP_S - 1e-6).astype(int) - 1
    return path.openings[np.clip(index, 0, len(path.openings) - 1)]
