"""Measure training steps of a 3 B backbone with the whole VGGT in bfloat16 on a GPU.

Usage: ``python3 -m bench.gpu_training``. Every step is the trainer's own (``TrainingRun``): batches
read ahead, optimiser, moving average and clipping included. Random weights take as long as trained
ones, so nothing is downloaded. The default sizes need 80 GB. ``--dry-run`` runs the same code with
tiny sizes on a CPU; its figures mean nothing.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import tyro
from bench.figures import Figures
from bench.training_case import run_of
from rich.console import Console

from sf_bringup.graph import find_robot
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.vla.backbones.tiny import tiny_config, tiny_tokenizer
from sf_training.progress import counted
from sf_training.spatial_forcing.vggt import VggtAggregator, VggtConfig
from sf_training.spatial_forcing.vggt_teacher import VggtTeacher
from sf_training.spatial_forcing.vision_targets import Targets, vision_targets
from sf_training.spatial_forcing.weights import Weights
from sf_training.training.loop.run import TrainingRun
from sf_training.training.loop.step_times import WARM_UP_STEPS
from sf_training.training.settings import Settings
from sf_training.training.students import Student, StudentSettings, build_student
from sf_training.training.training_set import TrainingSet

TargetSource = Literal["no_sf", "cache", "loop"]
SOURCES = get_args(TargetSource)
_FRAMES = 64  # of the data, so that a teacher in the loop rarely sees the same batch twice
_TINY = VggtConfig(width=32, pairs=2, encoder_blocks=2, head_size=8, grid=4)


@dataclass(frozen=True)
class Arguments:
    """Measure step time, peak memory and the largest batch on a GPU.

    Compared are no Spatial Forcing, cached features, and VGGT in the loop.
    """

    out: Path = Path("out/bench_gpu.json")
    """Where the figures go, with the device's name."""
    batch: int = 8
    """Labels of a step whose time is measured."""
    steps: int = 50
    """Measured steps of each source, interleaved, after the trainer's warm-up."""
    most: int = 256
    """Largest batch that is tried."""
    checkpointing: bool = True
    """Recompute activations of the backbone."""
    dry_run: bool = False
    """Tiny sizes on a processor."""


class Case:
    """One model and one teacher, from which runs of the trainer are made."""

    def __init__(self, arguments: Arguments, folder: Path) -> None:
        self.is_dry = arguments.dry_run
        self.device = torch.device("cpu" if self.is_dry else "cuda")
        self.dtype = torch.float32 if self.is_dry else torch.bfloat16
        _write_backbone(folder, self.is_dry)
        self._contract = load_contract(find_robot("sim_arm"))
        settings = StudentSettings(
            kind="hf",
            random_weights=folder,
            dtype="float32" if self.is_dry else "bfloat16",
            text_tokens=32,
        )
        torch.manual_seed(0)
        self.student = build_student(settings, self._contract)
        self.teacher = _random_vggt(_TINY if self.is_dry else VggtConfig(), self.device, self.dtype)
        self._settings = Settings(
            data=folder,
            out=folder,
            steps=100_000,
            student=settings,
            preset="paper_pi0",
            pairs=0,
            precision="no" if self.is_dry else "bf16",
            checkpoint_gradients=arguments.checkpointing,
        )
        self.data = random_data(self.student, self._contract)
        self._targets = {source: self._make_targets(source, self.data) for source in SOURCES[1:]}

    def run(self, source: TargetSource, batch: int) -> TrainingRun:
        """Return a new run of the trainer with ``batch`` labels in a step; close it afterwards."""
        chosen: dict[str, Any] = {"teacher": "none"}
        if source != "no_sf":
            chosen = {"teacher": "vggt", "teacher_weights": "random weights"}
        settings = replace(self._settings, singles=batch, **chosen)
        return run_of(settings, self.student, self._contract, self.data, self._targets.get(source))

    def _make_targets(self, source: TargetSource, data: TrainingSet) -> Targets:
        grid = self.student.model.visual_layout().grid
        config = self._settings.alignment_of(self.student.blocks)
        if source == "loop":
            return vision_targets(self.teacher, data.images, grid, config, live=True)
        shape = (*data.images.shape[:2], *grid, self.teacher.feature_size)
        features = np.random.default_rng(0).standard_normal(shape, np.float32)
        return Targets((features.astype(np.float16),), prepared=True)


def random_data(student: Student, contract: Contract) -> TrainingSet:
    """Return frames of random pixels with one label each."""
    rng = np.random.default_rng(0)
    shape = (_FRAMES, len(contract.cameras), 3, *student.image_size)
    action = (contract.action.horizon, len(contract.action.names))
    return TrainingSet(
        images=rng.integers(0, 256, shape, np.uint8),
        states=rng.normal(size=(_FRAMES, len(state_names(contract)))),
        episodes=np.arange(_FRAMES),
        label_frame=np.arange(_FRAMES),
        label_text=np.zeros(_FRAMES, int),
        label_chunk=rng.normal(size=(_FRAMES, *action)).astype(np.float32),
        texts=("pick the red cube",),
        depth=None,
        views=None,
    )


