"""Tests of the shipped checkpoint: robot, picks and instructions."""

import json
from pathlib import Path

import numpy as np
import pytest

from sf_policy_node.contract import load_contract
from sf_policy_node.motion.types import Join
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.rollout import run_episode

CONFIG = Path(__file__).parents[1] / "sf_bringup/config"
NANO = CONFIG / "policies/nano"
CONTRACT = load_contract(CONFIG / "robots/sim_arm.yaml")


@pytest.fixture(scope="module")
def policy():
    return Policy.load(NANO, contract=CONTRACT, device="cpu")


@pytest.fixture(scope="module")
def sim():
    simulated = ArmSim(CONTRACT)
    yield simulated
    simulated.close()


def test_the_checkpoint_is_small_and_has_its_training_record():
    assert sum(path.stat().st_size for path in NANO.rglob("*") if path.is_file()) < 15e6
    training = json.loads((NANO / "config.json").read_text())["training"]
    assert training["command"].startswith("train --data")
    assert training["cpu_s"] < 40 * 60
    assert training["settings"]["seed"] == 0


def test_the_policy_picks_the_named_cube(policy, sim):
    results = [
        run_episode(sim, policy, seed, cubes=2 + seed % 2) for seed in range(960_000, 960_006)
    ]
    assert sum(result.success for result in results) >= 5
    assert not any(result.wrong_object for result in results)


def test_the_flow_policy_picks_the_named_cube_with_real_time_chunking(sim):
    flow = Policy.load(CONFIG / "policies/nano_flow", contract=CONTRACT, device="cpu")
    assert flow.join is Join.RTC
    results = [
        run_episode(sim, flow, seed, cubes=2 + seed % 2, latency_s=0.1, continued=True)
        for seed in range(960_000, 960_006)
    ]
    assert sum(result.success for result in results) >= 5
    assert not any(result.wrong_object for result in results)


def test_the_instruction_decides_which_cube_is_picked(policy, sim):
    colours = sim.reset(960_100, 3).colours
    for colour in colours:
        assert run_episode(
            sim, policy, 960_100, cubes=3, instruction=f"pick the {colour} cube", target=colour
        ).success


@pytest.mark.parametrize(
    "wording", ["grab the crimson block", "please take the red block", "pick up the crimson cube"]
)
def test_other_wordings_pick_the_same_cube(policy, sim, wording):
    seed = next(
        seed
        for seed in range(960_200, 960_300)
        if {"red", "blue"} <= set(sim.reset(seed, 3).colours)
    )
    sim.reset(seed, 3)
    images = {camera: sim.render(camera) for camera in CONTRACT.camera_names}
    red, blue, asked = (
        policy.predict(images, sim.joint_positions(), sentence)[-1, :3]
        for sentence in ("pick the red cube", "pick the blue cube", wording)
    )
    assert np.linalg.norm(asked - red) < 0.5 * np.linalg.norm(asked - blue)
