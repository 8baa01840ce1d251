"""Command ``layers``: which layer of a model to align with which layer of a teacher."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sf_policy_node.contract import Contract
from sf_policy_node.vla.normalisation import Normalisation
from sf_training.config_file import parse, print_settings
from sf_training.progress import status
from sf_training.spatial_forcing.alignment import prepare_target
from sf_training.spatial_forcing.similarity import cosine_of, linear_cka
from sf_training.spatial_forcing.student_tokens import (
    StudentTokens,
    visual_positions,
    visual_tokens,
)
from sf_training.training.alignment_targets import (
    alignment_targets,
    patch_targets,
    vision_teacher,
)
from sf_training.training.loop.run import TrainingRun
from sf_training.training.lora import part_of
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.students import Student
from sf_training.training.train import (
    REFUSALS,
    recorded_contract,
    statistics_of,
    student_of,
    training_data,
)
from sf_training.training.training_set import TrainingSet

_FRAMES_PER_FORWARD = 4


@dataclass(frozen=True)
class Arguments(Settings):
    """Compare every layer of a model with layers of a teacher, and the gradients of the two losses.

    The options are those of train. CKA tells which student layer is already similar to which
    teacher layer. The cosine of the gradients tells whether the alignment moves the trained weights
    in the direction of the action loss (1), at right angles (0) or against it (-1). It needs a
    trained projector: give the checkpoint of a run with Spatial Forcing as --student.weights.

    $ python3 -m sf_training layers --data out/demos --student.weights out/nano --frames 32
    """

    out: Path = Path("layers.csv")
    """CSV table of CKA; it is overwritten."""
    frames: int = 32
    """Number of compared frames, spread over the episodes."""
    teacher_blocks: tuple[int, ...] = ()
    """For vggt, da3 and hf: compared layers, from 0 or from the end; none: those of
    --alignment.teacher-layers.
    """
    batches: int = 8
    """Number of batches over which the gradients are compared; 0: no comparison."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parse(Arguments, argv, "layers")
    console = Console()
    print_settings(arguments, console)
    try:
        layers(arguments, console)
    except REFUSALS as error:
        sys.exit(f"layers: {error}")
    return 0


def layers(settings: Arguments, console: Console) -> dict[str, object]:
    """Print and write the tables; return ``cka`` by (student layer, teacher layer), and ``cosine``.

    Raises:
        TrainingError: there is no teacher.
    """
    if settings.teacher == "none":
        raise TrainingError("--teacher none: choose a teacher to compare with")
    if settings.frames < 2:
        raise TrainingError(f"--frames: must be at least 2, got {settings.frames}")
    contract = recorded_contract(settings)
    torch.manual_seed(settings.seed)
    student = student_of(settings, contract)
    chosen = settings.resolved(student)
    data = training_data(chosen, student, contract, console)
    normalisation = statistics_of(settings, student, contract, data, data.labels)
    text = student.text_rows(data.texts, normalisation)
    usable = data.labels
    if data.present is not None:  # CKA compares frames that every camera saw
        usable = usable[data.present[data.label_frame].all(1)]
    labels = usable[np.unique(np.linspace(0, len(usable) - 1, settings.frames).astype(int))]
    with status(console, f"features of {len(labels)} frames"):
        own = student_features(student, data, labels, normalisation, text)
        names, theirs = teacher_features(chosen, student, data, labels)
    cka = {
        (layer, name): linear_cka(tokens, features)
        for layer, tokens in enumerate(own)
        for name, features in zip(names, theirs, strict=True)
    }
    _show(cka, names, len(own), console)
    with settings.out.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["student_layer", "teacher_layer", "cka"])
        rows.writerows([*key, f"{value:.6f}"] for key, value in cka.items())
    console.print(f"table: {settings.out}", highlight=False)
    found: dict[str, object] = {"cka": cka}
    if settings.batches:
        found["cosine"] = _gradients(
            chosen, student, contract, data, normalisation, text, settings.batches, console
        )
    return found


