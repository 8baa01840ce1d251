"""Measure what collision checks cost, without ROS.

Each check covers a whole motion of 50 samples of a shipped robot.
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
SAMPLES, SPAN = 50, 0.8  # number of samples and length in joint space [rad] of a motion


def bench_collisions(figures: Figures, motions: int = 300) -> None:
    """Check random motions above a table and into it.

    Each figure also gives the number of motions that collide.
    """
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
            displacement = random.normal(size=len(begin))
            displacement *= SPAN / np.linalg.norm(displacement)
            motion = begin + np.linspace(0.0, 1.0, SAMPLES)[:, None] * displacement
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
