"""Execute a recording by some method, and return the commanded and the true motion."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from bench.recording import Recording

from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.types import Trajectory
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.rollout import Motion

COMMAND_S = 0.001  # the commanded motion is sampled at 1 kHz
AFTER_BORDER_S = 0.2  # length of a border, from a chunk's arrival
JERK_S = 0.01  # step of the third difference for the jerk: what a drive and a gearbox feel
_JUMP_S = 0.02
_TICK_S = 0.01
_TAIL_S = 0.3


@dataclass(frozen=True)
class Motions:
    """Arm joints (T, J) without the gripper [rad] since the reset.

    Commanded every ms, true every physics step. ``borders`` are the arrivals of all accepted chunks
    but the first, which starts from standstill.
    """

    commanded: np.ndarray
    true: np.ndarray
    true_s: float
    borders: tuple[float, ...]
    refused: int


def replay(recording: Recording, motion: Motion, sim: ArmSim) -> Motions:
    """Reset to the recording's scene and execute its chunks at their recorded arrival times."""
    sim.reset(recording.seed, recording.cubes)
    begin, arm = sim.time, slice(0, -1)
    listener = sim.controller.at_rate(1.0 / COMMAND_S)  # executes the same trajectories
    motion.on_joint_state(begin, sim.joint_positions(), sim.joint_velocities())
    motion.activate(begin)
    arrivals = [arrival for arrival, _ in recording.chunks]
    fine, every = round(sim.TIMESTEP / COMMAND_S), round(_TICK_S / sim.TIMESTEP)
    commanded, true, followed, coming = [], [], [], 0

    def send(trajectory: Trajectory | None) -> None:
        if trajectory is not None:
            sim.controller.accept(trajectory, sim.time)
            listener.accept(trajectory, sim.time)

    for step in range(round((arrivals[-1] + _TAIL_S) / sim.TIMESTEP)):
        while coming < len(arrivals) and begin + arrivals[coming] <= sim.time + 1e-9:
            arrival, chunk = recording.chunks[coming]
            coming += 1
            with contextlib.suppress(ChunkRefused):
                send(
                    motion.on_chunk(dataclasses.replace(chunk, stamp=begin + chunk.stamp), sim.time)
                )
                followed.append(arrival)
        if step % every == 0:
            send(motion.tick(sim.time))
        positions, speed = sim.joint_positions(), sim.joint_velocities()
        for n in range(fine):
            measured = positions + n * COMMAND_S * speed, speed
            commanded.append(listener.sample(sim.time + n * COMMAND_S, measured)[0][arm])
        true.append(positions[arm])
        sim.step()
        if (step + 1) % every == 0:
            motion.on_joint_state(sim.time, sim.joint_positions(), sim.joint_velocities())
    borders = tuple(arrival for arrival in followed if arrival != arrivals[0])
    return Motions(
        np.array(commanded), np.array(true), sim.TIMESTEP, borders, len(arrivals) - len(followed)
    )


def border_jerk(
    positions: np.ndarray, period: float, borders: tuple[float, ...], step_s: float = JERK_S
) -> np.ndarray:
    """Return the jerk [rad/s^3] of every joint after borders (N, J).

    The jerk is a third difference over steps of ``step_s`` of positions (T, J).
    """
    jerk, begin = jerk_of(positions, period, step_s)
    return np.concatenate([part for _, part in _windows(jerk, period, begin, borders)])


def border_jump(positions: np.ndarray, period: float, borders: tuple[float, ...]) -> np.ndarray:
    """Return the largest jump of a joint at each border [rad].

    A jump is the departure within 20 ms from continuing at the speed of the 20 ms before.
    """
    step = round(_JUMP_S / period)
    departure = np.abs(positions[2 * step :] - 2 * positions[step:-step] + positions[: -2 * step])
    return np.array([part.max() for _, part in _windows(departure, period, _JUMP_S, borders)])


def jerk_of(
    positions: np.ndarray, period: float, step_s: float = JERK_S
) -> tuple[np.ndarray, float]:
    """Return the jerk (T - 3 steps, J) [rad/s^3] and the time of its first row [s]."""
    step = round(step_s / period)
    at = [positions[shift * step : len(positions) - (3 - shift) * step] for shift in range(4)]
    return (at[3] - 3 * at[2] + 3 * at[1] - at[0]) / (step * period) ** 3, 1.5 * step * period


def _windows(
    values: np.ndarray, period: float, begin: float, borders: tuple[float, ...]
) -> Iterator[tuple[float, np.ndarray]]:
    for border in borders:
        first = max(0, round((border - begin) / period))
        yield border, values[first : first + round(AFTER_BORDER_S / period)]
