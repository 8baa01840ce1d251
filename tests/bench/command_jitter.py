"""Measure how evenly streamed commands leave the executor, and what a controller makes of them.

The simulated arm and the policy run beside it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml
from bench.controller_methods import MEAN_S, RATE_HZ
from bench.figures import Figures
from bench.plots import plot_jitter
from rich.console import Console

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_msgs.msg import ExecutorStatus
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.controller.control_loop import Commands
from sf_policy_node.motion.arm.limits import JointLimits

RATES = (100, 250)  # Hz
TOPIC = "/forward_command_controller/commands"
_INSTRUCTION_S = 8.0
_START_S = 180.0


def measure_jitter(figures: Figures, seconds: float, folder: Path, console: Console) -> None:
    """Follow instructions for ``seconds`` of wall time at each rate and add percentiles of |period
    - nominal|.

    Times of sending show what the executor does; times of arrival add the delays of DDS and of the
    receiving process on this machine.
    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    deviations = {}
    for rate in RATES:
        with console.status(f"command periods at {rate} Hz: {seconds:g} s"):
            contract, observed = _observe(rate, seconds, folder / f"jitter_{rate}hz")
        limits = JointLimits.of(contract)
        for place, times in (("sent", observed["sent"]), ("received", observed["commands"])):
            moving = is_moving(times, observed["statuses"], observed["states"])
            periods = 1e-9 * np.diff(times)[moving]
            off = 1e3 * np.abs(periods - 1 / rate)
            deviations[f"{rate} Hz, {place}"] = off
            note = (
                f"off {1e3 / rate:g} ms, {place}, {periods.sum():.0f} s of motion;"
                f" {(~moving).sum()} gaps in which the arm was to be stationary"
            )
            figures.spread(f"command_period_{place}_{rate}hz", off, "ms", note, (50, 99, 100))
            mean, note = 1e3 * periods.mean(), "how long a cycle took on average"
            figures.add(f"command_period_{place}_{rate}hz_mean", mean, "ms", len(periods), note)
            cycles = f"{place}, in a controller of {RATE_HZ:g} Hz that holds the last command"
            commands, missing = hold_commands(times, observed["positions"], moving)
            count = int(missing.sum())
            figures.rate(f"cycles_without_command_{place}_{rate}hz", count, len(missing), cycles)
            for what, shares in shares_of_limits(commands, limits).items():
                name = f"streamed_{what}_{place}_{rate}hz"
                figures.spread(name, shares, "of the limit", cycles, (99, 100))
        delays = 1e-6 * (observed["commands"] - observed["sent"])
        note = "from sending in the executor's process to arrival at the observer's DDS"
        figures.spread(f"command_delivery_{rate}hz", delays, "ms", note, (50, 99, 100))
    plot_jitter(folder / "jitter.png", deviations)


def is_moving(commands: np.ndarray, statuses: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return for each period between two commands (N - 1,) whether the arm was to move.

    It was not where the executor reported another state than EXECUTING in between.

    Args:
        commands: (N,) when commands were received [ns].
        statuses, states: (M,) when the executor reported which state [ns].
    """
    # How many statuses before each status reported a stationary arm.
    stationary = np.append(0, np.cumsum(states != ExecutorStatus.EXECUTING))
    reported = np.searchsorted(statuses, commands, side="right")
    return stationary[reported[1:]] == stationary[reported[:-1]]


def hold_commands(
    arrivals: np.ndarray, positions: np.ndarray, moving: np.ndarray
) -> tuple[Commands, np.ndarray]:
    """Sample commands as a ``forward_command_controller`` of :data:`RATE_HZ` holds them.

    Args:
        arrivals: (N,) when commands were received [ns].
        positions: (N, J) their values [rad or m].
        moving: (N - 1,) whether the arm was to move until the next command.

    Returns:
        The hardware's commands, and for each control cycle in which the arm was to move whether
        no new command had arrived.
    """
    seconds = 1e-9 * (arrivals - arrivals[0])
    # Half a cycle after the first command, so that a command on time is not late by rounding.
    times = np.arange(0.5 / RATE_HZ, seconds[-1], 1.0 / RATE_HZ)
    newest = np.searchsorted(seconds, times, side="right") - 1
    missing = (np.diff(newest) == 0)[moving[newest[1:]]]
    return Commands(times, positions[newest]), missing


def shares_of_limits(commands: Commands, limits: JointLimits) -> dict[str, np.ndarray]:
    """Return the largest velocity in each cycle and acceleration over :data:`MEAN_S`.

    Both are shares of the limits, of the arm's joints, without cycles in which nothing moves.
    """
    arm, steps = ~limits.is_gripper, round(MEAN_S * RATE_HZ)
    velocities = commands.velocities[:, arm]
    accelerations = (velocities[steps:] - velocities[:-steps]) / MEAN_S
    velocity = (np.abs(velocities) / limits.velocity[arm]).max(axis=1)
    acceleration = (np.abs(accelerations) / limits.acceleration[arm]).max(axis=1)
    return {
        "velocity": velocity[velocity > 0.0],
        "acceleration_20ms": acceleration[acceleration > 0.0],
    }


def _observe(rate: int, seconds: float, folder: Path) -> tuple[Contract, dict[str, np.ndarray]]:
    folder.mkdir(parents=True, exist_ok=True)
    robot = _write_contract(rate, folder)
    contract = load_contract(robot)
    with GraphProcess([f"robot:={robot}", "policy:=nano"], folder / "graph.log") as graph:
        client = ArmClient(contract, alive=graph.check)
        try:
            client.wait_for_arm(_START_S)
            client.wait_for_policy(_START_S)
            with _observer(contract, folder / "arrivals.npz"):
                end, seed = time.monotonic() + seconds, 0
                while (left := end - time.monotonic()) > 0:
                    handle = client.start(client.reset(seed, 2).instruction, _INSTRUCTION_S)
                    over = time.monotonic() + min(left, _INSTRUCTION_S)
                    client.wait_until(
                        lambda over=over: time.monotonic() > over,
                        2 * _INSTRUCTION_S,
                        "wall time does not advance",
                    )
                    client.finish(handle)
                    seed += 1
        finally:
            client.close()
    with np.load(folder / "arrivals.npz") as observed:
        return contract, dict(observed)


def _write_contract(rate: int, folder: Path) -> Path:
    shipped = find_robot("sim_arm")
    contract = yaml.safe_load(shipped.read_text())
    contract["command"] = {"output": "forward_command", "topic": TOPIC, "rate_hz": rate}
    (folder / contract["urdf"]).write_text(shipped.with_name(contract["urdf"]).read_text())
    path = (folder / "robot.yaml").absolute()
    path.write_text(yaml.safe_dump(contract, sort_keys=False))
    return path


@contextmanager
def _observer(contract, file: Path) -> Iterator[None]:
    words = [
        sys.executable,
        "-m",
        "bench.command_observer",
        contract.command.topic,
        contract.topics.executor_status,
        str(file),
    ]
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield
    finally:
        process.stdin.close()
        if process.wait(30):
            raise RuntimeError(f"bench.command_observer ended with exit code {process.returncode}")
