"""What a training step costs, with and without alignment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bench.figures import Figures

from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.preprocessing import prepare, prepare_depth, prepare_intrinsics
from sf_training.simulation.arm_sim import ArmSim
from sf_training.spatial_forcing.teachers import TeacherName, View, build_targets
from sf_training.training.loop import TrainingRun
from sf_training.training.settings import Settings
from sf_training.training.training_set import TrainingSet

FRAMES = 64


def bench_training(figures: Figures) -> None:
    """Training steps with and without alignment, interleaved so that a busy machine slows all alike."""
    sim = ArmSim(load_contract(find_robot("sim_arm")))
    data = _real_frames(sim)
    sim.close()
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
