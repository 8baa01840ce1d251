"""Measure the processor time of physics, rendering and prediction, without ROS."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from bench.figures import Figures

from sf_bringup.graph import find_policy, find_robot
from sf_policy_node.contract import load_contract
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim


def bench_simulation(figures: Figures) -> None:
    """Measure physics and rendering."""
    sim = ArmSim(load_contract(find_robot("sim_arm")))
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
        cost = cpu_seconds(
            lambda render=render: [render(camera) for camera in ("scene", "wrist")], 50
        )
        figures.add(f"rendering_{what}_2_cameras", 1e3 * cost, "CPU-ms", 50, "320x240")
    sim.close()


def bench_policy(figures: Figures) -> None:
    """Measure the model's prediction."""
    policy = Policy.load(find_policy("nano"), device="cpu")
    sim = ArmSim(policy.contract)
    images = {camera: sim.render(camera) for camera in policy.contract.camera_names}
    samples = []
    for _ in range(55):
        started = time.perf_counter()
        policy.predict(images, sim.joint_positions(), "pick the red cube")
        samples.append(1e3 * (time.perf_counter() - started))
    figures.spread(
        "policy_predict",
        np.array(samples[5:]),
        "ms",
        "nano on the processor, preprocessing included, no ROS",
    )
    sim.close()


def cpu_seconds(action: Callable[[], object], repeat: int) -> float:
    """Return the processor seconds of one call, mean of ``repeat`` after one warm-up."""
    action()
    started = time.process_time()
    for _ in range(repeat):
        action()
    return (time.process_time() - started) / repeat
