"""``make bench``: what the suite costs, measured in one run on this machine, into ``out/bench.json``.

Figures are for comparing within one run; none is a pass mark. Each says over how many samples it was taken.
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

import numpy as np
import tyro
from latency import measure_latency
from rich.console import Console
from rich.table import Table

from sf_bringup.graph import find_policy, find_robot
from sf_policy_node.contract import load_contract
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim
from sf_training.spatial_forcing.teachers import TeacherName, View, build_targets
from sf_training.training.loop import TrainingRun
from sf_training.training.settings import Settings
from sf_training.training.training_set import TrainingSet

FRAMES = 64


@dataclass(frozen=True)
class Arguments:
    """Benchmarks of simulation, rendering, training and the run-time graph."""

    out: Path = Path("out/bench.json")
    """Where the figures go."""
    ros: bool = True
    """Also start the graph and measure latencies over ROS."""


class Figures:
    """Collects ``{name: {value, unit, n, note}}``."""

    def __init__(self) -> None:
        self.entries: dict[str, dict] = {}

    def add(self, name: str, value: float, unit: str, n: int, note: str = "") -> None:
        """One figure."""
        self.entries[name] = {"value": round(float(value), 4), "unit": unit, "n": n, "note": note}

    def spread(self, name: str, samples: np.ndarray, unit: str, note: str = "") -> None:
        """Percentiles of samples, one figure each."""
        for percent in (50, 95, 99):
            self.add(f"{name}_p{percent}", np.percentile(samples, percent), unit, len(samples), note)


def main() -> None:
    """Command line."""
    arguments = tyro.cli(Arguments, description=Arguments.__doc__)
    console, figures = Console(), Figures()
    contract = load_contract(find_robot("sim_arm"))
    sim = ArmSim(contract)
    with console.status("simulation and rendering"):
        bench_simulation(figures, sim)
    with console.status("policy"):
        bench_policy(figures, sim)
    with console.status("training, with each teacher in turn"):
        bench_training(figures, sim)
    sim.close()
    if arguments.ros:
        measure_latency(figures, console)
    machine = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**figures.entries, "machine": machine}, indent=1) + "\n")
    table = Table(title=f"bench ({machine['cores']} cores, load {machine['load_before']})")
    for column in ("figure", "value", "unit", "n", "note"):
        table.add_column(column)
    for name, entry in figures.entries.items():
        table.add_row(name, f"{entry['value']:g}", entry["unit"], str(entry["n"]), entry["note"])
    console.print(table)
    console.print(f"figures: {arguments.out}")


def cpu_seconds(action: Callable[[], object], repeat: int) -> float:
    """Processor seconds of one call, mean of ``repeat`` after one warm-up."""
    action()
    started = time.process_time()
    for _ in range(repeat):
        action()
    return (time.process_time() - started) / repeat


def bench_simulation(figures: Figures, sim: ArmSim) -> None:
    """Physics and rendering."""
    sim.reset(0)
    second = round(1 / sim.TIMESTEP)
    figures.add(
        "simulation_real_time_factor",
        1 / cpu_seconds(lambda: sim.step(second), 5),
        "ratio",
        5,
        "physics and controller, no images, per CPU-second",
    )
    for what, render in (("rgb", sim.render), ("depth", sim.depth)):
        cost = cpu_seconds(lambda render=render: [render(camera) for camera in ("scene", "wrist")], 50)
        figures.add(f"rendering_{what}_2_cameras", 1e3 * cost, "CPU-ms", 50, "320x240")


def bench_policy(figures: Figures, sim: ArmSim) -> None:
    """The model's own time."""
    policy = Policy.load(find_policy("nano"), device="cpu")
    images = {camera: sim.render(camera) for camera in policy.contract.camera_names}
    samples = []
    for _ in range(55):
        started = time.perf_counter()
        policy.predict(images, sim.joint_positions(), "pick the red cube")
        samples.append(1e3 * (time.perf_counter() - started))
    figures.spread("policy_predict", np.array(samples[5:]), "ms", "nano on the processor, preprocessing included, no ROS")


def bench_training(figures: Figures, sim: ArmSim) -> None:
    """Training steps with and without alignment, interleaved so that a busy machine slows all alike."""
    data = _real_frames(sim)
    runs = {teacher: _start(data, teacher) for teacher in ("none", "pointmap", "rgb")}
    costs: dict[str, list[float]] = {teacher: [] for teacher in runs}
    for number in range(33):
        for teacher, run in runs.items():
            before = run.cpu_s
            run.train_step()
            if number >= 3:
                costs[teacher].append(run.cpu_s - before)
    base = np.mean(costs["none"])
    figures.add("training_no_sf", 1 / base, "steps/CPU-s", 30, "batch of 16 labels, 10 frames, 2 cameras")
    for teacher in ("pointmap", "rgb"):
        figures.add(f"training_sf_{teacher}", 1 / np.mean(costs[teacher]), "steps/CPU-s", 30, "targets computed once before")
        figures.add(f"training_cost_sf_{teacher}_over_no_sf", np.mean(costs[teacher]) / base, "ratio", 30)


def _real_frames(sim: ArmSim) -> TrainingSet:
    from sf_policy_node.vla.preprocessing import prepare, prepare_depth, prepare_intrinsics

    rng = np.random.default_rng(0)
    cameras = ("scene", "wrist")
    images, depth, poses = [], [], []
    for seed in range(FRAMES):
        sim.reset(seed)
        images.append(prepare({camera: sim.render(camera) for camera in cameras}, cameras, 96))
        depth.append([prepare_depth(sim.depth(camera), 96) for camera in cameras])
        poses.append([sim.camera_pose(camera) for camera in cameras])
    views = tuple(
        View(
            np.tile(prepare_intrinsics(sim.intrinsics(camera), 320, 240, 96), (FRAMES, 1, 1)),
            np.array([pose[v][0] for pose in poses]),
            np.array([pose[v][1] for pose in poses]),
        )
        for v, camera in enumerate(cameras)
    )
    return TrainingSet(
        images=np.stack(images),
        states=rng.normal(size=(FRAMES, 10)),
        episodes=np.arange(FRAMES),
        label_frame=np.repeat(np.arange(FRAMES), [2 - frame % 2 for frame in range(FRAMES)]),
        label_text=np.zeros(FRAMES * 3 // 2, int),
        label_chunk=rng.normal(size=(FRAMES * 3 // 2, 8, 4)).astype(np.float32),
        texts=("pick the red cube",),
        depth=np.array(depth),
        views=views,
    )


def _start(data: TrainingSet, teacher: TeacherName) -> TrainingRun:
    contract = load_contract(find_robot("sim_arm"))
    embeddings = np.random.default_rng(0).normal(size=(1, 384)).astype(np.float32)
    normalisation = Normalisation.from_data(data.states, data.label_chunk, embeddings, contract.action.names)
    targets = None if teacher == "none" else build_targets(teacher, data.images, data.depth, list(data.views), 16)
    settings = Settings(data=Path(), out=Path(), teacher=teacher, steps=100)
    return TrainingRun(settings, contract, data, np.arange(len(data.label_frame)), normalisation, embeddings, targets)


if __name__ == "__main__":
    sys.exit(main())
