"""Tests of exported checkpoints: smaller, same chunks, refused otherwise."""

import json
import subprocess

import numpy as np
import pytest
import torch
from constant_policy import constant_checkpoint, statistics, untrained, vision_language_model
from safetensors.torch import load_file
from synthetic_episodes import tiny_contract, write_episode

from sf_policy_node.vla.checkpoint import save_checkpoint
from sf_policy_node.vla.policy import Policy
from sf_training.training.export import main

CONTRACT = tiny_contract()
IMAGES = {
    name: np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for name in CONTRACT.camera_names
}
JOINTS = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.035])


@pytest.fixture
def trained(tmp_path):
    """Write a checkpoint with random weights and a report, as training does."""
    path = tmp_path / "trained"
    save_checkpoint(
        path,
        untrained(CONTRACT),
        CONTRACT,
        statistics(CONTRACT),
        {"settings": {"data": "bags", "seed": 3}},
    )
    (path / "report").mkdir()
    (path / "report/curves.csv").write_text("step\n")
    return path


def chunk(path) -> np.ndarray:
    return Policy.load(path, device="cpu").predict(IMAGES, JOINTS, "pick the red cube")


def test_an_export_is_half_the_size_and_gives_the_same_chunk(trained, tmp_path, capsys):
    bags = tmp_path / "bags"
    write_episode(bags, CONTRACT)
    out = tmp_path / "robot"
    assert main(["--checkpoint", str(trained), "--out", str(out), "--bags", str(bags)]) == 0
    assert "10 chunks on 1 recorded episodes" in capsys.readouterr().out
    sizes = [(path / "model.safetensors").stat().st_size for path in (trained, out)]
    assert sizes[1] < 0.6 * sizes[0]
    difference = np.abs(chunk(out) - chunk(trained)).max()
    assert 0 < difference < 0.005
    assert not (out / "report").exists()
    training = json.loads((out / "config.json").read_text())["training"]
    assert training["settings"] == {"data": "bags", "seed": 3}
    assert (
        training["exported"]["from"].startswith("trained@")
        and training["exported"]["dtype"] == "float16"
    )
    assert 0 < training["exported"]["largest_difference"]["x"] < 0.005
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=out).returncode == 0
    assert load_file(out / "model.safetensors")["norm.bias"].dtype == torch.float32


def test_a_float32_export_is_identical(trained, tmp_path):
    assert (
        main(["--checkpoint", str(trained), "--out", str(tmp_path / "robot"), "--dtype", "float32"])
        == 0
    )
    np.testing.assert_array_equal(chunk(tmp_path / "robot"), chunk(trained))


def test_an_export_includes_the_tokenizer(tmp_path):
    save_checkpoint(
        tmp_path / "vlm",
        vision_language_model(CONTRACT),
        CONTRACT,
        statistics(CONTRACT, text=0),
        {},
    )
    assert (
        main(
            [
                "--checkpoint",
                str(tmp_path / "vlm"),
                "--out",
                str(tmp_path / "robot"),
                "--observations",
                "4",
            ]
        )
        == 0
    )
    np.testing.assert_allclose(chunk(tmp_path / "robot"), chunk(tmp_path / "vlm"), atol=0.01)


def refused(*arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    output = str(ended.value)
    assert output.startswith("export: ") and len(output.splitlines()) == 1
    return output


def test_an_export_with_different_chunks_is_refused_and_removed(trained, tmp_path):
    out = tmp_path / "exports/robot"
    assert "--limit is 1e-07; take --dtype float16 or float32" in refused(
        "--checkpoint", trained, "--out", out, "--dtype", "bfloat16", "--limit", 1e-7
    )
    assert not list(out.parent.iterdir())


def test_a_weight_outside_the_range_of_float16_is_named(tmp_path):
    model = untrained(CONTRACT)
    with torch.no_grad():
        model.state.weight[0, 0] = 1e6
    save_checkpoint(tmp_path / "large", model, CONTRACT, statistics(CONTRACT), {})
    output = refused("--checkpoint", tmp_path / "large", "--out", tmp_path / "robot")
    assert (
        "weight state.weight is too large for float16; take --dtype bfloat16 or float32" in output
    )
    assert not (tmp_path / "robot").exists()


def test_an_export_never_overwrites(trained, tmp_path):
    (tmp_path / "robot").mkdir()
    assert "exists already; choose another --out" in refused(
        "--checkpoint", trained, "--out", tmp_path / "robot"
    )


def test_an_exported_checkpoint_is_evaluated_like_the_original(tmp_path):
    """Its training settings identify its held-out episodes."""
    bags = tmp_path / "bags"
    for number in range(2):
        write_episode(bags, CONTRACT, f"episode_{number}")
    constant_checkpoint(
        tmp_path / "two", CONTRACT, 2.0, {"settings": {"data": str(bags), "validation_share": 0.5}}
    )
    main(
        [
            "--checkpoint",
            str(tmp_path / "two"),
            "--out",
            str(tmp_path / "robot"),
            "--observations",
            "2",
        ]
    )
    from sf_training.evaluation.open_loop import choose
    from sf_training.evaluation.recorded_episode import open_episodes

    assert (
        len(
            choose(tmp_path / "robot", bags, open_episodes(bags, CONTRACT, ("success",)), "auto")[0]
        )
        == 1
    )
