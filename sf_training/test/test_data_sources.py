"""Tests of several directories of episodes and their sampling weights."""

from pathlib import Path

import numpy as np
import pytest

from sf_training.config_file import parse
from sf_training.data.dataset import EpisodeInfo
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.training_set import ContrastiveSampler, source_of


def episode(path) -> EpisodeInfo:
    return EpisodeInfo("e", str(path), "", "", "success", "", 1)


def test_each_source_gets_its_share_of_the_draws_at_any_size():
    frames = 1000
    source = (np.arange(frames) >= 900).astype(int)
    label_frame = np.arange(frames)

    def share(**options) -> float:
        sampler = ContrastiveSampler(label_frame, label_frame, 0, 200, 1, source=source, **options)
        return float(np.mean([source[sampler.draw()[0]].mean() for _ in range(50)]))

    assert share(source_weights=(1.0, 3.0)) == pytest.approx(0.75, abs=0.02)
    assert share() == pytest.approx(0.1, abs=0.02)


def test_resuming_weighted_draws_gives_the_same_draws():
    label_frame = np.repeat(np.arange(30), 2)
    make = lambda: ContrastiveSampler(  # noqa: E731
        label_frame, np.arange(60), 4, 0, 1, source=np.arange(30) % 2, source_weights=(1.0, 5.0)
    )
    one, other = make(), make()
    one.draw()
    other.state = one.state
    assert all(np.array_equal(*pair) for pair in zip(one.draw(), other.draw(), strict=True))


def test_episodes_belong_to_the_first_directory_that_contains_them(tmp_path):
    (tmp_path / "disk/c").mkdir(parents=True)
    (tmp_path / "b").symlink_to(tmp_path / "disk")
    sources = [episode(tmp_path / "a/e1"), episode(tmp_path / "b/c"), episode(tmp_path / "a2/e")]
    assert source_of(sources, [tmp_path / "a", tmp_path / "disk", tmp_path / "a2"]).tolist() == [
        0,
        1,
        2,
    ]
    with pytest.raises(TrainingError, match=r"--data .*nowhere: holds no episode that is used"):
        source_of(sources, [tmp_path / "a", tmp_path / "nowhere"])


def test_directories_are_given_alone_or_by_names(tmp_path):
    (tmp_path / "run.yaml").write_text("data: [x, y]\nout: o\ndata_weights: [2, 1]\n")
    found = parse(Settings, ["--config", str(tmp_path / "run.yaml")], "train")
    assert found.data == (Path("x"), Path("y")) and found.data_weights == (2.0, 1.0)
    assert parse(Settings, ["--data", "x", "y", "--out", "o"], "train").data == (
        Path("x"),
        Path("y"),
    )
    assert (
        Settings(data=Path("x"), out=Path("o")).data
        == Settings(data="x", out=Path("o")).data
        == (Path("x"),)
    )
    for weights in ((1.0,), (1.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(
            TrainingError,
            match=r"--data-weights .*needs one number above 0 for each of 2 directories",
        ):
            Settings(data=(Path("x"), Path("y")), out=Path("o"), data_weights=weights)
