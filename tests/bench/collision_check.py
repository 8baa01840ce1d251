"""What looking for collisions costs: whole motions of 50 samples of the shipped robots, without
ROS.
"""

from __future__ import annotations

import time

import numpy as np
from bench.figures import Figures

from sf_bringup.graph import find_robot
from sf_policy_node.contract import CollisionBox, load_contract
from sf_policy_node.motion.arm.collision import CollisionModel
from sf_policy_node.motion.arm.limits import JointLimits

ROBOTS = ("sim_arm", "ur5e_robotiq", "fr3", "piper")
SAMPLES, SPAN = 50, 0.8  # of a motion, and its length in joint space [rad]


def bench_collisions(figures: Figures, motions: int = 300) -> None:
    """Random motions above and into a table; each figure also counts those that touch."""
    for robot in ROBOTS:
        contract = load_contract(find_robot(robot))
        lower, upper = contract.workspace.lower, contract.workspace.upper
        table = CollisionBox(
            name="table",
            lower=[lower[0] - 0.2, lower[1] - 0.2, -0.1],
            upper=[upper[0] + 0.2, upper[1] + 0.2, -0.01],
        )
        section = contract.collision.model_copy(update={"boxes": [table]})
        model = CollisionModel.of(contract.model_copy(update={"collision": section}))
        limits, random = JointLimits.of(contract), np.random.default_rng(0)
        wall, processor, touched = [], [], 0
        for _ in range(motions + 20):
            begin = random.uniform(limits.lower, limits.upper)
            way = random.normal(size=len(begin))
            way *= SPAN / np.linalg.norm(way)
            motion = begin + np.linspace(0.0, 1.0, SAMPLES)[:, None] * way
            motion = np.clip(motion, limits.lower, limits.upper)
            started, cpu = time.perf_counter(), time.thread_time()
            touched += model.first_collision(motion[1:], motion[0]) is not None
            wall.append(time.perf_counter() - started)
            processor.append(time.thread_time() - cpu)
        note = (
            f"{SAMPLES} samples, {len(model.shapes)} shapes, {touched} of {motions + 20} motions"
            " touch"
        )
        name = f"collision_{robot}"
        figures.spread(name, 1e3 * np.array(wall[20:]), "ms", note, (50, 99, 100))
        figures.spread(f"{name}_cpu", 1e3 * np.array(processor[20:]), "CPU-ms", note, (50, 99))