@torch.no_grad()
def student_features(
    student: Student,
    data: TrainingSet,
    labels: np.ndarray,
    normalisation: Normalisation,
    text: Tensor,
) -> list[Tensor]:
    """Return the visual tokens (N, width) before each block and after the last one."""
    model = student.model.eval()
    layout, wanted = model.visual_layout(), range(student.blocks + 1)
    tokens = StudentTokens(model, list(wanted), layout.blocks)
    found: list[list[Tensor]] = [[] for _ in wanted]
    states = torch.from_numpy(normalisation.state.normalise(data.states))
    try:
        for start in range(0, len(labels), _FRAMES_PER_FORWARD):
            part = labels[start : start + _FRAMES_PER_FORWARD]
            frames = data.label_frame[part]
            with tokens.recording():
                model.context(_images(data, frames), states[frames], text[data.label_text[part]])
            positions = visual_positions(layout.mask.expand(len(part), -1))
            for layer in wanted:
                visual = visual_tokens(tokens[layer], positions)
                found[layer].append(visual.float().flatten(0, 1))
            tokens.clear()
    finally:
        tokens.close()
    return [torch.cat(each) for each in found]


def teacher_features(
    settings: Arguments, student: Student, data: TrainingSet, labels: np.ndarray
) -> tuple[list[int], list[Tensor]]:
    """Return the teacher's layers, and their features (N, C) on the student's grid.

    The features have no positional embedding.
    """
    frames, grid = data.label_frame[labels], student.model.visual_layout().grid
    if settings.uses_vision_teacher:
        names = list(settings.teacher_blocks or settings.alignment.target_layers)
        teacher = vision_teacher(settings, tuple(names))
        parts = [
            teacher.features(
                _images(data, frames[start : start + _FRAMES_PER_FORWARD]).float() / 255
            )
            for start in range(0, len(frames), _FRAMES_PER_FORWARD)
        ]
        features = [torch.cat(each).cpu() for each in zip(*parts, strict=True)]
    else:
        targets = patch_targets(settings.teacher, data, grid)
        names, features = [-1], [torch.from_numpy(np.asarray(targets[frames])).float()]
    return names, [
        prepare_target(each, grid, 0.0).flatten(0, 1) if each.ndim == 5 else each
        for each in features
    ]


def _images(data: TrainingSet, frames: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(data.images[frames]))


def _show(cka: dict, names: list[int], count: int, console: Console) -> None:
    table = Table(title="CKA between visual tokens and teacher features")
    table.add_column("student layer", justify="right")
    for name in names:
        table.add_column(f"teacher {name}", justify="right")
    best = {name: max(range(count), key=lambda layer: cka[layer, name]) for name in names}
    for layer in range(count):
        table.add_row(
            str(layer),
            *(
                f"{cka[layer, name]:.3f}" + (" *" if best[name] == layer else "  ")
                for name in names
            ),
        )
    console.print(table)


def _gradients(
    settings: Settings,
    student: Student,
    contract: Contract,
    data: TrainingSet,
    normalisation: Normalisation,
    text: Tensor,
    batches: int,
    console: Console,
) -> dict[str, tuple[float, float]]:
    """Return mean and deviation of the cosine over batches.

    For each part of the model; prints a table.
    """
    targets = alignment_targets(settings, data, student, contract, console)
    run = TrainingRun(
        settings,
        student,
        contract,
        data,
        data.labels,
        normalisation,
        text,
        targets,
    )
    console.print(
        run.projector_origin
        or "[yellow]warning:[/] the projector is random, so the cosine means little; give the"
        " checkpoint of a run with Spatial Forcing as --student.weights",
        highlight=False,
        soft_wrap=True,
    )
    parts: dict[str, list[Tensor]] = {}
    for name, each in run.model.named_parameters():
        if each.requires_grad:
            parts.setdefault(part_of(run.model, name), []).append(each)
    parts["all"] = [each for parameters in parts.values() for each in parameters]
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        for _ in range(batches):
            action, alignment = run.losses(next(run.batches))
            for part, parameters in parts.items():
                one, other = (
                    torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
                    for loss in (action, alignment)
                )
                found.setdefault(part, []).append(cosine_of(list(one), list(other)))
    finally:
        run.close()
    alpha = settings.alignment.coefficient
    table = Table(title=f"gradients of the two losses, {batches} batches")
    for column in ("part", "cosine", "deviation", "alpha * |alignment| / |action|"):
        table.add_column(column, justify="left" if column == "part" else "right")
    result = {}
    for part, values in found.items():
        cosine, ratio = np.array(values).T
        result[part] = (float(cosine.mean()), float(cosine.std()))
        table.add_row(
            part, f"{cosine.mean():.3f}", f"{cosine.std():.3f}", f"{alpha * ratio.mean():.3f}"
        )
    console.print(table)
    return result


if __name__ == "__main__":
    sys.exit(main())
