"""``ros2 run sf_training sf_training cache``: the teacher's features of a data set, computed before
training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sf_policy_node.contract import ContractError
from sf_training.config_file import parse, print_settings
from sf_training.data.episode_reader import BagError
from sf_training.spatial_forcing.alignment import AlignmentError
from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.vision_targets import Targets
from sf_training.training.alignment_targets import alignment_targets
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.students import StudentError, build_student
from sf_training.training.train import recorded_contract, training_data


@dataclass(frozen=True)
class Arguments(Settings):
    """Compute the features of a vision teacher and keep them beside the data, so that training
    starts at once and needs no teacher.

    The options are those of train, and so is a --config file: training with the same ones finds
    these features. Only the data, the student's picture size and the teacher, alignment and control
    options matter here. After a kill the same command goes on where it was.

    $ sf_training cache --data out/demos --teacher vggt --teacher-weights WEIGHTS
    """

    out: Path = Path("unused")
    """Not used here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    arguments = parse(Arguments, argv, "cache")
    console = Console()
    print_settings(arguments, console)
    try:
        cache(arguments, console)
    except (
        AlignmentError,
        BagError,
        ContractError,
        StudentError,
        TeacherError,
        TrainingError,
        OSError,
    ) as error:
        sys.exit(f"cache: {error}")
    except KeyboardInterrupt:
        sys.exit("cache: interrupted; start the same command again for the rest")
    return 0


def cache(settings: Settings, console: Console) -> Targets:
    """Compute what is missing, and say where it is and how large.

    Raises:
        TrainingError: these settings keep no features.
    """
    if not settings.uses_vision_teacher:
        raise TrainingError(
            f"--teacher {settings.teacher}: is made when training starts and not kept; take vggt"
            " or hf"
        )
    if settings.cache_format == "none":
        raise TrainingError("--cache-format none: keeps nothing; take float16, bfloat16 or int8")
    if settings.control == "random":
        raise TrainingError("--control random: needs no features; train with it at once")
    recorded = recorded_contract(settings)
    student = build_student(
        settings.student,
        recorded,
        head=settings.head,
        width=settings.width,
        layers=settings.layers,
        meta=True,
    )
    settings = settings.resolved(student)
    data = training_data(settings, student, recorded, console)
    found = alignment_targets(settings, data, student, recorded, console)
    frames, views, rows, columns, channels = found.layers[0].shape
    console.print(
        f"{found.folder}: {found.nbytes / 1e6:.1f} MB on disk: {frames} frames of {views} cameras,"
        f" {rows}x{columns} patches, {channels} channels, {len(found.layers)} teacher layers;"
        f" cosine with the whole features: mean {found.cosine:.4f}, lowest"
        f" {found.lowest_cosine:.4f}",
        soft_wrap=True,
        highlight=False,
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
