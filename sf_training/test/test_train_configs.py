"""The shipped settings of a training are read, and say what their names say."""

from pathlib import Path

import pytest

from sf_training.config_file import parse
from sf_training.training.settings import Settings

FOLDER = Path(__file__).parents[1] / "config/train"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_is_one_for_each_kind_of_model():
    assert {parsed(path).student.kind for path in FILES} == {"nano", "hf", "pi0"}


def parsed(path: Path) -> Settings:
    typed = ["--data", "bags", "--out", "out"]
    if not path.name.startswith("nano"):
        typed += ["--student.weights", "model", "--teacher-weights", "vggt"]
    return parse(Settings, ["--config", str(path), *typed], "train")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_read_and_leaves_spatial_forcing_something_to_train(path):
    settings = parsed(path)
    settings.student.check_alignment(settings.alignment_of(18).student_layers)
    assert settings.student.uses_lora == ("lora" in path.stem)
    assert (settings.head == "flow") == ("flow" in path.stem)


def test_what_is_typed_wins():
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
