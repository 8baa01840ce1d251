"""A bag whose contract has schema version 1 is linted, trained from and exported."""

import json

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from synthetic_episodes import tiny_contract, write_episode

from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.vla.policy import Policy
from sf_training.data.dataset import load_dataset
from sf_training.lerobot.command import main as lerobot
from sf_training.lerobot.layout import SOURCES
from sf_training.lint.command import main as lint
from sf_training.training.train import main as train

CONTRACT = tiny_contract()


def version_1(contract: Contract) -> str:
    """Return the contract as releases with version 1 embedded it."""
    data = contract.model_dump(mode="json") | {"schema_version": 1}
    arm = data.pop("arms")["arm"]
    return yaml.safe_dump(data | arm, sort_keys=False)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Return a folder with two episodes in both versions; the first is of version 1."""
    folder = tmp_path_factory.mktemp("old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contract, "to_yaml", version_1)
        for name in ("a", "b"):
            write_episode(folder, CONTRACT, name, frames=12)
    for file in folder.rglob("*.mcap"):
        with file.open("rb") as stream:
            reader = make_reader(stream)
            texts = [each.data for each in reader.iter_attachments() if each.name.endswith("yaml")]
            assert yaml.safe_load(texts[0])["schema_version"] == 1
            assert all(b"schema_version: 2" not in text for text in texts)
    return folder


def test_its_contract_and_its_data_are_those_of_version_2(old, tmp_path):
    write_episode(tmp_path, CONTRACT, "a", frames=12)
    was, now = (
        load_dataset([path], None, size=32, workers=1, progress=False)
        for path in (old / "a", tmp_path / "a")
    )
    assert was.contract == now.contract == CONTRACT and len(was.stamps) == 12
    assert was.left_out == now.left_out == [] and was.notes == now.notes
    for name in ("joint_positions", "stamps", "camera_poses", "pair_frame", "pair_target"):
        np.testing.assert_array_equal(getattr(was, name), getattr(now, name), name)


def test_it_is_linted_trained_from_and_exported(old, tmp_path, capsys):
    report = tmp_path / "lint.html"
    assert main_of(lint, old, "--out", report, "--workers", 1) in (0, 1)
    episodes = json.loads(report.with_suffix(".json").read_text())["episodes"]
    assert len(episodes) == 2
    options = ["--steps", 2, "--width", 32, "--layers", 1, "--validation-share", 0.5]
    out = tmp_path / "policy"
    assert main_of(train, "--data", old, "--out", out, *options, "--teacher", "none") == 0
    assert load_contract(out / "contract.yaml").schema_version == 2
    assert Policy.load(out, contract=CONTRACT, device="cpu").policy_id.startswith("policy@")
    words = ("export", old, "--out", tmp_path / "set", "--action", "measured")
    assert main_of(lerobot, *words) == 0, capsys.readouterr().err
    written = tmp_path / "set" / SOURCES / "contract.yaml"
    assert yaml.safe_load(written.read_text())["schema_version"] == 2


def main_of(main, *words):
    return main([str(word) for word in words])
