"""Command ``cache``: compute the teacher's features of a data set before training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sf_training.config_file import parse, print_settings
from sf_training.spatial_forcing.vision_targets import Targets
from sf_training.training.alignment_targets import alignment_targets
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.train import REFUSALS, recorded_contract, student_of, training_data


@dataclass(frozen=True)
class Arguments(Settings):
    """Compute the features of a vision teacher and save them beside the data.

    Training then needs no teacher.

    The options are those of train, and so is a --config file: training with the same ones finds
    these features. Only the data, the student's image size and the teacher, alignment and control
    options matter here. After a kill the same command continues.

    $ python3 -m sf_training cache --data out/demos --teacher vggt --teacher-weights WEIGHTS
    """

    out: Path = Path("unused")
    """Not used here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parse(Arguments, argv, "cache")
    console = Console()
    print_settings(arguments, console)
    try:
        cache(arguments, console)
    except REFUSALS as error:
        sys.exit(f"cache: {error}")
    except KeyboardInterrupt:
        sys.exit("cache: interrupted; start the same command again to continue")
    return 0


def cache(settings: Settings, console: Console) -> Targets:
    """Compute the missing features; print their folder and size.

    Raises:
        TrainingError: with these settings no features are saved.
    """
    if not settings.uses_vision_teacher:
        raise TrainingError(
            f"--teacher {settings.teacher}: is computed when training starts and not saved; take"
            " vggt, da3 or hf"
        )
    if settings.cache_format == "none":
        raise TrainingError("--cache-format none: saves nothing; take float16, bfloat16 or int8")
    if settings.control == "random":
        raise TrainingError("--control random: needs no features; train without a cache")
    recorded = recorded_contract(settings)
    student = student_of(settings, recorded, meta=True)
    settings = settings.resolved(student)
    data = training_data(settings, student, recorded, console)
    found = alignment_targets(settings, data, student, recorded, console)
    assert found is not None  # the settings name a vision teacher
    frames, views, rows, columns, channels = found.layers[0].shape
    console.print(
        f"{found.folder}: {found.nbytes / 1e6:.1f} MB on disk: {frames} frames of {views} cameras,"
        f" {rows}x{columns} patches, {channels} channels, {len(found.layers)} teacher layers;"
        f" cosine with the full features: mean {found.cosine:.4f}, lowest"
        f" {found.lowest_cosine:.4f}",
        soft_wrap=True,
        highlight=False,
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
