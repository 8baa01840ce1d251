"""Measure time and memory of a training step for each source of alignment targets.

Compared are no Spatial Forcing, cached features, and the teacher in the loop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench.figures import Figures
from bench.training_case import (
    CHANNELS,
    SOURCES,
    STUDENTS,
    load_data,
    save_data,
    start,
    targets,
    teacher_size,
    write_teacher,
)

from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract
from sf_policy_node.vla.preprocessing import prepare
from sf_training.simulation.arm_sim import ArmSim
from sf_training.training.training_set import TrainingSet

FRAMES = 64
STEPS = 30
LOOP_STEPS = 6  # steps with the teacher in the loop take many times as long as the others
WARM_UP = 3


def bench_training(figures: Figures) -> None:
    """Measure step times and memory of each student.

    Steps are interleaved, so that a busy machine slows all cases alike. Memory is measured in one
    process per case.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_data(make_frames(FRAMES), folder)
        write_teacher(folder)
        for source in ("cache", "cache_int8"):
            cached = targets(source, load_data(folder), (6, 6), folder)
            note = f"{CHANNELS} channels of {teacher_size()}; all tokens of {FRAMES} frames"
            figures.add(
                f"training_{source}_cosine_error",
                1 - cached.cosine,
                "1 - cosine",
                cached.layers[0].shape[0] * 72,
                note,
            )
            figures.add(
                f"training_{source}_size",
                cached.nbytes / FRAMES / 1024,
                "KiB/frame",
                FRAMES,
                "2 cameras of 6x6 tokens",
            )
        for student in STUDENTS:
            _steps(figures, student, folder)
            _memory(figures, student, folder)


def _steps(figures: Figures, student: str, folder: Path) -> None:
    data = load_data(folder)
    runs = {source: start(student, source, data, folder) for source in SOURCES}
    costs: dict[str, list[float]] = {source: [] for source in SOURCES}
    for number in range(WARM_UP + STEPS):
        for source, run in runs.items():
            if source == "loop" and number >= WARM_UP + LOOP_STEPS:
                continue
            started = time.process_time()
            run.train_step()
            if number >= WARM_UP:
                costs[source].append(time.process_time() - started)
    note = "batch of 16 labels, 10 frames, 2 cameras; median"
    for source, seconds in costs.items():
        figures.add(
            f"training_{student}_{source}",
            1 / np.median(seconds),
            "steps/CPU-s",
            len(seconds),
            note,
        )
    for source in SOURCES[1:]:
        ratio, low, high = _ratio(costs[source], costs["no_sf"])
        how = f"time of a step, medians; 95 %: {low:.3f} to {high:.3f}" + (
            f"; {teacher_size()}" if source == "loop" else ""
        )
        figures.add(
            f"training_{student}_{source}_time_over_no_sf",
            ratio,
            "ratio",
            len(costs[source]),
            how,
            interval_95=[low, high],
        )


def _ratio(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Return the ratio of medians with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = [np.median(rng.choice(values, (2000, len(values))), axis=1) for values in (one, other)]
    low, high = np.percentile(draws[0] / draws[1], [2.5, 97.5])
    return float(np.median(one) / np.median(other)), round(float(low), 4), round(float(high), 4)


def _memory(figures: Figures, student: str, folder: Path) -> None:
    found = {source: measure_memory(student, source, folder) for source in SOURCES}
    for source, sizes in found.items():
        note = (
            f"most that a process took; {sizes['before'] / 1024:.0f} MiB of it before there was a"
            " model"
        )
        figures.add(f"training_{student}_{source}_memory", sizes["most"] / 1024, "MiB", 1, note)
    for source in SOURCES[1:]:
        taken = {each: found[each]["most"] - found[each]["before"] for each in (source, "no_sf")}
        note = "most that a process took, less what it had before there was a model"
        figures.add(
            f"training_{student}_{source}_memory_over_no_sf",
            taken[source] / taken["no_sf"],
            "ratio",
            1,
            note,
        )


def measure_memory(student: str, source: str, folder: Path) -> dict[str, int]:
    """Return memory of a training process [KiB]: ``before`` the model exists, and the ``most``."""
    words = [sys.executable, "-m", "bench.training_case", student, source, str(folder)]
    path = os.pathsep.join(
        [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    done = subprocess.run(
        words, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    return json.loads(done.stdout.splitlines()[-1])


def make_frames(count: int) -> TrainingSet:
    """Return images of the simulated arm with random states and chunks."""
    sim = ArmSim(load_contract(find_robot("sim_arm")))
    rng = np.random.default_rng(0)
    cameras = ("scene", "wrist")
    images = []
    for seed in range(count):
        sim.reset(seed)
        images.append(prepare({camera: sim.render(camera) for camera in cameras}, cameras, 96))
    sim.close()
    labels = np.repeat(np.arange(count), [2 - frame % 2 for frame in range(count)])
    return TrainingSet(
        images=np.stack(images),
        states=rng.normal(size=(count, 10)),
        episodes=np.arange(count),
        label_frame=labels,
        label_text=np.zeros(len(labels), int),
        label_chunk=rng.normal(size=(len(labels), 8, 4)).astype(np.float32),
        texts=("pick the red cube",),
        depth=None,
        views=None,
    )
