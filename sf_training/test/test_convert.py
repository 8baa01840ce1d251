"""Tests of `convert`: published weights become a checkpoint that the robot loads."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sf_policy_node.contract import load_contract
from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.vla.policy import Policy
from sf_training.training.convert import main
from sf_training.training.published_statistics import StatisticsError, read_statistics

ROOT = Path(__file__).parents[2]
ROBOT = ROOT / "sf_bringup/config/robots/sim_arm.yaml"
sys.path.insert(0, str(ROOT / "sf_policy_node/test"))
import pi0_cases  # noqa: E402

CONTRACT = load_contract(ROBOT)
STATE, ACTION = len(state_names(CONTRACT)), len(CONTRACT.action.names)


def part(size: int, offset: float = 0.0) -> dict:
    return {
        "mean": [offset] * size,
        "std": [0.5] * size,
        "q01": [offset - 2.0] * size,
        "q99": [offset + 4.0] * size,
    }


def openpi_statistics(folder: Path, state: int = STATE) -> Path:
    path = folder / "assets/trossen/norm_stats.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"state": part(state), "actions": part(ACTION, 1.0)}
    path.write_text(json.dumps({"norm_stats": values}))
    return path


def test_a_published_pi05_runs_for_the_robot(tmp_path, capsys):
    weights = pi0_cases.write_openpi(tmp_path / "w", pi05=True)
    openpi_statistics(weights)
    out = tmp_path / "out"
    words = ["--kind", "pi05", "--weights", weights, "--contract", ROBOT, "--out", out]
    assert main([str(word) for word in words]) == 0
    shown = capsys.readouterr().out
    assert "nothing missing, nothing left over" in shown.replace("\n", " ")
    assert "trained on chunks of 6 steps" in shown.replace("\n", " ")
    policy = Policy.load(out, contract=CONTRACT, device="cpu")
    images = {name: np.zeros((64, 64, 3), np.uint8) for name in CONTRACT.camera_names}
    chunk = policy.predict(images, np.zeros(len(CONTRACT.command_joints)), "pick the red cube")
    assert chunk.shape == (CONTRACT.action.horizon, ACTION) and np.isfinite(chunk).all()
    # A normalised action of 0 is the middle of the quantiles, 2.0, and 1 is 5.0.
    assert 2 - 6 * 3 < chunk.mean() < 2 + 6 * 3
    again = [str(word) for word in words]
    with pytest.raises(SystemExit, match="exists already; choose another --out"):
        main(again)


def test_statistics_of_another_robot_and_damaged_weights_give_one_sentence(tmp_path):
    weights = pi0_cases.write_lerobot(tmp_path / "w")
    words = ["--weights", str(weights), "--contract", str(ROBOT), "--out", str(tmp_path / "out")]
    for path in weights.glob("policy_*"):
        path.unlink()
    with pytest.raises(SystemExit, match=r"no statistics .*give the file with --statistics"):
        main(words)
    openpi_statistics(weights, STATE + 1)
    with pytest.raises(SystemExit, match=f"state has {STATE + 1} columns, the contract {STATE}"):
        main(words)
    openpi_statistics(weights)
    (weights / "model.safetensors").write_bytes(b"no")
    with pytest.raises(SystemExit, match="not a readable safetensors file"):
        main(words)
    assert not (tmp_path / "out").exists()


def test_every_published_format_gives_the_same_columns(tmp_path):
    openpi_statistics(tmp_path / "openpi")
    lerobot = tmp_path / "lerobot"
    lerobot.mkdir()
    named = {("observation.state", "state"): part(STATE), ("action", "action"): part(ACTION, 1.0)}
    save_file(
        {
            f"{theirs}.{key}": np.array(value, np.float32)
            for (theirs, _), values in named.items()
            for key, value in values.items()
        },
        lerobot / "policy_preprocessor_step_5_normalizer_processor.safetensors",
    )
    oft = tmp_path / "oft"
    oft.mkdir()
    action = part(ACTION, 1.0) | {"mask": [True] * (ACTION - 1) + [False]}
    values = {"libero": {"proprio": part(STATE), "action": action}}
    (oft / "dataset_statistics.json").write_text(json.dumps(values))
    for spread, mean, scale in (("deviation", 1.0, 0.5), ("quantiles", 2.0, 3.0)):
        for folder in ("openpi", "lerobot", "oft"):
            found, _ = read_statistics(tmp_path / folder, spread, STATE, ACTION)
            expected = np.full(ACTION, mean)
            if folder == "oft":
                expected[-1] = 0.0  # masked: unchanged
                assert found.action.std[-1] == 1.0
                assert found.action.clipped == (spread == "quantiles")
            np.testing.assert_allclose(found.action.mean, expected)
            assert found.action.std[0] == scale
    values["other"] = values["libero"]
    (oft / "dataset_statistics.json").write_text(json.dumps(values))
    with pytest.raises(StatisticsError, match="libero, other; choose one with --dataset"):
        read_statistics(oft, "quantiles", STATE, ACTION)
