"""Run one case of the training benchmark: a student and a source of alignment targets.

``python3 -m bench.training_case nano cache FOLDER`` trains some steps in a separate process and
prints the memory that they took.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from safetensors.torch import save_file

from sf_bringup.graph import find_robot
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.vla.backbones.tiny import tiny_config, tiny_tokenizer
from sf_policy_node.vla.normalisation import Normalisation
from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.vggt import VggtAggregator, VggtConfig
from sf_training.spatial_forcing.vision_targets import Targets, open_teacher, vision_targets
from sf_training.training.loop.run import TrainingRun
from sf_training.training.settings import Settings
from sf_training.training.students import Student, StudentSettings, build_student
from sf_training.training.training_set import TrainingSet

StudentName = Literal["nano", "smolvlm"]
TargetSource = Literal["no_sf", "cache", "cache_int8", "loop"]
"""no_sf: action loss alone. cache, cache_int8: the teacher's features were cached before. loop: the
teacher runs in every step.
"""
STUDENTS, SOURCES = get_args(StudentName), get_args(TargetSource)
CHANNELS = 128  # the trainer's default for nano; other models keep all channels
TEACHER = VggtConfig(width=192, pairs=8, encoder_blocks=8, grid=8)
TEACHER_SIDE = 112  # pixels
_STEPS = 6  # steps of a process that measures memory
_FORMS = {"cache": "float16", "cache_int8": "int8"}


def write_teacher(folder: Path) -> None:
    """Write a small VGGT with random weights, which take as long as trained ones."""
    torch.manual_seed(0)
    network = VggtAggregator(TEACHER)
    save_file(
        {
            f"aggregator.{name}": tensor.contiguous()
            for name, tensor in network.state_dict().items()
        },
        folder / "model.safetensors",
    )


def teacher_size() -> str:
    """Return the size of the teacher in words."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in VggtAggregator(TEACHER).parameters())
    return f"VGGT of {count / 1e6:.0f} M random weights, {TEACHER_SIDE} pixels"


def save_data(data: TrainingSet, folder: Path) -> None:
    """Save the data, so that every process trains on the same."""
    arrays = {
        name: getattr(data, name)
        for name in ("images", "states", "episodes", "label_frame", "label_text", "label_chunk")
    }
    np.savez(folder / "data.npz", **arrays)


def load_data(folder: Path) -> TrainingSet:
    """Load what :func:`save_data` wrote."""
    with np.load(folder / "data.npz") as arrays:
        return TrainingSet(**dict(arrays), texts=("pick the red cube",), depth=None, views=None)


def start(
    student: StudentName, source: TargetSource, data: TrainingSet, folder: Path
) -> TrainingRun:
    """Return a run whose ``train_step`` is measured."""
    contract = load_contract(find_robot("sim_arm"))
    chosen = (
        {"teacher": "none"}
        if source == "no_sf"
        else {"teacher": "vggt", "teacher_weights": str(folder)}
    )
    settings = Settings(
        data=folder,
        out=folder,
        steps=100,
        student=_student_settings(student, folder),
        teacher_channels=CHANNELS,
        **chosen,
    )
    torch.manual_seed(0)
    model = build_student(settings.student, contract)
    data = replace(data, images=_resized(data.images, model.image_size))
    found = targets(source, data, model.model.visual_layout().grid, folder)
    return run_of(settings, model, contract, data, found)


def run_of(
    settings: Settings,
    student: Student,
    contract: Contract,
    data: TrainingSet,
    found: Targets | None,
) -> TrainingRun:
    """Return a run of the trainer on some data.

    Args:
        found: targets; None without a teacher.
    """
    size = student.model.config.text_size if student.model.words is None else 0
    embeddings = np.random.default_rng(0).normal(size=(1, size)).astype(np.float32)
    normalisation = Normalisation.from_data(
        data.states,
        data.label_chunk,
        embeddings,
        contract.columns.action.grippers,
    )
    text = (
        torch.from_numpy(normalisation.text.normalise(embeddings))
        if student.model.words is None
        else student.text_rows(data.texts, normalisation)
    )
    return TrainingRun(
        settings.resolved(student),
        student,
        contract,
        data,
        data.labels,
        normalisation,
        text,
        found,
    )


def _student_settings(student: StudentName, folder: Path) -> StudentSettings:
    if student == "nano":
        return StudentSettings()
    weights = folder / student
    if not weights.is_dir():
        tiny_config(student).save_pretrained(weights)
        tiny_tokenizer().save_pretrained(weights)
    return StudentSettings(
        kind="hf",
        random_weights=weights,
        text_tokens=24,
        head_width=64,
        train_vision="full",
        train_language="full",
    )


def _resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize by taking every n-th pixel; the content does not matter here."""
    rows, columns = (
        np.linspace(0, side - 1, wanted).astype(int)
        for side, wanted in zip(images.shape[-2:], size, strict=True)
    )
    return np.ascontiguousarray(images[..., rows[:, None], columns])


def targets(
    source: TargetSource, data: TrainingSet, grid: tuple[int, int], folder: Path
) -> Targets | None:
    """Return the source of a case's targets; cached targets are stored in ``folder``."""
    if source == "no_sf":
        return None
    teacher = open_teacher("vggt", str(folder), (-1,), size=TEACHER_SIDE)
    options = {"live": True} if source == "loop" else {"cache": folder, "form": _FORMS[source]}
    return vision_targets(
        teacher, data.images, grid, AlignmentConfig(), channels=CHANNELS, **options
    )


def main(student: StudentName, source: TargetSource, folder: Path) -> None:
    """Print memory of a training process [KiB]: before the model exists, and the peak."""
    data = load_data(folder)
    before = _memory("VmRSS")
    run = start(student, source, data, folder)
    for _ in range(_STEPS):
        run.train_step()
    print(json.dumps({"before": before, "most": _memory("VmHWM")}))


def _memory(name: str) -> int:
    """Read a memory figure of this process [KiB].

    getrusage does not serve: its peak is inherited from the parent process.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
