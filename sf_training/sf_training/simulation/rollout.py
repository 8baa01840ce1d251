"""Run a policy in closed loop with the simulated arm without ROS, through the logic of the chunk
executor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sf_policy_node.motion.executor import ChunkExecutor, ChunkRefused
from sf_policy_node.motion.types import Chunk, Join, Trajectory
from sf_policy_node.session.continuation import ChunkHistory
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.instructions import canonical

REPLAN_SECONDS = 0.3  # between two observations
EPISODE_SECONDS = 8.0
_CHECK_SECONDS = 0.1
_TICK_SECONDS = 0.01  # joint states and watchdog, as often as over ROS


class Motion(Protocol):
    """Turn chunks into commands, like :class:`ChunkExecutor`. Times are simulated seconds, joints
    (J,) are in the order of the contract.
    """

    def activate(self, now: float) -> None:
        """Accept chunks from now on."""

    def on_joint_state(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Take measured joints."""

    def on_chunk(self, chunk: Chunk, now: float) -> Trajectory | None:
        """Return the command for a chunk; None if there is none yet.

        Raises:
            ChunkRefused: the chunk cannot be executed.
        """

    def tick(self, now: float) -> Trajectory | None:
        """Return a further command, or None. Called every 10 ms."""


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one episode.

    Attributes:
        cubes: number of cubes in the scene.
        target: colours of the named cubes, joined by ``+``.
        success: every named cube was lifted by the arm that reaches it.
        wrong_object: a finger touched a cube that was not named.
        seconds: simulated duration.
        chunks, refused: number of predicted and of refused chunks.
        wrong_arm: all named cubes were lifted, but one by another arm.
    """

    seed: int
    cubes: int
    instruction: str
    target: str
    success: bool
    wrong_object: bool
    seconds: float
    chunks: int
    refused: int
    wrong_arm: bool = False


def run_episode(
    sim: ArmSim,
    policy: Policy,
    seed: int,
    *,
    cubes: int = 0,
    instruction: str | None = None,
    target: str | None = None,
    latency_s: float = 0.0,
    motion: Motion | None = None,
    continued: bool = False,
) -> EpisodeResult:
    """Reset to ``seed`` and follow one instruction until its cubes are lifted or
    :data:`EPISODE_SECONDS` have passed.

    Args:
        cubes: 1 to 3; 0 means 2 or 3, by the seed.
        instruction: default "pick the <colour> cube" for ``target``; for two, "pick the <colour>
            cube and the <colour> cube".
        target: colour of the cube that must be lifted; default the targets of the scene.
        latency_s: simulated time from an observation to its chunk; the next observation is taken
            after it.
        motion: new object that turns chunks into commands; default a :class:`ChunkExecutor`.
        continued: give a policy with real-time chunking the rest of its previous chunk.
    """
    contract = policy.contract
    scene = sim.reset(seed, cubes)
    targets = (target,) if target else scene.targets
    instruction = instruction or canonical(*targets)
    motion = motion or ChunkExecutor(contract)
    motion.on_joint_state(sim.time, sim.joint_positions(), sim.joint_velocities())
    motion.activate(sim.time)
    join = getattr(policy, "join", Join.BLEND) if continued else Join.BLEND
    history = ChunkHistory(contract) if join is Join.RTC else None
    period = max(1, round(REPLAN_SECONDS / contract.action.step_s)) * contract.action.step_s
    begin, sequence, refused, success = sim.time, 0, 0, False
    while not success and sim.time - begin < EPISODE_SECONDS:
        stamp, joints = sim.time, sim.joint_positions()
        images = {camera: sim.render(camera) for camera in contract.camera_names}
        more = {"continuation": history.continuation(stamp, joints)} if history else {}
        data = policy.predict(images, joints, instruction, **more)
        _advance(sim, motion, latency_s)
        chunk = Chunk.of(
            contract,
            data,
            stamp=stamp,
            reference=joints,
            inference_latency_s=latency_s,
            join=join,
            policy_id=policy.policy_id,
            instruction=instruction,
            epoch=1,
            sequence=sequence,
        )
        if history:
            history.note(chunk, sim.time - stamp)
        try:
            _send(sim, motion.on_chunk(chunk, sim.time))
        except ChunkRefused:
            refused += 1
            if history:
                history.forget()
        sequence += 1
        due = stamp + period
        success = sim.task_state().picked(targets)  # perhaps during the latency
        while not success and sim.time < due - 1e-9:
            _advance(sim, motion, min(_CHECK_SECONDS, due - sim.time))
            success = sim.task_state().picked(targets)
    objects = sim.task_state().objects
    wrong = any(cube.touched for cube in objects if cube.colour not in targets)
    wrong_arm = success and any(
        cube.held_by != scene.arm_of(cube.colour) for cube in objects if cube.colour in targets
    )
    return EpisodeResult(
        seed,
        len(scene.colours),
        instruction,
        "+".join(targets),
        success and not wrong_arm,
        wrong,
        round(sim.time - begin, 3),
        sequence,
        refused,
        wrong_arm,
    )


def _advance(sim: ArmSim, motion: Motion, seconds: float) -> None:
    end = sim.time + seconds
    while sim.time < end - 1e-9:
        _send(sim, motion.tick(sim.time))
        sim.step(max(1, round(min(_TICK_SECONDS, end - sim.time) / sim.TIMESTEP)))
        motion.on_joint_state(sim.time, sim.joint_positions(), sim.joint_velocities())


def _send(sim: ArmSim, trajectory: Trajectory | None) -> None:
    if trajectory is not None:
        sim.controller.accept(trajectory, sim.time)
