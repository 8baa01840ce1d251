"""Tests of `layers`: CKA against its definition, and the command on a tiny run."""

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from seeded_weights import vggt_weights
from synthetic_episodes import tiny_contract, write_episode

from sf_training.spatial_forcing.similarity import cosine_of, linear_cka
from sf_training.training.layers import Arguments, layers, main
from sf_training.training.train import main as train


def test_cka_is_one_up_to_rotation_and_scale_and_small_for_unrelated_features():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(400, 6, generator=generator)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    assert linear_cka(first, 3 * first @ rotation + 5) == pytest.approx(1, abs=1e-9)
    unrelated = torch.randn(400, 9, generator=generator)
    assert linear_cka(first, unrelated) < 0.05
    # Definition on kernels: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).
    centre = torch.eye(400) - 1 / 400
    k, other = (centre @ (x @ x.T) @ centre for x in (first, first[:, :3] + 0.5 * unrelated[:, :3]))
    expected = float((k * other).sum() / (k.norm() * other.norm()))
    found = linear_cka(first, first[:, :3] + 0.5 * unrelated[:, :3])
    assert found == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="same tokens, got 400 and 3"):
        linear_cka(first, first[:3])


def test_the_cosine_of_gradients_equals_its_definition():
    one, other = [torch.tensor([3.0, 0.0]), None], [torch.tensor([0.0, 4.0]), torch.ones(1)]
    assert cosine_of(one, other)[0] == 0
    assert cosine_of(one, [-2 * one[0], None]) == (pytest.approx(-1), pytest.approx(2))
    assert np.isnan(cosine_of(one, [None, None])[0])


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    case = tmp_path_factory.mktemp("layers")
    for number in range(2):
        write_episode(case / "bags", tiny_contract(), f"episode_{number}")
    save_file(vggt_weights(), case / "model.safetensors")
    (case / "LICENSE").write_text("Somebody's licence\n")
    return case


def options(case, *more):
    words = ["--data", case / "bags", "--teacher", "vggt", "--teacher-weights", case]
    words += ["--teacher-size", 56, "--teacher-channels", 16, "--width", 32, "--layers", 2]
    return [str(word) for word in (*words, *more)]


def test_the_command_shows_every_layer_and_the_cosine_of_a_trained_run(case, capsys):
    run = ["--out", case / "run", "--steps", 2, "--validation-share", 0.5]
    assert train(options(case, *run)) == 0
    capsys.readouterr()
    table = case / "layers.csv"
    more = ["--out", table, "--frames", 4, "--teacher-blocks", 0, -1, "--batches", 2]
    more += ["--student.weights", case / "run"]
    assert main(options(case, *more)) == 0
    shown = capsys.readouterr().out
    rows = list(csv.DictReader(table.open()))
    assert {(row["student_layer"], row["teacher_layer"]) for row in rows} == {
        (str(layer), str(name)) for layer in range(3) for name in (0, -1)
    }
    assert all(0 <= float(row["cka"]) <= 1 for row in rows)
    assert "gradients of the two losses, 2 batches" in shown
    assert "the projector is random" not in shown


def test_a_random_projector_is_reported_and_no_teacher_is_refused(case, capsys):
    more = ["--out", case / "again.csv", "--frames", 3, "--batches", 1]
    assert main(options(case, *more)) == 0
    assert "the projector is random" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(SystemExit, match="--teacher none: choose a teacher to compare with"):
        main(["--data", str(case / "bags"), "--teacher", "none"])
    assert Arguments(data=(case,)).frames == 32 and callable(layers)
