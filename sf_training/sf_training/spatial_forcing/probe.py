"""Command ``probe``: how much depth the visual tokens of a frozen policy contain, beside controls.

A head is fitted to tokens of the episodes that the policy was trained on, and evaluated on those
held out from it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from sf_policy_node.contract import ContractError
from sf_policy_node.vla.checkpoint import Checkpoint, CheckpointError, Model, load_checkpoint
from sf_training.config_file import parse, print_settings
from sf_training.data.cache_folder import cache_folder
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import BagError, find_episodes
from sf_training.data.opening import print_left_out
from sf_training.data.split import split_by_order, split_episodes, trained_folders
from sf_training.progress import counted, status
from sf_training.spatial_forcing.depth_cells import DepthError, DepthTask
from sf_training.spatial_forcing.depth_head import DptHead, Head, LinearHead, StateHead
from sf_training.spatial_forcing.frozen_tokens import (
    frozen_tokens,
    random_twin,
    rgb_tokens,
    text_rows,
)
from sf_training.spatial_forcing.probe_frames import Frames, ProbeError, choose_frames
from sf_training.spatial_forcing.probe_report import (
    CONSTANT,
    MEAN_IMAGE,
    RANDOM,
    RGB,
    STATE,
    Member,
    ProbeReport,
    row_names,
)
from sf_training.spatial_forcing.student_tokens import StudentTokensError

HeadName = Literal["linear", "dpt"]
_SELECTION = 0.1  # share of the training episodes that select the penalty of a ridge
_EXAMPLES = 2  # held-out frames in the image
_MEMORY_SHARE = 0.4  # of the machine's, for tokens


@dataclass(frozen=True)
class Arguments:
    """Predict depth from a frozen policy's visual tokens, beside controls."""

    data: Path
    """Directory of episode bags with depth."""
    checkpoints: tuple[Path, ...]
    """Policies of one architecture; those trained with the same settings make one row. Include
    some without Spatial Forcing, and its controls.
    """
    out: Path = Path("out/probe")
    """Directory for probe.json, probe.md and an image for each head."""
    layer: int | None = None
    """Number of blocks after which tokens are read; default the layer that the training aligned,
    or would have.
    """
    heads: tuple[HeadName, ...] = ("linear",)
    """linear: ridge regression in closed form. dpt: a small convolutional head, trained."""
    train_frames: int = 4000
    """Maximum number of frames of the training episodes for fitting, evenly spaced."""
    test_frames: int = 2000
    """Maximum number of frames of the held-out episodes for evaluation, evenly spaced."""
    cells: int = 4
    """Depth values along one side of a token's patch."""
    nearest: float = 0.02
    """Depth below this does not count [m]."""
    farthest: float = 1.6
    """Depth beyond this does not count [m]."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the random weights that serve as a control."""
    dpt_steps: int = 400
    """Training steps of the DPT head, 32 images each."""
    dpt_seed: int = 0
    """Of its weights and order, the same for every row."""
    validation_share: float | None = None
    """Share of the episodes held out; default that of the checkpoints' training (the smallest)."""
    device: str = "cpu"
    """Where the policies run: cpu or cuda."""
    threads: int = 1
    """Threads of PyTorch."""
    strict: bool = False
    """Stop at the first unusable episode or anomaly; otherwise list and exclude such episodes."""

    def __post_init__(self) -> None:
        for name in ("train_frames", "test_frames", "cells", "dpt_steps", "threads"):
            if getattr(self, name) < 1:
                raise ProbeError(
                    f"--{name.replace('_', '-')}: must be at least 1, got {getattr(self, name)}"
                )
        if not 0 <= self.nearest < self.farthest:
            raise ProbeError(
                f"--nearest, --farthest: needs 0 <= nearest < farthest, got {self.nearest} and"
                f" {self.farthest}"
            )
        if not self.checkpoints or not self.heads or not self.seeds:
            raise ProbeError("--checkpoints, --heads, --seeds: need at least one each")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    console = Console()
    try:
        arguments = parse(Arguments, argv, "probe")
        print_settings(arguments, console)
        report = probe(arguments, console)
        report.write(arguments.out)
    except (
        BagError,
        CheckpointError,
        ContractError,
        ProbeError,
        StudentTokensError,
        OSError,
    ) as error:
        print(f"probe: {error}", file=sys.stderr)
        return 2
    report.print(console)
    console.print(
        f"figures: {arguments.out / 'probe.json'}   images: {arguments.out / 'probe_*.png'}",
        soft_wrap=True,
    )
    return 0


