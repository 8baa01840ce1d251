"""Measure the executor's latency from a serialized chunk to a serialized trajectory.

Everything runs in one process, without DDS.
"""

from __future__ import annotations

import dataclasses
import gc
import time

import numpy as np
from bench.figures import Figures
from bench.recording import Recording, record_rollouts
from bench.two_arms import of_both, twice
from rclpy.serialization import deserialize_message, serialize_message

from sf_bringup.graph import find_robot
from sf_msgs.msg import ActionChunk
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.nodes.conversions import (
    chunk_from_message,
    chunk_to_message,
    trajectory_to_message,
)

RATES = (50, 100, 250)
DELAYS = (0.0, 0.1)  # s


def bench_executor(figures: Figures, chunks: int) -> None:
    """Execute ``chunks`` chunks of recorded rollouts at each rate.

    Chunks arrive at their recorded times, with the joint states measured then. Each rate is run
    with and without collision check. The last figures are of two such arms.
    """
    contract = load_contract(find_robot("sim_arm"))
    recordings = record_rollouts(contract, ChunkExecutor, DELAYS, chunks=chunks)
    for rate in RATES:
        command = contract.command.model_copy(update={"rate_hz": float(rate)})
        fast = contract.model_copy(update={"command": command})
        _measure(figures, f"executor_{rate}hz", fast, recordings)
        _measure(figures, f"executor_{rate}hz_unchecked", _unchecked(fast), recordings)
    both = twice(contract)
    doubled = [of_both(recording, both) for recording in recordings]
    name = f"executor_two_arms_{both.rate_hz:g}hz"
    _measure(figures, name, both, doubled)
    _measure(figures, f"{name}_unchecked", _unchecked(both), doubled)


def _unchecked(contract: Contract) -> Contract:
    """Return the contract with ``collision.check: false``."""
    section = contract.collision.model_copy(update={"check": False})
    return contract.model_copy(update={"collision": section})


def _measure(figures: Figures, name: str, contract: Contract, recordings: list[Recording]) -> None:
    _replay(contract, recordings[:3])  # warm-up: compiles and fills caches
    gc.collect()
    gc.freeze()  # the node does the same
    wall, processor, refused = _replay(contract, recordings)
    note = (
        f"ActionChunk bytes in, JointTrajectory bytes out, {len(recordings)} rollouts; collision"
        f" check {'on' if contract.collision.check else 'off'}; one process, no DDS;"
        f" {refused} refused"
    )
    figures.spread(name, 1e3 * wall, "ms", note, (50, 99, 100))
    figures.spread(
        f"{name}_cpu",
        1e3 * processor,
        "CPU-ms",
        "the same in processor time, which others' load hardly changes",
        (50, 99),
    )


def _replay(contract: Contract, recordings: list[Recording]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return wall and processor seconds of every accepted chunk, and the number of refused ones."""
    wall, processor, refused = [], [], 0
    for recording in recordings:
        motion = ChunkExecutor(contract)
        begin = 100.0  # any time but 0, which means "now" to a controller
        joints = iter(recording.joints)
        stamp, positions, velocities = next(joints)
        motion.on_joint_state(begin + stamp, positions, velocities)
        motion.activate(begin)
        for arrival, chunk in recording.chunks:
            for stamp, positions, velocities in joints:
                motion.on_joint_state(begin + stamp, positions, velocities)
                motion.tick(begin + stamp)
                if stamp >= arrival - 1e-9:
                    break
            data = serialize_message(
                chunk_to_message(dataclasses.replace(chunk, stamp=begin + chunk.stamp))
            )
            started, started_cpu = time.perf_counter(), time.thread_time()
            try:
                trajectory = motion.on_chunk(
                    chunk_from_message(deserialize_message(data, ActionChunk)), begin + arrival
                )
            except ChunkRefused:
                refused += 1
                continue
            serialize_message(trajectory_to_message(trajectory))
            wall.append(time.perf_counter() - started)
            processor.append(time.thread_time() - started_cpu)
    return np.array(wall), np.array(processor), refused
