"""Tests of the shipped policy for two Piper arms.

It fits the robot, picks the named cube with the arm that reaches it, and moves both arms at once.
"""

import itertools
import json
from pathlib import Path

import pytest

from sf_bringup.running_graph import shipped_policy
from sf_policy_node.contract import load_contract
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.rollout import run_episode

CONFIG = Path(__file__).parents[1] / "sf_bringup/config"
CONTRACT = load_contract(CONFIG / "robots/piper_pair.yaml")
CHECKPOINT = CONFIG / "policies" / shipped_policy("piper_pair")
FIRST_SEED = 960_000  # not in the demonstrations, not in the published evaluations


@pytest.fixture(scope="module")
def policy():
    return Policy.load(CHECKPOINT, contract=CONTRACT, device="cpu")


@pytest.fixture(scope="module")
def sim():
    simulated = ArmSim(CONTRACT)
    yield simulated
    simulated.close()


def test_the_checkpoint_is_small_and_has_its_training_record():
    assert sum(path.stat().st_size for path in CHECKPOINT.rglob("*") if path.is_file()) < 8e6
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert config["contract_hash"] == CONTRACT.hash
    assert config["training"]["settings"]["teacher"] == "pointmap"
    assert config["training"]["cpu_s"] < 40 * 60


def test_the_arm_that_reaches_the_named_cube_picks_it(policy, sim):
    seeds = range(FIRST_SEED, FIRST_SEED + 4)
    results = [run_episode(sim, policy, seed, cubes=2 + seed % 2) for seed in seeds]
    assert sum(result.success for result in results) >= 3
    assert not any(result.wrong_object or result.wrong_arm for result in results)


def test_both_arms_pick_two_named_cubes_at_once(policy, sim):
    seeds = (
        seed
        for seed in range(FIRST_SEED + 100, FIRST_SEED + 200)
        if len(sim.reset(seed, 3).targets) == 2
    )
    held = []
    for seed in itertools.islice(seeds, 3):
        if run_episode(sim, policy, seed, cubes=3).success:
            held.append({cube.held_by for cube in sim.task_state().objects if cube.lifted})
    assert len(held) >= 2 and all(each == {"left", "right"} for each in held)
