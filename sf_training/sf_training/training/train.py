"""Command ``train``: from recorded episodes to a checkpoint with its report.

Also under torchrun: ``doc/distributed.md``.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console

from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_policy_node.motion.arm.limits import require_limits
from sf_policy_node.vla.checkpoint import CheckpointError
from sf_policy_node.vla.normalisation import Normalisation
from sf_training.config_file import ConfigFileError, parse, print_settings, with_config
from sf_training.data.bag_files import known_outcome
from sf_training.data.episode_reader import BagError, EpisodeReader, find_episodes
from sf_training.data.split import share_of, split_episodes
from sf_training.progress import status
from sf_training.spatial_forcing.alignment import AlignmentError
from sf_training.spatial_forcing.student_tokens import StudentTokensError
from sf_training.spatial_forcing.teachers import DEPTH_TEACHERS, TeacherError
from sf_training.training.alignment_targets import alignment_targets
from sf_training.training.distributed.memory import require_memory
from sf_training.training.distributed.processes import make_accelerator
from sf_training.training.loop.forward import valid_tokens
from sf_training.training.loop.run import TrainingRun
from sf_training.training.loop.training_loop import TrainingLoop
from sf_training.training.recipes import RecipeError, difference, with_recipe
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.students import Student, StudentError, build_student
from sf_training.training.training_set import TrainingSet, load_training_set

REFUSALS = (
    AlignmentError,
    BagError,
    CheckpointError,
    ContractError,
    FloatingPointError,
    OSError,
    RecipeError,
    StudentError,
    StudentTokensError,
    TeacherError,
    TrainingError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        settings = parse_train(argv)
        train(settings, command="train " + shlex.join(sys.argv[1:] if argv is None else argv))
    except ConfigFileError as error:
        _refused(str(error))
        return 2
    except REFUSALS as error:
        return _refused(str(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _refused(
            "out of memory; raise --accumulate, give --checkpoint-gradients, or lower --pairs"
            " and --singles"
        )
    except KeyboardInterrupt:
        sys.exit("train: interrupted; start the same command again to resume from the last save")
    return 0


def parse_train(argv: Sequence[str] | None = None) -> Settings:
    """Return settings from ``--config`` files, a ``--recipe`` and the typed options.

    Later ones override.
    """
    words = with_config(sys.argv[1:] if argv is None else argv, Settings)
    return parse(Settings, with_recipe(words), "train")


def _refused(sentence: str) -> int:
    """Print an error and return the exit code 1.

    One of several processes exits at once: closing the process group could wait for the others
    without end.
    """
    print(f"train: {sentence}", file=sys.stderr, flush=True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(1)
    return 1


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(
        error, MemoryError | torch.OutOfMemoryError
    ) or "can't allocate memory" in str(error)


def train(settings: Settings, *, command: str = "train") -> None:
    """Train, or resume, one run. Raises the errors that :func:`main` turns into one sentence."""
    begin = time.monotonic()
    accelerator = make_accelerator(settings)
    console = Console(quiet=not accelerator.is_main_process)
    torch.set_flush_denormal(True)  # denormal second moments slow a processor down many times
    try:
        print_settings(settings, console)
        if settings.recipe is not None:
            lines = "".join(f"\n  {line}" for line in difference(settings))
            console.print(
                f"recipe {settings.recipe}, differences from the paper's run:{lines}",
                highlight=False,
                soft_wrap=True,
            )
        _train(settings, accelerator, console, command, begin)
        accelerator.end_training()
    finally:
        torch.set_flush_denormal(False)


def _train(
    settings: Settings, accelerator: Accelerator, console: Console, command: str, begin: float
) -> None:
    recorded = recorded_contract(settings)
    contract = _robot_contract(settings, recorded)
    # The model before the data, so that settings that do not fit are found in seconds.
    require_memory(settings, contract, accelerator.num_processes, accelerator.device)
    accelerator.wait_for_everyone()  # no process allocates memory while another still checks it
    torch.manual_seed(settings.seed)
    with status(console, f"building the model ({settings.student.kind})"):
        student = student_of(settings, contract)
    settings = settings.resolved(student)
    if settings.teacher != "none":
        console.print(f"alignment: {settings.alignment}", highlight=False, soft_wrap=True)
        for sentence in alignment_warnings(settings, contract, student):
            console.print(f"[yellow]warning:[/] {sentence}", highlight=False, soft_wrap=True)
    after_student = torch.get_rng_state()
    for part, (count, trained) in student.weight_counts().items():
        console.print(
            f"{part}: {count / 1e6:.1f} M weights, {trained / 1e6:.2f} M trained", highlight=False
        )
    with accelerator.main_process_first():  # one process prepares the data, the others read them
        data = training_data(settings, student, recorded, console)
        targets = alignment_targets(settings, data, student, recorded, console)
    identities = [source.checksum for source in data.sources]
    train_episodes, validation_episodes = split_episodes(identities, settings.validation_share)
    train_episodes = share_of(train_episodes, identities, settings.share)
    labels, held_out = data.labels_of(train_episodes), data.labels_of(validation_episodes)
    if not len(labels) or not len(held_out):
        raise TrainingError(
            f"--validation-share: leaves {len(labels)} labels to train on and {len(held_out)} held"
            " out; record more episodes"
        )
    console.print(
        f"{len(np.unique(data.episodes))} episodes, {len(data.images)} frames, {len(labels)} labels"
        f" to train on, {len(held_out)} held out, {len(data.texts)} different instructions",
        soft_wrap=True,
    )
    normalisation = statistics_of(settings, student, contract, data, labels)
    torch.set_rng_state(after_student)
    text = student.text_rows(data.texts, normalisation)
    run = TrainingRun(
        settings, student, contract, data, labels, normalisation, text, targets, accelerator
    )
    try:
        TrainingLoop(run, contract, held_out, console, command, begin).go()
    finally:
        run.close()


def student_of(settings: Settings, contract: Contract, *, meta: bool = False) -> Student:
    """Build the student that the settings describe; ``meta`` leaves out memory for its weights.

    Raises:
        StudentError: weights are missing or do not fit, or settings do not fit the model.
    """
    return build_student(
        settings.student,
        contract,
        head=settings.head,
        width=settings.width,
        layers=settings.layers,
        meta=meta,
    )


def statistics_of(
    settings: Settings,
    student: Student,
    contract: Contract,
    data: TrainingSet,
    labels: np.ndarray,
) -> Normalisation:
    """Return the statistics of all states and texts, and of the actions of some labels."""
    return Normalisation.from_data(
        data.states,
        data.label_chunk[labels],
        student.embeddings(data.texts),
        contract.columns.action.grippers,
        settings.normalisation,
    )


def alignment_warnings(settings: Settings, contract: Contract, student: Student) -> list[str]:
    """Return warnings about alignment settings that do not fit the images.

    Args:
        settings: resolved.
    """
    config = settings.alignment
    valid = (
        None
        if config.is_masked
        else valid_tokens(contract, student, student.model.visual_layout().grid)
    )
    if valid is None:
        return []
    bars = (
        f"{1 - float(valid.float().mean()):.0%} of the aligned tokens show letterbox bars, and"
        " --alignment.mask is off"
    )
    source = " (by preset paper_openvla)" if settings.preset == "paper_openvla" else ""
    return [f"{bars}{source}; give --alignment.mask True, or --student.fit crop"]


def training_data(
    settings: Settings, student: Student, recorded: Contract, console: Console
) -> TrainingSet:
    """Load the episodes in the image size and fit of the student."""
    data = load_training_set(
        settings.data,
        student.image_size,
        console,
        fit=student.model.config.fit,
        contract=recorded,
        idle_s=settings.idle_s,
        cache_images=settings.cache_images,
        verdicts=settings.verdicts,
        strict=settings.strict,
        depth=settings.teacher in DEPTH_TEACHERS,
    )[1]
    _check_missing_cameras(settings, student, data)
    return data


def _check_missing_cameras(settings: Settings, student: Student, data: TrainingSet) -> None:
    """Raise TrainingError if episodes lack a camera and the run cannot mask it."""
    if data.present is None:
        return
    lacking = data.episodes[~data.present.all(1)]
    names = [data.sources[number].path for number in np.unique(lacking)]
    which = f"{len(names)} episodes lack a camera (first {names[0]})"
    if not student.model.can_mask_cameras:
        raise TrainingError(
            f"--data: {which}, and --student.kind {settings.student.kind} cannot mask one with this"
            " backbone; take these episodes out"
        )
    if settings.teacher != "none" and not settings.alignment.is_masked:
        raise TrainingError(
            f"--alignment.mask False: {which}, for which there is no target; give --alignment.mask"
            " True, or take these episodes out"
        )


def recorded_contract(settings: Settings) -> Contract:
    """Return the contract of the first episode that can be used.

    Bags of other recorders have none, and take the robot's.

    Raises:
        BagError: no episode can be used.
    """
    given = load_contract(settings.contract) if settings.contract else None
    refused = ""
    for bag in (each for folder in settings.data for each in find_episodes(folder)):
        try:
            if known_outcome(bag) in (None, "success"):
                return EpisodeReader(bag, given, allow_missing_cameras=True).contract
        except BagError as error:
            refused = refused or str(error)
    raise BagError(
        refused
        or f"{settings.data[0]}: no episode has the outcome success; record some, or label them"
    )


def _robot_contract(settings: Settings, recorded: Contract) -> Contract:
    """Return the robot's contract, whose limits may be newer than those in the bags.

    Raises:
        TrainingError: it differs from the recorded one in more than limits, or has none for
            evaluations.
    """
    contract = load_contract(settings.contract) if settings.contract else recorded
    if not contract.fits(recorded):
        difference = "; ".join(contract.difference(recorded)[:5])
        raise TrainingError(
            f"--contract: the bags were recorded with another one than {settings.contract}"
            f" ({difference}); record again"
        )
    if settings.evaluate_every:
        try:
            require_limits(contract)
        except ContractError as error:
            raise TrainingError(
                f"--evaluate-every: the simulated arm cannot move: {error}, or name the robot's"
                " --contract"
            ) from None
    return contract


if __name__ == "__main__":
    sys.exit(main())
