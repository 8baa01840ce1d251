"""A policy in closed loop with the simulated arm, without ROS: the executor's own logic moves the arm here too."""

from __future__ import annotations

from dataclasses import dataclass

from sf_policy_node.motion.executor import ChunkExecutor, ChunkRefused
from sf_policy_node.motion.types import Chunk
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.instructions import canonical

REPLAN_STEPS = 3  # action steps between two observations
EPISODE_SECONDS = 8.0
_CHECK_SECONDS = 0.1


@dataclass(frozen=True)
class EpisodeResult:
    """How one episode ended. ``wrong_object``: a finger touched a cube that was not named."""

    seed: int
    cubes: int
    instruction: str
    target: str
    success: bool
    wrong_object: bool
    seconds: float
    chunks: int
    refused: int


def run_episode(
    sim: ArmSim,
    policy: Policy,
    seed: int,
    *,
    cubes: int = 0,
    instruction: str | None = None,
    target: str | None = None,
    latency_s: float = 0.0,
) -> EpisodeResult:
    """Reset to ``seed``, follow one instruction until its cube is lifted or :data:`EPISODE_SECONDS` have passed.

    Args:
        cubes: 1 to 3, or 0 for 2 or 3 by the seed.
        instruction: default "pick the <colour> cube" for ``target``.
        target: colour that counts as success, default the scene's own.
        latency_s: from the observation to the chunk's arrival, in simulated time.
    """
    contract = policy.contract
    scene = sim.reset(seed, cubes)
    target = target or scene.target
    instruction = instruction or canonical(target)
    executor = ChunkExecutor(contract)
    executor.activate()
    begin, sequence, refused, success = sim.time, 0, 0, False
    while not success and sim.time - begin < EPISODE_SECONDS:
        stamp, joints = sim.time, sim.joint_positions()
        images = {camera: sim.render(camera) for camera in contract.camera_names}
        data = policy.predict(images, joints, instruction)
        _advance(sim, latency_s)
        executor.on_joint_state(sim.time, sim.joint_positions(), sim.joint_velocities())
        identity = {"policy_id": policy.policy_id, "instruction": instruction, "epoch": 1, "sequence": sequence}
        chunk = Chunk.of(contract, data, stamp=stamp, reference=joints, **identity)
        try:
            sim.controller.accept(executor.on_chunk(chunk, sim.time), sim.time)
        except ChunkRefused:
            refused += 1
        sequence += 1
        due = stamp + REPLAN_STEPS * contract.action.step_s
        while not success and sim.time < due - 1e-9:
            _advance(sim, min(_CHECK_SECONDS, due - sim.time))
            success = any(cube.lifted for cube in sim.task_state().objects if cube.colour == target)
    wrong = any(cube.touched for cube in sim.task_state().objects if cube.colour != target)
    return EpisodeResult(seed, len(scene.colours), instruction, target, success, wrong, round(sim.time - begin, 3), sequence, refused)


def _advance(sim: ArmSim, seconds: float) -> None:
    steps = round(seconds / sim.TIMESTEP)
    if steps:
        sim.step(steps)