def main() -> None:
    """Run the command line."""
    arguments = tyro.cli(Arguments, description=Arguments.__doc__)
    if not arguments.dry_run and not torch.cuda.is_available():
        sys.exit(
            "gpu_training: PyTorch finds no GPU here; run it where one is, or take --dry-run to try"
            " the code on a processor"
        )
    console, figures = Console(), Figures()
    with tempfile.TemporaryDirectory() as folder:
        case = Case(arguments, Path(folder))
    counts = case.student.weight_counts().values()
    total, trained = (sum(each[number] for each in counts) for number in (0, 1))
    device = "dry run" if case.is_dry else torch.cuda.get_device_name()
    about = (
        f"{total / 1e9:.2f} B weights, {trained / 1e6:.0f} M trained by LoRA;"
        f" {case.teacher.description}; {case.dtype}; {device}"
    )
    console.print(about, soft_wrap=True)
    for source in SOURCES:  # loop is the last: the teacher's weights stay from then on
        _memory(figures, case, source, arguments, about)
        largest = _largest(lambda batch, source=source: _fits(case, source, batch), arguments.most)
        figures.add(f"gpu_largest_batch_{source}", largest, "samples", 1, about)
        console.print(f"{source}: largest batch {largest}")
    _time(figures, case, arguments, about, console)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({**figures.entries, "device": device, "torch": torch.__version__}, indent=1)
        + "\n"
    )
    console.print(figures.table("training on a GPU"))


def _memory(
    figures: Figures, case: Case, source: TargetSource, arguments: Arguments, about: str
) -> None:
    run = case.run(source, arguments.batch)
    try:
        run.train_step()  # afterwards the optimiser has its moments
        _synchronise(case.device)
        if case.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run.train_step()
        peak = torch.cuda.max_memory_allocated() if case.device.type == "cuda" else 0
    finally:
        run.close()
    figures.add(
        f"gpu_memory_{source}",
        peak / 2**30,
        "GiB",
        1,
        f"peak of tensors in a step of batch {arguments.batch}; {about}",
    )


def _time(figures: Figures, case: Case, arguments: Arguments, about: str, console: Console) -> None:
    runs = {source: case.run(source, arguments.batch) for source in SOURCES}
    seconds: dict[str, list[float]] = {source: [] for source in SOURCES}
    steps = WARM_UP_STEPS + arguments.steps
    try:
        with counted(console, "steps of each source", steps) as advance:
            for number in range(steps):
                for source, run in runs.items():
                    _synchronise(case.device)
                    started = time.perf_counter()
                    run.train_step()
                    _synchronise(case.device)
                    if number >= WARM_UP_STEPS:
                        seconds[source].append(time.perf_counter() - started)
                advance(number + 1)
    finally:
        for run in runs.values():
            run.close()
    note = f"batch {arguments.batch}; {about}"
    for source in SOURCES:
        found = np.array(seconds[source])
        figures.spread(f"gpu_step_{source}", 1e3 * found, "ms", note, (50, 95))
        rate = arguments.batch * len(found) / found.sum()
        figures.add(f"gpu_rate_{source}", rate, "samples/s", len(found), note)
        if source != "no_sf":
            figures.add(
                f"gpu_step_{source}_over_no_sf",
                np.median(found) / np.median(seconds["no_sf"]),
                "ratio",
                len(found),
                "medians, interleaved",
            )


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to ``most`` for which ``fits`` holds; 0 if 1 does not fit."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(case: Case, source: TargetSource, batch: int) -> bool:
    run = None
    try:
        run = case.run(source, batch)
        run.train_step()
        run.train_step()  # the second has the optimiser's moments
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        if run is not None:
            run.close()
        del run
        gc.collect()
        if case.device.type == "cuda":
            torch.cuda.empty_cache()


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _write_backbone(folder: Path, tiny: bool) -> None:
    """Write a configuration and a tokenizer.

    The default has the sizes of PaliGemma 3B at 224 pixels.
    """
    if tiny:
        config: Any = tiny_config("paligemma")
    else:
        from transformers import PaliGemmaConfig

        vision = {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "patch_size": 14,
        }
        text = {
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
        }
        config = PaliGemmaConfig(
            vision_config={
                "model_type": "siglip_vision_model",
                "vision_use_head": False,
                "image_size": 224,
                **vision,
            },
            text_config={"model_type": "gemma", "head_dim": 256, "vocab_size": 257216, **text},
            projection_dim=2048,
            hidden_size=2048,
            image_token_id=257152,
        )
    config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def _random_vggt(config: VggtConfig, device: torch.device, dtype: torch.dtype) -> VggtTeacher:
    with torch.device("meta"):
        shapes = {
            f"aggregator.{name}": tuple(value.shape)
            for name, value in VggtAggregator(config).state_dict().items()
        }
    weights = Weights(
        "random weights", (), shapes, "none", lambda name: torch.randn(shapes[name]) * 0.02
    )
    return VggtTeacher(weights, (-1,), 56 if config.width < 100 else 518, device, dtype)


if __name__ == "__main__":
    main()
