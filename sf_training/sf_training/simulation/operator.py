"""Demonstrate with the scripted expert: drive the simulated arm through one episode, frame by
frame.

The expert replaces a teleoperator. Its commands are noisy on purpose, so that the data show how to
recover; the chunks that become labels are clean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import ActionSpace, ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_policy_node.motion.types import Trajectory
from sf_training.simulation.arm_sim import TOOL_DOWN, ArmSim
from sf_training.simulation.expert import can_approach, expert_chunk
from sf_training.simulation.instructions import Phrasing

HAND_NOISE = 0.009  # m, standard deviation per axis and action step
STEPS_MAX = 60  # action steps in an episode
_JOINT_STATE_STEPS = 4  # physics steps between two recorded joint states: 50 Hz


@dataclass(frozen=True)
class JointSample:
    """Measured joints (J,) at ``stamp`` [s]."""

    stamp: float
    positions: np.ndarray
    velocities: np.ndarray


@dataclass(frozen=True)
class Frame:
    """Data of one action step.

    Attributes:
        images, depth: camera to (H, W, 3) uint8 RGB, and to (H, W) [m].
        camera_poses: camera to rotation (3, 3) and position (3,) [m] of its optical frame.
        answers: (instruction, chunk (H, A)) for every cube that the expert could still pick.
        reference, reference_velocities: (J,) joints measured at ``stamp``.
        command: (J,) noisy command, to be reached one action step later.
        motion: joint states until the next frame.
    """

    stamp: float
    images: dict[str, np.ndarray]
    depth: dict[str, np.ndarray]
    camera_poses: dict[str, tuple[np.ndarray, np.ndarray]]
    answers: tuple[tuple[str, np.ndarray], ...]
    reference: np.ndarray
    reference_velocities: np.ndarray
    command: np.ndarray
    motion: tuple[JointSample, ...]


def demonstrate(
    sim: ArmSim, contract: Contract, kinematics: Kinematics, rng: np.random.Generator
) -> Iterator[Frame]:
    """Pick the target of ``sim.scene``; end when it is lifted or after :data:`STEPS_MAX` steps.

    The instructions of one frame differ only in their colour words, so that a policy must use
    these.
    """
    target, gripper = sim.scene.target, contract.only_arm.fitted_gripper
    fingers = contract.columns.commands.grippers
    own = contract.columns.commands.indices(ColumnKind.JOINT)
    steps = round(contract.action.step_s / sim.TIMESTEP)
    for _ in range(STEPS_MAX):
        stamp, joints, tool = sim.time, sim.joint_positions(), sim.tool_position()
        speeds = sim.joint_velocities()
        opening = gripper.mean_opening(joints[fingers].tolist())
        chunks = {
            colour: _answer(sim, contract, colour, tool, opening) for colour in sim.scene.colours
        }
        phrasing = Phrasing.draw(rng)
        start = kinematics.forward(joints[own]).rotation
        answers = [
            (phrasing.say(colour, rng), label(contract, chunk, tool, start))
            for colour, chunk in chunks.items()
            if colour == target or can_approach(tool, opening, sim.cube_position(colour))
        ]
        images = {camera: sim.render(camera) for camera in contract.camera_names}
        depth = {camera: sim.depth(camera) for camera in contract.camera_names}
        poses = {camera: sim.camera_pose(camera) for camera in contract.camera_names}

        free = chunks[target][0, -1] > 0.5  # no noise while gripping: it would only drop the cube
        offset = rng.normal(0.0, HAND_NOISE, 3) if free else np.zeros(3)
        motion = _drive(
            contract, kinematics, stamp, joints, tool, chunks[target] + np.append(offset, 0.0)
        )
        sim.controller.accept(motion, sim.time)
        samples = []
        for _ in range(steps // _JOINT_STATE_STEPS):
            sim.step(_JOINT_STATE_STEPS)
            samples.append(JointSample(sim.time, sim.joint_positions(), sim.joint_velocities()))
        yield Frame(
            stamp,
            images,
            depth,
            poses,
            tuple(answers),
            joints,
            speeds,
            motion.positions[0],
            tuple(samples),
        )
        if any(cube.lifted for cube in sim.task_state().objects if cube.colour == target):
            return


def label(contract: Contract, moves: np.ndarray, tool: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the actions (H, A) of an expert's chunk in the contract's action space of the tool.

    Args:
        moves: (H, 4) displacement from ``tool`` [m] and gripper opening.
        tool: tool position (3,) [m].
        start: tool rotation (3, 3); the expert's tool points down (R).

    Columns rx ry rz are log(R start^T) for ee_delta and log R for ee_pose.
    """
    layout, is_delta = contract.columns.action, contract.action.space is ActionSpace.EE_DELTA
    rotation = pinocchio.log3(TOOL_DOWN @ start.T if is_delta else TOOL_DOWN)
    actions = np.zeros((len(moves), len(layout)))
    actions[:, layout.indices(ColumnKind.TOOL_POSITION)] = moves[:, :3] + (
        0.0 if is_delta else tool
    )
    rotations = layout.indices(ColumnKind.TOOL_ROTATION)
    actions[:, rotations] = rotation[: len(rotations)]
    actions[:, layout.grippers] = moves[:, 3:]
    return actions


def _answer(
    sim: ArmSim, contract: Contract, colour: str, tool: np.ndarray, opening: float
) -> np.ndarray:
    return expert_chunk(
        tool,
        opening,
        sim.cube_position(colour),
        sim.support_height(colour),
        contract.action.horizon,
    )


def _drive(
    contract: Contract,
    kinematics: Kinematics,
    stamp: float,
    joints: np.ndarray,
    tool: np.ndarray,
    chunk: np.ndarray,
) -> Trajectory:
    """Return the joint trajectory along a chunk from ``joints``, ending at rest.

    Inverse kinematics is seeded with the previous step. Velocities are central differences.
    """
    commands, gripper = contract.columns.commands, contract.only_arm.fitted_gripper
    seed, rows = joints[commands.indices(ColumnKind.JOINT)], []
    for *move, opening in chunk:
        position = np.clip(tool + move, contract.workspace.lower, contract.workspace.upper)
        seed = kinematics.inverse(ToolPose(position, TOOL_DOWN), seed).positions
        rows.append([*seed, *gripper.to_joints(opening)])
    positions = np.array(rows)
    step = contract.action.step_s
    velocities = np.zeros_like(positions)
    velocities[:-1] = (positions[1:] - np.vstack([joints, positions[:-2]])) / (2 * step)
    velocities[:, commands.grippers] = 0.0  # gripper commands are steps, without a velocity
    return Trajectory(
        stamp,
        tuple(contract.command_joints),
        step * np.arange(1, len(rows) + 1),
        positions,
        velocities,
    )
