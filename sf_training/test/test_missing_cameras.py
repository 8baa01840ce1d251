"""Tests of episodes without images of a camera: the view is masked, or the episode refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from synthetic_episodes import write_episode

from sf_policy_node.vla.nano import Nano
from sf_training.data.dataset import BagError, load_dataset
from sf_training.data.episode_reader import find_episodes
from sf_training.data.opening import open_bags
from sf_training.lint.command import Settings as LintSettings
from sf_training.lint.command import lint
from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.vision_targets import vision_targets
from sf_training.training.alignment_targets import patch_targets
from sf_training.training.loop.run import TrainingRun
from sf_training.training.settings import Settings
from sf_training.training.train import main, statistics_of, student_of
from sf_training.training.training_set import TrainingSet, load_training_set

FRAMES = 4


@pytest.fixture(scope="module")
def bags(tmp_path_factory, contract):
    folder = tmp_path_factory.mktemp("bags")
    write_episode(folder, contract, "both", frames=FRAMES)
    write_episode(folder, contract, "no_wrist", frames=FRAMES, without=["wrist"])
    write_episode(folder, contract, "third", frames=FRAMES)
    return folder


def load(folder, contract, **options):
    options = {"size": 12, "workers": 1, "progress": False} | options
    return load_dataset(find_episodes(folder), contract, **options)


def train_options(bags, out, *more) -> list[str]:
    options = ["--data", bags, "--out", out, "--steps", 2, "--width", 32, "--layers", 2]
    options += ["--validation-share", 0.34, "--pairs", 2, "--singles", 0, *more]
    return [str(each) for each in options]


def test_an_episode_without_a_camera_is_used_and_reported(bags, contract):
    data = load(bags, contract)
    assert [episode.name for episode in data.episodes] == ["both", "no_wrist", "third"]
    lacking = data.episode == 1
    assert data.present[:, 0].all() and (data.present[:, 1] == ~lacking).all()
    assert not data.images[lacking][:, 1].any() and data.images[~lacking][:, 1].any()
    assert np.isnan(data.depth[lacking][:, 1].astype(float)).all()
    assert np.isfinite(data.depth[lacking][:, 0].astype(float)).all()
    assert len(data.pair_frame) == 3 * 2 * FRAMES and not data.left_out
    (note,) = data.notes
    assert str(bags / "no_wrist") in note
    assert "camera wrist: no message on /wrist_camera/image_raw" in note
    assert "training masks this view" in note
    with pytest.raises(BagError, match="camera wrist: no message on /wrist_camera/image_raw"):
        load(bags, contract, strict=True)


def test_other_uses_of_a_bag_still_need_all_cameras(bags, contract):
    opened = open_bags(find_episodes(bags), contract)
    assert [reader.name for reader in opened.readers] == ["both", "third"]
    assert "no message on /wrist_camera/image_raw" in opened.left_out[0].reason


def test_each_camera_must_be_in_some_episode(tmp_path, contract):
    for number in range(2):
        write_episode(tmp_path, contract, f"{number}", without=["wrist"])
    with pytest.raises(BagError, match=r"none of 2 episodes can be used.*no message on /wrist_cam"):
        load(tmp_path, contract)
    write_episode(tmp_path, contract, "other", without=["scene"])
    data = load(tmp_path, contract)
    assert len(data.episodes) == 3 and len(data.notes) == 3
    assert (data.present.sum(1) == 1).all()


@pytest.mark.parametrize("beside", [[], ["both"]])
def test_an_episode_without_any_camera_is_excluded(tmp_path, contract, beside):
    write_episode(tmp_path, contract, "blind", without=["scene", "wrist"])
    for name in beside:
        write_episode(tmp_path, contract, name)
    if not beside:
        with pytest.raises(BagError, match="no message on /scene_camera/image_raw"):
            load(tmp_path, contract)
        return
    data = load(tmp_path, contract)
    assert [episode.name for episode in data.episodes] == ["both"]
    assert "no message on /scene_camera/image_raw" in data.left_out[0].reason


def test_a_camera_of_only_an_unusable_episode_counts_as_absent(tmp_path, contract):
    write_episode(tmp_path, contract, "no_wrist", without=["wrist"])
    write_episode(tmp_path, contract, "no_labels", labels="none")
    with pytest.raises(BagError, match=r"none of 2 episodes can be used.*no message on /wrist_cam"):
        load(tmp_path, contract)


@pytest.fixture(scope="module")
def training_set(bags, contract):
    return load_training_set(bags, 96, Console(quiet=True), contract=contract)[1]


def losses(data: TrainingSet, contract, tmp_path: Path) -> tuple[float, float, float]:
    """Return action loss and alignment loss of one step, and the validation error after it."""
    settings = Settings(
        data=tmp_path, out=tmp_path / "out", steps=2, width=32, layers=2, pairs=4, singles=0
    )
    torch.manual_seed(0)
    student = student_of(settings, contract)
    settings = settings.resolved(student)
    labels = data.labels_of(np.array([1]))
    normalisation = statistics_of(settings, student, contract, data, labels)
    text = student.text_rows(data.texts, normalisation)
    targets = patch_targets("pointmap", data, student.model.visual_layout().grid)
    run = TrainingRun(settings, student, contract, data, labels, normalisation, text, targets)
    try:
        run.train_step()
        progress = run.progress()
        predicted, _ = run.validate(labels)
    finally:
        run.close()
    return progress.action_loss, progress.alignment_loss, predicted


def test_a_missing_view_changes_no_loss_and_no_prediction(training_set, contract, tmp_path):
    """Every frame of the episode lacks the wrist camera; noise in its place must have no effect."""
    images, depth = np.asarray(training_set.images).copy(), np.asarray(training_set.depth).copy()
    found = losses(training_set, contract, tmp_path)
    assert np.isfinite(found).all()

    def changed(view: int, present: np.ndarray | None):
        other, metres = images.copy(), depth.copy()
        noise = np.random.default_rng(0).integers(0, 256, other[:, view].shape)
        lacking = training_set.episodes == 1
        other[lacking, view] = noise[lacking]
        metres[lacking, view] = 0.5
        fields = {"images": other, "depth": metres, "present": present}
        return losses(TrainingSet(**{**vars(training_set), **fields}), contract, tmp_path)

    assert changed(1, training_set.present) == pytest.approx(found, rel=1e-5)
    assert changed(1, None)[0] != pytest.approx(found[0], rel=1e-3)
    assert changed(0, training_set.present)[0] != pytest.approx(found[0], rel=1e-3)


def test_a_vision_teacher_ignores_a_missing_camera(training_set):
    seen = []

    class Means:
        feature_size, pixels, identity = 4, 96 * 96, "means"

        def features(self, images, present=None):
            seen.append(present)
            found = images.mean((2, 3, 4))[..., None, None, None]
            return ((found + torch.arange(4.0)).expand(-1, -1, 2, 2, 4).clone(),)

    options = {"present": training_set.present}
    for live in (False, True):
        (layer,) = vision_targets(
            Means(), training_set.images, 2, AlignmentConfig(), live=live, **options
        ).layers
        found = layer[np.arange(3 * FRAMES)]
        assert (found.any((2, 3, 4)) == training_set.present).all()
    assert all(each is not None for each in seen)
    for control in ("rgb", "mean"):
        (layer,) = vision_targets(
            Means(), training_set.images, 2, AlignmentConfig(), control=control, **options
        ).layers
        assert np.isfinite(layer[np.arange(3 * FRAMES)].astype(float)).all()


def test_train_reports_the_episode_and_trains(bags, tmp_path, capsys):
    assert main(train_options(bags, tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    assert f"check: {bags / 'no_wrist'}: camera wrist: no message on" in printed
    assert (tmp_path / "out/model.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alignment.mask", "False"], "--alignment.mask False: 1 episodes lack a camera"),
        ([], "--student.kind nano cannot mask one with this backbone; take these episodes out"),
    ],
)
def test_unmaskable_views_give_one_sentence(bags, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.setattr(Nano, "can_mask_cameras", bool(options))
    assert main(train_options(bags, tmp_path / "out", *options)) == 1
    error = capsys.readouterr().err
    assert message in error and str(bags / "no_wrist") in error and len(error.splitlines()) == 1


def test_lint_warns_about_the_missing_camera(bags, tmp_path):
    report = lint(LintSettings((bags,), out=tmp_path / "lint"), Console(quiet=True))
    texts = {
        finding.text: finding.level.name
        for finding in report.findings
        if "wrist" in finding.text and "no message" in finding.text
    }
    assert list(texts.values()) == ["WARN"]
