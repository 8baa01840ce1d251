"""The scripted expert in joint space, for one arm or several at once.

Each cube is picked by the arm that reaches it. An arm without a cube to pick goes to its home pose.
The rule for one tool is :func:`expert.expert_chunk`; inverse kinematics turns its way into joints.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.contract_columns import ColumnKind
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.expert import can_approach, expert_chunk
from sf_training.simulation.one_arm import one_arm
from sf_training.simulation.sim_model import Hand

STEP_S = 0.1  # between two decisions of the expert's rule
_HOME_GAIN = 0.5  # share of the way home in one decision
_HELD = 0.03  # m between tool and cube, as in the expert's rule
_HOME_STEP = 0.12  # rad of a joint in one decision at most
Goal = tuple[str, ...]
"""Colours of the cubes to pick, one for each of some arms."""


@dataclass(frozen=True)
class Way:
    """Where an arm goes: its joints (K, J) and its gripper's opening (K,), ``STEP_S`` apart."""

    joints: np.ndarray
    openings: np.ndarray


class ArmExpert:
    """The expert at one arm.

    Args:
        contract: of the whole robot.
        hand: of the arm, in the simulation.
    """

    def __init__(self, contract: Contract, hand: Hand) -> None:
        own, commands = one_arm(contract, hand.arm), contract.columns.commands
        if hand.approach is None:
            raise ValueError(f"the expert: {hand.arm} reaches no pose with the tool pointing down")
        self.arm, self.gripper = hand.arm, contract.arms[hand.arm].gripper
        self._kinematics = Kinematics(own)
        box = contract.arms[hand.arm].workspace
        self._lower, self._upper = np.array(box.lower), np.array(box.upper)
        self.joints = commands.indices(ColumnKind.JOINT, arm=hand.arm)
        self.fingers = commands.indices(ColumnKind.GRIPPER, arm=hand.arm)
        self._hand, self._home = hand, hand.home[: len(self.joints)]

    def opening(self, positions: np.ndarray) -> float:
        """Opening of the gripper, 0 to 1, for positions of all commanded joints."""
        return self.gripper.mean_opening(positions[self.fingers])

    def pick(self, sim: ArmSim, colour: str, steps: int) -> np.ndarray:
        """Return (steps, 4): displacement of the tool [m] and opening, as the rule says."""
        return expert_chunk(
            self._grip_position(sim),
            self.opening(sim.joint_positions()),
            sim.cube_position(colour),
            sim.support_height(colour),
            steps,
            grip=self._hand.grip,
        )

    def way(self, sim: ArmSim, moves: np.ndarray) -> Way:
        """Return the joints that bring the tool along ``moves`` (K, 4) of :meth:`pick`."""
        tool, seed = sim.tool_position(self.arm), sim.joint_positions()[self.joints]
        rows = []
        for move in moves[:, :3]:
            place = np.clip(tool + move, self._lower, self._upper)
            target = ToolPose(place, self._hand.approach.at(place))
            seed = self._kinematics.inverse(target, seed).positions
            rows.append(seed)
        return Way(np.array(rows), moves[:, 3])

    def _grip_position(self, sim: ArmSim) -> np.ndarray:
        """Where the centre of a cube would be that the gripper holds (3,) [m]."""
        tool = sim.tool_position(self.arm)
        return tool + self._hand.approach.at(tool) @ np.array(self._hand.grip.offset)

    def go_home(self, sim: ArmSim, steps: int) -> Way:
        """Return the joints of a motion to the home pose, gripper open."""
        place, rows = sim.joint_positions()[self.joints], []
        for _ in range(steps):
            way = _HOME_GAIN * (self._home - place)
            place = place + way * min(1.0, _HOME_STEP / max(float(np.abs(way).max()), 1e-9))
            rows.append(place)
        return Way(np.array(rows), np.full(steps, self._hand.grip.wide))

    def holds(self, sim: ArmSim, colour: str) -> bool:
        """True when the gripper is closed with this cube between its fingers."""
        way = self._grip_position(sim) - sim.cube_position(colour)
        closed = self.opening(sim.joint_positions()) < self._hand.grip.gripped
        return bool(closed and np.linalg.norm(way) < _HELD)

    def may_leave(self, sim: ArmSim, colour: str) -> bool:
        """True when the arm could still turn to another cube than ``colour``, or go for it."""
        opening = self.opening(sim.joint_positions())
        place, cube = self._grip_position(sim), sim.cube_position(colour)
        return can_approach(place, opening, cube, grip=self._hand.grip)


