"""Record chunks of closed-loop rollouts with their arrival times, to execute them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sf_bringup.graph import find_policy
from sf_policy_node.contract import Contract
from sf_policy_node.motion.types import Chunk, Trajectory
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.rollout import Motion, run_episode

FIRST_SEED = 970_000


@dataclass
class Recording:
    """A recorded rollout; times are seconds since the reset.

    ``seed`` and ``cubes`` reproduce the scene.
    """

    seed: int
    cubes: int
    chunks: list[tuple[float, Chunk]] = field(default_factory=list)
    """Arrival, and the chunk with its own stamp."""
    joints: list[tuple[float, np.ndarray, np.ndarray]] = field(default_factory=list)
    """Stamp, measured positions and velocities."""


class Recorder:
    """A ``rollout.Motion`` that records the input of another one."""

    def __init__(self, motion: Motion, recording: Recording) -> None:
        self._motion, self._recording = motion, recording
        self._begin: float | None = None

    def activate(self, now: float) -> None:
        self._motion.activate(now)

    def on_joint_state(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        self._begin = stamp if self._begin is None else self._begin
        self._recording.joints.append((stamp - self._begin, positions, velocities))
        self._motion.on_joint_state(stamp, positions, velocities)

    def on_chunk(self, chunk: Chunk, now: float) -> Trajectory | None:
        self._recording.chunks.append(
            (now - self._begin, dataclasses.replace(chunk, stamp=chunk.stamp - self._begin))
        )
        return self._motion.on_chunk(chunk, now)

    def tick(self, now: float) -> Trajectory | None:
        return self._motion.tick(now)


def record(
    sim: ArmSim,
    policy: Policy,
    motion: Motion,
    number: int,
    latency_s: float,
    *,
    continued: bool = True,
) -> Recording:
    """Run one rollout with seed :data:`FIRST_SEED` + ``number``.

    Scenes with 2 and 3 cubes alternate; ``continued`` as in :func:`run_episode`.
    """
    recording = Recording(FIRST_SEED + number, 2 + number % 2)
    run_episode(
        sim,
        policy,
        recording.seed,
        cubes=recording.cubes,
        latency_s=latency_s,
        motion=Recorder(motion, recording),
        continued=continued,
    )
    return recording


def record_rollouts(
    contract: Contract,
    make_motion: Callable[[Contract], Motion],
    delays: Sequence[float],
    *,
    rollouts: int = 0,
    chunks: int = 0,
) -> list[Recording]:
    """Record rollouts of the policy ``nano`` until there are enough rollouts and enough chunks.

    Args:
        make_motion: makes the motion of each rollout.
        delays: latencies of the policy [s]; rollouts take them in turn.
        rollouts, chunks: wanted number of rollouts, and of chunks of all rollouts together.
    """
    sim, policy = ArmSim(contract), Policy.load(find_policy("nano"), device="cpu")
    recordings: list[Recording] = []
    try:
        while len(recordings) < rollouts or sum(len(each.chunks) for each in recordings) < chunks:
            number = len(recordings)
            delay_s = delays[number % len(delays)]
            recordings.append(record(sim, policy, make_motion(contract), number, delay_s))
    finally:
        sim.close()
    return recordings
