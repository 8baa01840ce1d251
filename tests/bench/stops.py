"""Compare an emergency stop in recorded motions with the shortest one inside the limits."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from bench.controller_methods import BEGIN_S, METHODS, RATE_HZ, TICK_S, drive
from bench.executor_latency import DELAYS
from bench.figures import Figures
from bench.recording import record_rollouts

from sf_bringup.graph import find_robot
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.controller.control_loop import Commands
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.executor import ChunkExecutor

STOPS = 4  # in each rollout, at random times
MOVING = 0.1  # share of a joint's velocity limit from which a stop is counted
STATIONARY = 1e-3  # share of a joint's velocity limit below which it has stopped
SEED = 0


@dataclass(frozen=True)
class Stop:
    """A stop beside the shortest one inside the limits: times [s], paths of the tool [m]."""

    duration: float
    shortest_duration: float
    path: float
    shortest_path: float


def bench_stops(figures: Figures, rollouts: int) -> None:
    """Stop ``rollouts`` rollouts at random times, in front of the controller model.

    The command needs a lead (``motion.safety.leads``) that the shortest stop does not have.
    """
    contract = load_contract(find_robot("sim_arm"))
    recordings = record_rollouts(contract, ChunkExecutor, DELAYS, rollouts=rollouts)
    random = np.random.default_rng(SEED)
    stops = []
    for recording in recordings:
        for stop_s in random.uniform(0.5, recording.chunks[-1][0], STOPS):
            stop_at = BEGIN_S + TICK_S * np.ceil(stop_s / TICK_S)
            commands = drive(recording, METHODS["ours"], contract, stop_at)
            if (stop := compare_stop(commands, stop_at, contract)) is not None:
                stops.append(stop)
    note = f"emergency stop at a random time of {rollouts} rollouts, {RATE_HZ:.0f} Hz controller"
    duration, shortest, path, shortest_path = np.array([astuple(stop) for stop in stops]).T
    for name, values, unit, what in (
        ("stop_time", 1e3 * duration, "ms", note),
        ("stop_time_over_shortest", 1e3 * (duration - shortest), "ms", note),
        ("stop_distance", 1e3 * path, "mm", f"of the tool; {note}"),
        (
            "stop_distance_over_shortest",
            1e3 * (path - shortest_path),
            "mm",
            f"of the tool; {note}",
        ),
    ):
        figures.spread(name, values, unit, what, (50, 99, 100))


def compare_stop(commands: Commands, stop_at: float, contract: Contract) -> Stop | None:
    """Compare the stop in commands after ``stop_at`` with the shortest inside the limits.

    The shortest stop brakes all joints together, the slowest one at its limit: with velocities v
    (J,) and limits a (J,) it takes T = max |v| / a and moves along v (t - t^2 / 2T).

    Returns:
        ``None`` if the arm hardly moves at ``stop_at``. The gripper is left out.
    """
    limits = JointLimits.of(contract)
    tool, arm = Workspace(contract, kinematics_of(contract)), ~limits.is_gripper
    first = int(np.searchsorted(commands.times, stop_at - 1e-9))
    share = np.abs(commands.velocities[first:, arm]) / limits.velocity[arm]
    if share[0].max() < MOVING:
        return None
    last = first + 1 + int(np.flatnonzero(share.max(axis=1) > STATIONARY)[-1])
    velocity = np.where(arm, commands.velocities[first], 0.0)
    shortest = float((np.abs(velocity) / limits.acceleration).max())
    times = np.linspace(0.0, shortest, 50)[:, None]
    braking = commands.positions[first] + velocity * (times - times**2 / (2 * shortest))
    return Stop(
        commands.times[last] - stop_at,
        shortest,
        _path_length(tool.tool_positions(commands.positions[first : last + 1])),
        _path_length(tool.tool_positions(braking)),
    )


def _path_length(positions: np.ndarray) -> float:
    """Length [m] of the path through tool positions (N, 3)."""
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
