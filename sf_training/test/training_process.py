"""Run a training in a separate process on synthetic data, for tests of processes and kills.

It prints one JSON line of losses for each step.
"""

import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from student_cases import CONTRACT, SIZES, TEXTS, student_settings

from sf_policy_node.vla.normalisation import Normalisation
from sf_training.training.distributed.processes import make_accelerator
from sf_training.training.loop.run import TrainingRun
from sf_training.training.loop.training_loop import TrainingLoop
from sf_training.training.settings import Settings
from sf_training.training.students import Student, build_student
from sf_training.training.training_set import TrainingSet

CHANNELS = 16


def random_data(one: Student, frames: int) -> TrainingSet:
    """Return random images, states and chunks in the model's size; even frames have two labels."""
    rng = np.random.default_rng(0)
    label_frame = np.repeat(np.arange(frames), [2 - frame % 2 for frame in range(frames)])
    return TrainingSet(
        images=rng.integers(0, 256, (frames, SIZES["cameras"], 3, *one.image_size), dtype=np.uint8),
        states=rng.normal(size=(frames, SIZES["state_size"])),
        episodes=np.arange(frames) // 4,
        label_frame=label_frame,
        label_text=np.concatenate([[0, 1] if frame % 2 == 0 else [0] for frame in range(frames)]),
        label_chunk=rng.normal(
            size=(len(label_frame), SIZES["horizon"], SIZES["action_size"])
        ).astype(np.float32),
        texts=TEXTS,
        depth=None,
        views=None,
    )


def make_run(name: str, folder: Path, steps: int, accelerator=None, **changes) -> TrainingRun:
    """Return a run of a tiny student (see ``student_cases``).

    Keys ``student_...`` change its settings.
    """
    inner = {
        key.removeprefix("student_"): changes.pop(key)
        for key in list(changes)
        if key.startswith("student_")
    }
    chosen = student_settings(name, folder, **inner)
    sizes = {"width": 32, "layers": 4} if name == "nano" else {}
    options = {
        "pairs": 4,
        "singles": 4,
        "decay_share": 0.0,
        "warm_up": 5,
        "learning_rate": 2e-3,
        **sizes,
        **changes,
    }
    settings = Settings(data=folder, out=folder / "out", steps=steps, student=chosen, **options)
    accelerator = accelerator or make_accelerator(settings)
    torch.manual_seed(settings.seed)
    student = build_student(
        chosen, CONTRACT, head=settings.head, width=settings.width, layers=settings.layers
    )
    settings = settings.resolved(student)
    data = random_data(student, 24)
    embeddings = (
        student.embeddings(data.texts)
        if name != "nano"
        else np.random.default_rng(1).normal(size=(2, 384)).astype(np.float32)
    )
    normalisation = Normalisation.from_data(
        data.states,
        data.label_chunk,
        embeddings,
        CONTRACT.columns.action.grippers,
    )
    text = (
        torch.from_numpy(normalisation.text.normalise(embeddings))
        if name == "nano"
        else student.text_rows(data.texts, normalisation)
    )
    grid = student.model.visual_layout().grid
    shape = (len(data.images), SIZES["cameras"], *grid, CHANNELS)
    targets = (
        np.random.default_rng(2).normal(size=shape).astype(np.float16)
        if settings.teacher != "none"
        else None
    )
    labels = data.labels
    return TrainingRun(
        settings, student, CONTRACT, data, labels, normalisation, text, targets, accelerator
    )


def main(out: Path, name: str, steps: int, *words: str) -> None:
    """Train in ``out``.

    Args:
        name: of the student.
        words: ``key=value`` with settings, or with ``validates``: between the steps;
            ``seconds_per_step``; ``loop``: with the training loop, up to the checkpoint in
            ``out/out``; ``largest_file``: longer ones cannot be written.
    """
    changes = {key: json.loads(value) for key, _, value in (word.partition("=") for word in words)}
    slowly, validates = changes.pop("seconds_per_step", 0.0), changes.pop("validates", False)
    with_loop = changes.pop("loop", False)
    if "largest_file" in changes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (changes.pop("largest_file"),) * 2)
    run = make_run(name, out, steps, **changes)
    if with_loop:
        TrainingLoop(
            run,
            CONTRACT,
            np.arange(9),
            Console(quiet=not run.accelerator.is_main_process),
            "train",
            time.monotonic(),
        ).go()
        run.close()
        run.accelerator.end_training()
        return
    state = out / "resume.pt"
    run.load_state(state)
    while run.step < steps:
        run.train_step()
        progress = run.progress()
        error = run.validate(np.arange(9))[0] if validates else 0.0
        if run.accelerator.is_main_process:
            print(
                json.dumps([progress.step, progress.action_loss, progress.alignment_loss, error]),
                flush=True,
            )
        if run.step % 3 == 0:
            run.save_state(state)
        time.sleep(slowly)
    plain = run.averaged()
    if run.accelerator.is_main_process:
        torch.save(plain.state_dict(), out / "weights.pt")
    run.close()
    run.accelerator.end_training()


def run_forked(folder: Path, rank: int, variables: dict[str, str], *words: object) -> None:
    """Run :func:`main` in a forked process, with its output in files of ``folder``.

    Args:
        variables: environment of a process among several, as torchrun sets it.
    """
    for number, ending in ((1, "out"), (2, "err")):
        with open(folder / f"{rank}.{ending}", "w") as file:
            os.dup2(file.fileno(), number)
    os.environ.update(variables)
    main(folder, *words)
