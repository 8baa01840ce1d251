"""Tests of run settings that affect learning: loss, adapters, statistics, saved settings."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from student_cases import CONTRACT, SMALL_LORA, student
from training_process import make_run

from sf_policy_node.vla.normalisation import Columns, Normalisation
from sf_training.data.bag_files import BagError, find_episodes
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.train import alignment_warnings


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [("nano", None, 0.3), ("smolvlm", None, 1.0), ("pi0", None, 1.0), ("nano", 0.7, 0.7)],
)
def test_the_gripper_weight_is_the_requested_or_the_authors_one(name, given, expected, root):
    run = make_run(name, root, 3, gripper_weight=given)
    assert run.training.column_weights.tolist() == pytest.approx([1.0, 1.0, 1.0, expected])
    run.close()


def test_saved_settings_include_choices_of_the_model(root):
    saved = asdict(make_run("smolvlm", root, 3).settings)
    wanted = {
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "gripper_weight": 1.0,
        "preset": "openvla",
        "teacher_channels": 0,
    }
    assert {name: saved[name] for name in wanted} == wanted
    student_ = student("nano", root)
    settings = Settings(data=root, out=root, student=student_.settings, width=32).resolved(student_)
    found = (
        settings.optimizer,
        settings.learning_rate,
        settings.gripper_weight,
        settings.teacher_channels,
        settings.preset,
    )
    assert found == ("muon", 2e-3, 0.3, 128, None)
    assert settings.resolved(student_) == settings


@pytest.mark.parametrize("init", ["kaiming", "gaussian"])
def test_adapters_are_initialized_as_requested(init, root):
    built = student("llava", root, train_language="lora", lora=replace(SMALL_LORA, init=init))
    downs = [value for name, value in built.model.named_parameters() if "lora_A" in name]
    # peft: kaiming_uniform(a=sqrt 5) is uniform within 1 / sqrt(inputs); gaussian is normal with
    # deviation 1 / rank.
    limit = [float(down.detach().abs().max()) * down.shape[1] ** 0.5 for down in downs]
    assert (max(limit) <= 1.0 + 1e-5) == (init == "kaiming")
    if init == "gaussian":
        assert float(torch.cat([down.detach().flatten() for down in downs]).std()) == pytest.approx(
            1 / SMALL_LORA.rank, rel=0.1
        )


def test_quantiles_clip_outliers_and_are_read_back():
    values = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 5.0]
    values[0] = [100.0, -100.0]
    chunks = values.reshape(-1, 4, 2)
    found = Normalisation.from_data(values, chunks, np.zeros((1, 0)), [], "quantiles")
    back = Normalisation.from_json(found.to_json())
    for part in (found, back):
        scaled = part.action.normalise(values)
        assert scaled[0].tolist() == [1.0, -1.0] and np.abs(scaled).max() == 1.0
        low, high = np.quantile(values, (0.01, 0.99), axis=0)
        assert part.state.mean == pytest.approx(
            (low + high) / 2
        ) and part.state.std == pytest.approx((high - low) / 2)
    assert not Columns(np.zeros(1), np.ones(1)).clipped


def test_letterbox_bars_without_a_mask_give_a_warning(root):
    built = student("llava", root)
    assert alignment_warnings(made(built, root), CONTRACT, built) == []
    (warning,) = alignment_warnings(made(built, root, preset="paper_openvla"), CONTRACT, built)
    assert (
        "% of the aligned tokens show letterbox bars" in warning
        and "paper_openvla" in warning
        and "--alignment.mask True" in warning
    )
    cropped = student("llava", root, fit="crop")
    assert alignment_warnings(made(cropped, root, preset="paper_openvla"), CONTRACT, cropped) == []


def made(built, root, **changes):
    return Settings(data=root, out=root, student=built.settings, **changes).resolved(built)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"milestones": (5,)},
            "--schedule linear, --milestones 5: multistep needs milestones, the others take none",
        ),
        (
            {"schedule": "multistep"},
            "--schedule multistep, --milestones none: multistep needs milestones",
        ),
        ({"floor": 1.5}, "--floor: must lie between 0 and 1, got 1.5"),
        ({"clip": -1.0}, "--clip: must be above 0, or 0 to clip nothing, got -1.0"),
        ({"betas": (0.9, 1.0)}, "--betas: each must be at least 0 and below 1"),
        ({"share": 0.0}, "--share: must be above 0 and at most 1, got 0.0"),
        ({"gripper_weight": -0.1}, "--gripper-weight: must not be negative, got -0.1"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(TrainingError) as refusal:
        Settings(data="d", out="o", **changes)
    assert message in str(refusal.value)


def test_linked_episodes_are_found_once_and_link_loops_end(tmp_path):
    elsewhere, data = tmp_path / "disk/e1", tmp_path / "data"
    for folder in (elsewhere, data / "e0"):
        folder.mkdir(parents=True)
        (folder / "metadata.yaml").touch()
    (data / "e1").symlink_to(elsewhere)
    (data / "again").symlink_to(data)
    assert find_episodes(data) == [data / "e0", data / "e1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BagError, match="holds no episode"):
        find_episodes(tmp_path / "empty")