def probe(arguments: Arguments, console: Console) -> ProbeReport:
    """Fit and evaluate all rows.

    Raises:
        ProbeError, CheckpointError, BagError, StudentTokensError: one sentence with the setting or
            file and the cure.
    """
    torch.set_num_threads(arguments.threads)
    checkpoints = [load_checkpoint(path) for path in arguments.checkpoints]
    training = [
        json.loads((path / "config.json").read_text()).get("training", {})
        for path in arguments.checkpoints
    ]
    _check_alike(arguments.checkpoints, checkpoints)
    layer = _layer(arguments, checkpoints[0], training)
    model = checkpoints[0].model
    image_options = {"size": model.config.image_size, "fit": model.config.fit}
    dataset = load_dataset(
        find_episodes(arguments.data),
        checkpoints[0].contract,
        cache=cache_folder(arguments.data),
        depth=True,
        strict=arguments.strict,
        **image_options,
    )
    print_left_out(console, dataset.left_out, dataset.notes, [arguments.data])
    share = _share(arguments, training)
    identities = [episode.checksum for episode in dataset.episodes]
    listed = all("held_out_episodes" in entry for entry in training)
    fitted, held_out = (
        split_episodes(identities, share) if listed else split_by_order(len(identities), share)
    )
    if not len(held_out):
        raise ProbeError(
            f"{arguments.data}: {len(dataset.episodes)} episode; the probe needs some for fitting"
            " and others for evaluation"
        )
    choose = partial(
        choose_frames,
        dataset,
        checkpoints[0],
        cells=arguments.cells,
        nearest=arguments.nearest,
        farthest=arguments.farthest,
    )
    with status(console, "reading images and depth"):
        train = choose(fitted, arguments.train_frames)
        test = choose(held_out, arguments.test_frames)
    task = DepthTask.of(train.cells, model.visual_layout().grid)
    _check_memory(model, len(train.images) + len(test.images))
    report = ProbeReport(
        cameras=tuple(checkpoints[0].contract.camera_names),
        facts={
            "layer": layer,
            "data": str(arguments.data),
            "train": {"episodes": len(np.unique(train.episodes)), "frames": len(train.images)},
            "held_out": {"episodes": len(np.unique(test.episodes)), "frames": len(test.images)},
            "cells": list(task.mean.shape[1:]),
            "counted_share": round(float(np.isfinite(test.cells).mean()), 4),
            "depth_m": [arguments.nearest, arguments.farthest],
            "spread_m": dict(
                zip(
                    checkpoints[0].contract.camera_names,
                    map(float, task.spread.round(5)),
                    strict=True,
                )
            ),
            "seeds": list(arguments.seeds),
            "dpt_steps": arguments.dpt_steps,
            "settings": json.loads(json.dumps(asdict(arguments), default=str)),
            "torch": torch.__version__,
        },
        examples=np.linspace(0, len(test.images) - 1, _EXAMPLES + 2).astype(int)[1:-1],
        images=test.images,
        depth=np.where(
            (test.depth >= arguments.nearest) & (test.depth <= arguments.farthest),
            test.depth,
            np.nan,
        ),
    )
    bench = _Bench(arguments, task, train, test, report, identities)
    bench.constants()
    for name, label, tokens in _sources(
        arguments, checkpoints, training, layer, train, test, dataset.instructions, console
    ):
        bench.evaluate(name, label, *tokens, console)
    others = {
        folder for entry in training for folder in trained_folders(entry.get("settings", {}))
    } - {str(arguments.data)}
    if others:
        console.print(
            f"note: trained on {', '.join(sorted(others))}, not {arguments.data}: the policy"
            " may have been trained on held-out episodes",
            soft_wrap=True,
        )
    return report


class _Bench:
    """Fits heads to tokens, and adds their errors to the report."""

    def __init__(
        self,
        arguments: Arguments,
        task: DepthTask,
        train: Frames,
        test: Frames,
        report: ProbeReport,
        identities: Sequence[str],
    ) -> None:
        self._arguments, self._task, self._train, self._test, self._report = (
            arguments,
            task,
            train,
            test,
            report,
        )
        self._residuals = task.residuals(train.cells).astype(np.float32)
        episodes = np.unique(train.episodes)
        _, chosen = split_episodes(
            [identities[number] for number in episodes], _SELECTION, purpose="selection"
        )
        self._selection = np.isin(train.episodes, episodes[chosen])

    def constants(self) -> None:
        """Evaluate predictions that do not use the image."""
        shape = self._test.cells.shape
        known = np.isfinite(self._train.cells)
        average = np.where(known, self._train.cells, 0).sum((0, 2, 3)) / known.sum((0, 2, 3))
        rows = {
            CONSTANT: np.broadcast_to(average[:, None, None], shape),
            MEAN_IMAGE: np.broadcast_to(self._task.mean, shape),
            STATE: self._task.depth(
                StateHead(self._train.states, self._residuals, self._selection).predict(
                    self._test.states
                )
            ),
        }
        for head in self._arguments.heads:
            for name, predicted in rows.items():
                self._add(head, name, "", predicted)

    def evaluate(
        self, name: str, label: str, train: np.ndarray, test: np.ndarray, console: Console
    ) -> None:
        """Fit each head to tokens, and add its errors."""
        fitted: Head
        for head in self._arguments.heads:
            if head == "linear":
                fitted = LinearHead(self._task, train, self._residuals, self._selection)
            else:
                with counted(
                    console, f"DPT head: {name} {label}".rstrip(), self._arguments.dpt_steps
                ) as advance:
                    fitted = DptHead(
                        self._task,
                        train,
                        self._residuals,
                        steps=self._arguments.dpt_steps,
                        seed=self._arguments.dpt_seed,
                        progress=advance,
                    )
            self._add(head, name, label, self._task.depth(fitted.predict(test)))

    def _add(self, head: str, name: str, label: str, predicted: np.ndarray) -> None:
        error = DepthError.of(predicted, self._test.cells, self._test.episodes)
        self._report.add(head, name, Member(label, error, predicted[self._report.examples]))


