"""Measure the cost and the motion of the suite in one run, for ``make bench``.

The figures go to ``out/bench.json`` and compare within one run; none is a pass mark. Each carries
its number of samples and its method. Plots go to ``out/bench/``.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro
from bench.collision_check import bench_collisions
from bench.command_jitter import measure_jitter
from bench.continued_chunks import bench_continuation
from bench.controller_methods import RECORDINGS, bench_controller
from bench.data import bench_data
from bench.delays import bench_delays
from bench.executor_latency import bench_executor
from bench.figures import Figures
from bench.joins import bench_joins
from bench.latency import measure_latency
from bench.recorder import bench_recorder
from bench.simulation_speed import bench_policy, bench_simulation
from bench.stops import bench_stops
from bench.training_speed import bench_training
from rich.console import Console

Subject = Literal[
    "simulation",
    "policy",
    "training",
    "executor",
    "collisions",
    "controller",
    "stops",
    "joins",
    "continuation",
    "delays",
    "latency",
    "jitter",
    "recorder",
    "data",
]
OVER_ROS = ("latency", "jitter", "recorder")


@dataclass(frozen=True)
class Arguments:
    """Run benchmarks of simulation, training, motion and the run-time graph."""

    only: tuple[Subject, ...] = ()
    """These subjects alone; the file keeps its other figures. Default: all."""
    out: Path = Path("out/bench.json")
    """Where the figures go."""
    plots: Path = Path("out/bench")
    """Where the plots and the logs of the graph go."""
    ros: bool = True
    """Also start the graph: latencies over ROS, and the command period."""
    chunks: int = 600
    """Chunks for the executor's own latency."""
    rollouts: int = 60
    """Recorded rollouts for the joins, and for real-time chunking."""
    episodes: int = 100
    """Episodes for each method and each delay."""
    seconds: float = 60.0
    """For the command period at each rate."""
    recording_seconds: float = 120.0
    """Of each recording at 30 Hz."""
    demonstrations: Path = Path("out/demos")
    """Episodes that are turned into batches, at most 1 GB of them; a few are made where there are
    none.
    """
    episode_gb: float = 10.0
    """Of the recorder's long episode; 0: none."""


def main() -> None:
    """Run the benchmarks from the command line."""
    arguments = tyro.cli(Arguments, prog="python3 -m bench.run", description=Arguments.__doc__)
    console, figures = Console(), Figures()
    actions: dict[str, Callable[[], None]] = {
        "simulation": lambda: bench_simulation(figures),
        "policy": lambda: bench_policy(figures),
        "executor": lambda: bench_executor(figures, arguments.chunks),
        "collisions": lambda: bench_collisions(figures),
        "controller": lambda: bench_controller(figures, min(RECORDINGS, arguments.rollouts)),
        "joins": lambda: bench_joins(figures, arguments.rollouts, arguments.plots),
        "stops": lambda: bench_stops(figures, arguments.rollouts),
        "continuation": lambda: bench_continuation(figures, arguments.rollouts),
        "delays": lambda: bench_delays(figures, arguments.episodes, arguments.plots, console),
        "latency": lambda: measure_latency(figures, console),
        "jitter": lambda: measure_jitter(figures, arguments.seconds, arguments.plots, console),
        "recorder": lambda: bench_recorder(
            figures, arguments.recording_seconds, arguments.episode_gb, console
        ),
        "data": lambda: bench_data(figures, arguments.demonstrations, console),
        "training": lambda: bench_training(figures),  # last: its torch threads stay alive
    }
    wanted = arguments.only or get_args(Subject)
    load, seconds = round(os.getloadavg()[0], 2), {}
    previous = (
        json.loads(arguments.out.read_text()) if arguments.only and arguments.out.is_file() else {}
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for subject, action in actions.items():
        if subject in wanted and (arguments.ros or subject not in OVER_ROS):
            console.print(f"{subject} ...")
            started = time.monotonic()
            action()
            seconds[subject] = round(time.monotonic() - started, 1)
            console.print(f"{subject}: {seconds[subject]:g} s")
            machine = {
                "processor": platform.machine(),
                "cores": os.cpu_count(),
                "load_before": load,
                "python": platform.python_version(),
                "seconds": {**previous.get("machine", {}).get("seconds", {}), **seconds},
            }
            # Write after every subject: a later one may fail, and each takes minutes.
            arguments.out.write_text(
                json.dumps({**previous, **figures.entries, "machine": machine}, indent=1) + "\n"
            )
    if not console.is_terminal:
        console = Console(width=200)
    console.print(figures.table(f"bench ({os.cpu_count()} cores, load {load} before)"))
    console.print(
        f"figures: {arguments.out}, plots: {arguments.plots}; {sum(seconds.values()):.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
