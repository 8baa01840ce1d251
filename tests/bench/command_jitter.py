"""Measure the jitter of streamed commands while the simulated arm and the policy run."""

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
from bench.figures import Figures
from bench.plots import plot_jitter
from rich.console import Console

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_msgs.msg import ExecutorStatus
from sf_policy_node.contract import load_contract

RATES = (100, 250)  # Hz
TOPIC = "/forward_command_controller/commands"
_INSTRUCTION_S = 8.0
_START_S = 180.0


def measure_jitter(figures: Figures, seconds: float, folder: Path, console: Console) -> None:
    """Follow instructions for ``seconds`` of wall time at each rate and add percentiles of |period
    - nominal|.
    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    deviations = {}
    for rate in RATES:
        with console.status(f"command periods at {rate} Hz: {seconds:g} s"):
            periods, aside = _observe(rate, seconds, folder / f"jitter_{rate}hz")
        deviations[rate] = 1e3 * np.abs(periods - 1 / rate)
        note = (
            f"off {1e3 / rate:g} ms, at the observer's DDS, {periods.sum():.0f} s of motion;"
            f" {aside} gaps in which the arm was to stand"
        )
        figures.spread(f"command_period_{rate}hz", deviations[rate], "ms", note, (50, 99, 100))
        figures.add(
            f"command_period_{rate}hz_mean",
            1e3 * periods.mean(),
            "ms",
            len(periods),
            "how long a cycle took on average",
        )
    plot_jitter(folder / "jitter.png", deviations)


def moving_periods(
    commands: np.ndarray, statuses: np.ndarray, states: np.ndarray
) -> tuple[np.ndarray, int]:
    """Return periods [s] between commands while the executor was moving the arm.

    Periods in which the executor reported a standstill are left out; the second value counts them.

    Args:
        commands: (N,) receive times of commands [ns].
        statuses, states: (M,) receive times of executor statuses [ns], and the reported states.
    """
    standstills = np.append(
        0, np.cumsum(states != ExecutorStatus.EXECUTING)
    )  # number of such statuses before each
    received = np.searchsorted(statuses, commands, side="right")
    was_still = standstills[received[1:]] > standstills[received[:-1]]
    return 1e-9 * np.diff(commands)[~was_still], int(was_still.sum())


def _observe(rate: int, seconds: float, folder: Path) -> tuple[np.ndarray, int]:
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
                        "wall time stops",
                    )
                    client.finish(handle)
                    seed += 1
        finally:
            client.close()
    arrivals = np.load(folder / "arrivals.npz")
    return moving_periods(arrivals["commands"], arrivals["statuses"], arrivals["states"])


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
