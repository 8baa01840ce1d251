"""Demonstrate with the scripted expert on any robot whose chunks are joint targets.

As in :mod:`operator`, commands are noisy and labels are clean. An arm may also miss a grasp once:
its gripper closes without a cube and rises, so that the data show how to recover.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.contract.columns import ColumnKind
from sf_policy_node.motion.types import Trajectory
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.instructions import Phrasing
from sf_training.simulation.joint_expert import STEP_S, ArmPath, JointExpert, assignment
from sf_training.simulation.operator import HAND_NOISE, Frame, JointSample

STEPS_MAX = 80  # expert steps in an episode
_JOINT_NOISE = 0.02  # rad, standard deviation, of an arm that moves home
_AHEAD = 4  # expert steps that are commanded; the next frame replaces them
_JOINT_STATE_STEPS = 4  # physics steps between two recorded joint states: 50 Hz
# Bounds (first, last + 1) of the expert step at which a slip begins, and of its number of steps.
_SLIP_BEGIN, _SLIP_STEPS = (3, 16), (2, 6)
_SLIP_RISE = 0.03  # m: maximum rise in one expert step


@dataclass(frozen=True)
class Slip:
    """Describe a missed grasp: from step ``begin`` to before ``end`` of the expert the gripper is
    closed, and rises by ``rise`` [m] in each step.
    """

    begin: int
    end: int
    rise: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Slip:
        """Return a random one."""
        begin = int(rng.integers(*_SLIP_BEGIN))
        return cls(
            begin, begin + int(rng.integers(*_SLIP_STEPS)), float(rng.uniform(0.0, _SLIP_RISE))
        )


def demonstrate_joints(
    sim: ArmSim,
    contract: Contract,
    rng: np.random.Generator,
    expert: JointExpert | None = None,
    *,
    slips: bool = False,
) -> Iterator[Frame]:
    """Pick the targets of ``sim.scene``; end when all are lifted or after :data:`STEPS_MAX` steps.

    Args:
        slips: each arm that does not hold its cube yet misses a grasp once.

    Yields:
        A frame every ``STEP_S``. Between frames the robot follows noisy commands.
    """
    expert = expert or JointExpert(contract, sim)
    targets = sim.scene.targets
    missed = {arm: Slip.draw(rng) for arm in expert.arms} if slips else {}
    period = contract.action.step_s
    times = period * np.arange(1, round(_AHEAD * STEP_S / period) + 1)
    for decision in range(STEPS_MAX):
        stamp, joints, speeds = sim.time, sim.joint_positions(), sim.joint_velocities()
        phrasing = Phrasing.draw(rng)
        answers = [
            (phrasing.say([goal[index] for index in rng.permutation(len(goal))], rng), chunk)
            for goal, chunk in expert.answers(targets).items()
        ]
        cameras = contract.camera_names
        images = {camera: sim.render(camera) for camera in cameras}
        depth = {camera: sim.depth(camera) for camera in cameras}
        poses = {camera: sim.camera_pose(camera) for camera in cameras}
        now = {arm: slip for arm, slip in missed.items() if slip.begin <= decision < slip.end}
        rows = expert.positions(_noisy_paths(sim, expert, rng, now), times)
        sim.controller.accept(_trajectory(contract, stamp, joints, times, rows), sim.time)
        samples = []
        for _ in range(round(STEP_S / sim.TIMESTEP) // _JOINT_STATE_STEPS):
            sim.step(_JOINT_STATE_STEPS)
            samples.append(JointSample(sim.time, sim.joint_positions(), sim.joint_velocities()))
        yield Frame(
            stamp, images, depth, poses, tuple(answers), joints, speeds, rows[0], tuple(samples)
        )
        if sim.task_state().picked():
            return


def _noisy_paths(
    sim: ArmSim, expert: JointExpert, rng: np.random.Generator, slips: Mapping[str, Slip]
) -> dict[str, ArmPath]:
    """Return a noisy path of each arm, with ``slips``, so that the data show how to recover."""
    wanted, paths = assignment(sim, sim.scene.targets), {}
    for arm, each in expert.arms.items():
        if arm not in wanted:
            path = each.go_home(sim, _AHEAD)
            path.joints[:] += rng.normal(0.0, _JOINT_NOISE, path.joints.shape[1])
        else:
            moves = each.pick(sim, wanted[arm], _AHEAD)
            if arm in slips and not each.holds(sim, wanted[arm]):
                moves[:, :3] = slips[arm].rise * np.arange(1, _AHEAD + 1)[:, None] * [0, 0, 1]
                moves[:, -1] = 0.0
            elif moves[0, -1] > 0.5:  # no noise while gripping: it would only drop the cube
                moves[:, :3] += rng.normal(0.0, HAND_NOISE, 3)
            path = each.path(sim, moves)
        paths[arm] = path
    return paths


def _trajectory(
    contract: Contract, stamp: float, joints: np.ndarray, times: np.ndarray, rows: np.ndarray
) -> Trajectory:
    velocities = np.zeros_like(rows)
    velocities[:-1] = (rows[1:] - np.vstack([joints, rows[:-2]])) / (2.0 * (times[1] - times[0]))
    # Gripper commands are steps, without a velocity.
    velocities[:, contract.columns.commands.mask(ColumnKind.GRIPPER)] = 0.0
    return Trajectory(stamp, tuple(contract.command_joints), times, rows, velocities)