class JointExpert:
    """The expert at all arms of a simulated robot."""

    def __init__(self, contract: Contract, sim: ArmSim) -> None:
        self._contract, self._sim = contract, sim
        self.arms = {hand.arm: ArmExpert(contract, hand) for hand in sim.hands}
        self._action = contract.columns.action
        rows = contract.action.horizon
        self._times = contract.action.step_s * np.arange(1, rows + 1)
        self.steps = int(np.ceil(self._times[-1] / STEP_S - 1e-6))

    def goals(self) -> list[Goal]:
        """Return everything that could be asked for: each cube, and two cubes of two arms."""
        scene = self._sim.scene
        pairs = itertools.combinations(scene.colours, 2)
        apart = [pair for pair in pairs if scene.arm_of(pair[0]) != scene.arm_of(pair[1])]
        return [*((colour,) for colour in scene.colours), *apart]

    def answers(self, target: Goal) -> dict[Goal, np.ndarray]:
        """Return chunks (H, A) for all goals that could still be turned to while ``target`` is
        picked; the target's own comes first.
        """
        cache: dict[tuple[str, str | None], Way] = {}
        goals = [target] + [
            goal for goal in self.goals() if set(goal) != set(target) and self._free(target, goal)
        ]
        return {goal: self._chunk(self._ways(goal, cache)) for goal in goals}

    def rows(self, ways: Mapping[str, Way], times: np.ndarray) -> np.ndarray:
        """Return positions (N, C) of all commanded joints at ``times`` (N,) [s] from now."""
        now = self._sim.joint_positions()
        rows = np.empty((len(times), len(now)))
        for arm, way in ways.items():
            expert, knots = self.arms[arm], STEP_S * np.arange(len(way.joints) + 1)
            path = np.vstack([now[expert.joints], way.joints])
            for column, values in zip(expert.joints, path.T, strict=True):
                rows[:, column] = np.interp(times, knots, values)
            rows[:, expert.fingers] = [
                expert.gripper.to_joints(each) for each in _openings(way, times)
            ]
        return rows

    def _ways(self, goal: Goal, cache: dict) -> dict[str, Way]:
        wanted = assignment(self._sim, goal)
        for name, expert in self.arms.items():
            key = (name, wanted.get(name))
            if key not in cache:
                colour = key[1]
                cache[key] = (
                    expert.go_home(self._sim, self.steps)
                    if colour is None
                    else expert.way(self._sim, expert.pick(self._sim, colour, self.steps))
                )
        return {name: cache[name, wanted.get(name)] for name in self.arms}

    def _chunk(self, ways: Mapping[str, Way]) -> np.ndarray:
        chunk = np.empty((len(self._times), len(self._action)))
        rows = self.rows(ways, self._times)
        for arm, expert in self.arms.items():
            columns = self._action.indices(ColumnKind.JOINT, arm=arm)
            chunk[:, columns] = rows[:, expert.joints]
            gripper = self._action.indices(ColumnKind.GRIPPER, arm=arm)
            chunk[:, gripper] = _openings(ways[arm], self._times)[:, None]
        return chunk

    def _free(self, target: Goal, goal: Goal) -> bool:
        now, other = assignment(self._sim, target), assignment(self._sim, goal)
        for arm, expert in self.arms.items():
            if now.get(arm) == other.get(arm):
                continue
            colours = [each for each in (now.get(arm), other.get(arm)) if each]
            if not all(expert.may_leave(self._sim, colour) for colour in colours):
                return False
        return True


def assignment(sim: ArmSim, goal: Sequence[str]) -> dict[str, str]:
    """Return the arms that have a cube to pick, and its colour."""
    return {sim.scene.arm_of(colour): colour for colour in goal}


def _openings(way: Way, times: np.ndarray) -> np.ndarray:
    """A decision holds until the next one: the gripper's commands are steps."""
    index = np.ceil(times / STEP_S - 1e-6).astype(int) - 1
    return way.openings[np.clip(index, 0, len(way.openings) - 1)]
