"""Tests of recipes: presets of a run, typed options, printed difference from the paper's run."""

import pytest

from sf_training.training.optimisation.optimizers import schedule
from sf_training.training.recipes import difference, with_recipe
from sf_training.training.settings import Settings
from sf_training.training.train import main, parse_train

WORDS = ["--data", "d", "--out", "o", "--student.weights", "w", "--teacher-weights", "v"]


def test_paper_openvla_equals_the_authors_launcher():
    found = parse_train([*WORDS, "--recipe", "paper_openvla"])
    student, lora = found.student, found.student.lora
    assert (student.kind, lora.rank, lora.alpha, lora.init, student.test_crop) == (
        "openvla_oft",
        32,
        16.0,
        "gaussian",
        0.9,
    )
    assert (found.rate, found.betas, found.weight_decay, found.clip, found.ema) == (
        5e-4,
        (0.9, 0.999),
        0.01,
        0.0,
        0.0,
    )
    assert (found.pairs, found.singles, found.normalisation, found.augmentation) == (
        0,
        64,
        "quantiles",
        "openvla",
    )
    alignment = found.alignment_of(32)
    assert (alignment.layer, alignment.token_shift, alignment.mask, alignment.coefficient) == (
        24,
        1,
        False,
        0.5,
    )
    rates = [schedule(found, step) for step in (1, 100_000, 100_001, 150_005)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1])


def test_paper_pi0_has_openpis_schedule():
    """openpi's train_pytorch.py: peak (s + 1) / 1001 up to step 1000, then a cosine to a tenth at
    step 30000; s counts from 0.
    """
    found = parse_train([*WORDS, "--recipe=paper_pi0"])
    assert (
        found.alignment_of(18).layer == 12
        and found.alignment_of(18).mask
        and found.student.train_vision == "full"
    )

    def openpi(step: int) -> float:
        import math

        if step < 1000:
            return 1 / 1001 + (1 - 1 / 1001) * step / 1000
        progress = min(1.0, (step - 1000) / 29_000)
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))

    steps = [0, 1, 500, 999, 1000, 1001, 10_000, 19_999]
    assert [schedule(found, step + 1) for step in steps] == pytest.approx(
        [openpi(step) for step in steps], rel=1e-6
    )


def test_typed_options_and_files_override_a_recipe_and_are_printed(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "recipe: paper_openvla\nsteps: 20000\nmilestones: [15000]\nalignment:\n  coefficient: 0.1\n"
    )
    found = parse_train(
        [*WORDS, "--config", str(file), "--singles", "8", "--student.lora.rank", "8"]
    )
    assert (found.steps, found.milestones, found.singles, found.student.lora.rank, found.clip) == (
        20_000,
        (15_000,),
        8,
        8,
        0.0,
    )
    lines = difference(found)
    for line in (
        "steps: 20000 (paper: 150005)",
        "milestones: 15000 (paper: 100000)",
        "singles: 8 (paper: 64)",
        "student.lora.rank: 8 (paper: 32)",
        "alignment.coefficient: 0.1 (paper: that of preset paper_openvla)",
    ):
        assert line in lines
    assert not any("betas" in line for line in lines)


@pytest.mark.parametrize("name", ["paper_openvla", "paper_pi0"])
def test_an_unchanged_recipe_prints_only_the_packages_differences(name):
    lines = difference(parse_train([*WORDS, "--recipe", name]))
    assert lines and not any("(paper:" in line for line in lines)


def test_without_a_recipe_nothing_is_printed_and_an_unknown_one_is_refused(capsys):
    words = ["--data", "d", "--out", "o"]
    assert with_recipe(words) == words and difference(Settings(data="d", out="o")) == []
    assert main([*words, "--recipe", "paper_gpt"]) == 1
    assert (
        "train: --recipe paper_gpt: there are paper_openvla, paper_pi0" in capsys.readouterr().err
    )


def test_a_recipe_accepts_another_schedule(tmp_path):
    found = parse_train(
        [*WORDS, "--recipe", "paper_openvla", "--schedule", "cosine", "--milestones"]
    )
    assert found.schedule == "cosine" and found.milestones == ()