def _sources(
    arguments: Arguments,
    checkpoints: Sequence[Checkpoint],
    training: Sequence[dict],
    layer: int,
    train: Frames,
    test: Frames,
    instructions: Sequence[str],
    console: Console,
) -> Iterator[tuple[str, str, tuple[np.ndarray, np.ndarray]]]:
    """Yield the row, the member, and the tokens of training and test frames.

    One at a time, because the tokens take much memory.
    """
    grid = checkpoints[0].model.visual_layout().grid
    yield RGB, "", (rgb_tokens(train.images, grid), rgb_tokens(test.images, grid))

    def tokens(model: Any, checkpoint: Checkpoint, what: str) -> tuple[np.ndarray, np.ndarray]:
        model = model.to(arguments.device).eval()
        texts = text_rows(model, checkpoint.normalisation, instructions)
        total, found = len(train.images) + len(test.images), []
        with counted(console, f"tokens: {what}", total) as advance:
            for frames, before in ((train, 0), (test, len(train.images))):
                states = torch.from_numpy(checkpoint.normalisation.state.normalise(frames.states))

                def count(done: int, before: int = before) -> None:
                    advance(before + done)

                found.append(
                    frozen_tokens(
                        model,
                        layer,
                        frames.images,
                        states,
                        texts[frames.texts],
                        count,
                    )
                )
        return found[0], found[1]

    for seed in arguments.seeds:
        yield (
            RANDOM,
            f"seed {seed}",
            tokens(
                random_twin(checkpoints[0].model, seed),
                checkpoints[0],
                f"random weights, seed {seed}",
            ),
        )
    names = [path.name for path in arguments.checkpoints]
    rows = row_names(training, names)
    for path, checkpoint, row in zip(arguments.checkpoints, checkpoints, rows, strict=True):
        yield (
            row,
            path.name,
            tokens(checkpoint.model, checkpoint, path.name),
        )


def _check_alike(paths: Sequence[Path], checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse checkpoints of another architecture, image input or contract than the first one."""

    first = checkpoints[0].contract

    def sight(checkpoint: Checkpoint) -> tuple:
        layout, config = checkpoint.model.visual_layout(), checkpoint.model.config
        contract = first if first.fits(checkpoint.contract) else checkpoint.contract
        return (
            checkpoint.model.kind,
            config.image_size,
            config.fit,
            layout.grid,
            layout.width,
            len(layout.blocks),
            contract.hash,
        )

    for path, checkpoint in zip(paths[1:], checkpoints[1:], strict=True):
        if sight(checkpoint) != sight(checkpoints[0]):
            raise ProbeError(
                f"--checkpoints: {path} {sight(checkpoint)} is not built or trained like {paths[0]}"
                f" {sight(checkpoints[0])} (kind, image size, fit, grid, width, blocks, contract);"
                " probe them one by one"
            )


def _layer(arguments: Arguments, checkpoint: Checkpoint, training: Sequence[dict]) -> int:
    blocks = len(checkpoint.model.visual_layout().blocks)
    if arguments.layer is not None:
        if not 0 <= arguments.layer <= blocks:
            raise ProbeError(
                f"--layer: the model has {blocks} blocks, so 0 to {blocks}, got {arguments.layer}"
            )
        return arguments.layer
    settings = [entry.get("settings", {}).get("alignment", {}) for entry in training]
    found = {
        max(each["layers"]) if each.get("layers") else each.get("layer", blocks // 2)
        for each in settings
    }
    if len(found) > 1:
        raise ProbeError(
            "--layer: the checkpoints were aligned at different layers"
            f" ({', '.join(map(str, sorted(found)))}); name one"
        )
    return found.pop()


def _share(arguments: Arguments, training: Sequence[dict]) -> float:
    share = arguments.validation_share
    if share is None:
        # Splits are nested: no checkpoint was trained on the episodes that the smallest share
        # holds out.
        share = min(entry.get("settings", {}).get("validation_share", 0.08) for entry in training)
    if not 0 < share < 1:
        raise ProbeError(f"--validation-share: must lie between 0 and 1, got {share}")
    return share


def _check_memory(model: Model, frames: int) -> None:
    layout = model.visual_layout()
    needed = 4 * frames * layout.views * layout.grid[0] * layout.grid[1] * layout.width
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > _MEMORY_SHARE * total:
        raise ProbeError(
            f"--train-frames, --test-frames: tokens of {frames} frames take {needed / 1e9:.1f} GB,"
            f" of {total / 1e9:.0f} GB here; take fewer"
        )


if __name__ == "__main__":
    sys.exit(main())
