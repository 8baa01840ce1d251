"""Compare an emergency stop in recorded motions with the shortest one inside the limits."""

from __future__ import annotations

import numpy as np
from bench.controller_ways import WAYS, drive
from bench.executor_latency import DELAYS
from bench.figures import Figures
from bench.recording import record

from sf_bringup.graph import find_policy, find_robot
from sf_policy_node.contract import load_contract
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim

STOPS = 4  # in each rollout, at random times
MOVING = 0.1  # share of a joint's velocity limit from which a stop is counted
STATIONARY = 1e-3  # share of a joint's velocity limit below which it has stopped
SEED = 0


def bench_stops(figures: Figures, rollouts: int) -> None:
    """Stop ``rollouts`` rollouts at random times, in front of the controller model.

    The shortest stop brakes all joints together, the slowest one at its limit: with velocities v
    (J,) and limits a (J,) it takes T = max |v| / a and leads along v (t - t^2 / 2T). The command
    needs a lead (``guard._STOP_LEAD_S``) that this bound does not have.
    """
    contract = load_contract(find_robot("sim_arm"))
    sim, policy = ArmSim(contract), Policy.load(find_policy("nano"), device="cpu")
    recordings = [
        record(sim, policy, ChunkExecutor(contract), number, DELAYS[number % len(DELAYS)])
        for number in range(rollouts)
    ]
    sim.close()
    random, limits = np.random.default_rng(SEED), JointLimits.of(contract)
    tool = Workspace(contract, kinematics_of(contract))
    arm = ~limits.is_gripper
    found = []
    for recording in recordings:
        for stop_s in random.uniform(0.5, recording.chunks[-1][0], STOPS):
            commands, stop_at = drive(recording, WAYS["ours"], contract, float(stop_s))
            first = int(np.searchsorted(commands.times, stop_at))
            share = np.abs(commands.velocities[first:, arm]) / limits.velocity[arm]
            if share[0].max() < MOVING:
                continue
            last = first + 1 + int(np.flatnonzero(share.max(axis=1) > STATIONARY)[-1])
            velocity = np.where(arm, commands.velocities[first], 0.0)
            shortest_s = float((np.abs(velocity) / limits.acceleration).max())
            times = np.linspace(0.0, shortest_s, 50)[:, None]
            braking = commands.positions[first] + velocity * (times - times**2 / (2 * shortest_s))
            found.append(
                (
                    commands.times[last] - stop_at,
                    shortest_s,
                    _length(tool.places(commands.positions[first : last + 1])),
                    _length(tool.places(braking)),
                )
            )
    taken, shortest, path, shortest_path = np.array(found).T
    note = f"emergency stop at a random time of {rollouts} rollouts, 500 Hz controller model"
    figures.spread("stop_time", 1e3 * taken, "ms", note, (50, 99, 100))
    figures.spread("stop_time_over_shortest", 1e3 * (taken - shortest), "ms", note, (50, 99, 100))
    figures.spread("stop_distance", 1e3 * path, "mm", f"of the tool; {note}", (50, 99, 100))
    figures.spread(
        "stop_distance_over_shortest",
        1e3 * (path - shortest_path),
        "mm",
        f"of the tool; {note}",
        (50, 99, 100),
    )


def _length(places: np.ndarray) -> float:
    """Length [m] of the path through tool positions (N, 3)."""
    return float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())
