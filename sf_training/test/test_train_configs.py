"""Tests of the shipped training settings."""

from pathlib import Path

import pytest

from sf_training.config_file import parse
from sf_training.training.settings import Settings

FOLDER = Path(__file__).parents[1] / "config/train"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_each_kind_of_model_has_a_config():
    assert {parsed(path).student.kind for path in FILES} == {"nano", "hf", "pi0"}


def parsed(path: Path) -> Settings:
    typed = ["--data", "bags", "--out", "out"]
    if not path.name.startswith("nano"):
        typed += ["--student.weights", "model", "--teacher-weights", "vggt"]
    return parse(Settings, ["--config", str(path), *typed], "train")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_is_read_and_has_trainable_weights_for_alignment(path):
    settings = parsed(path)
    settings.student.check_alignment(settings.alignment_of(18).student_layers)
    assert settings.student.uses_lora == ("lora" in path.stem)
    assert (settings.head == "flow") == ("flow" in path.stem)


def test_typed_options_override_a_config():
    typed = [
        "--data",
        "bags",
        "--out",
        "out",
        "--student.weights",
        "model",
        "--teacher",
        "none",
        "--student.lora.rank",
        "8",
    ]
    settings = parse(Settings, ["--config", str(FOLDER / "pi0_lora.yaml"), *typed], "train")
    assert settings.student.lora.rank == 8 and settings.teacher == "none" and settings.ema == 0
