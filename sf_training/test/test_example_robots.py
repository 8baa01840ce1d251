"""Arms of PyPI's ``example-robot-data`` are drafted, simulated, and follow a chunk.

Installed with ``pip install example-robot-data``; skipped without it.
"""

import importlib.metadata
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_shipped_robots import Follower

from sf_bringup.new_robot.command import main
from sf_policy_node.contract import load_contract
from sf_policy_node.motion.arm.limits import require_limits

ARMS = {  # file: joints of each arm, whether there is a gripper
    "so100": ([5], True),
    "so101": ([5], True),
    "panda": ([7], True),
    "ur5_robot": ([6], False),
    "ur10_robot": ([6], False),
    "xarm7": ([7], False),
    "kinova": ([6], False),
    "z1": ([6], True),
    "tiago_no_hand": ([8], False),
    "baxter": ([7, 7], True),
}
STILL = {"baxter"}  # at the start its arms are outside of the drafted boxes


@pytest.fixture
def prefix(monkeypatch):
    """Return the prefix of the package, and put its meshes on the path of packages."""
    try:
        files = importlib.metadata.files("example-robot-data") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("example-robot-data is not installed")
    found = next(each for each in files if each.name == "panda.urdf").locate()
    prefix = next(each for each in Path(found).parents if each.name == "cmeel.prefix")
    paths = [str(prefix), os.environ.get("AMENT_PREFIX_PATH", "")]
    monkeypatch.setenv("AMENT_PREFIX_PATH", ":".join(filter(None, paths)))
    return prefix


@pytest.mark.parametrize("robot", ARMS)
def test_a_draft_is_simulated_and_follows_a_chunk(prefix, tmp_path, capsys, robot):
    [urdf] = prefix.rglob(f"{robot}.urdf")
    assert main([f"urdf:={urdf}", f"out:={tmp_path}", "robot:=mine", "live:=false"]) == 0
    path = tmp_path / "mine.yaml"
    draft = yaml.safe_load(path.read_text())
    assert draft.pop("undecided")
    path.write_text(yaml.safe_dump(draft))
    contract = load_contract(path)
    require_limits(contract)
    arms = contract.arms.values()
    assert ([len(arm.joints) for arm in arms], all(arm.gripper for arm in arms)) == ARMS[robot]
    follower = Follower(contract)
    if robot not in STILL:
        follower.follow(follower.random_target(np.random.default_rng(0)))
    assert follower.violations == []
