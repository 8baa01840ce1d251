"""Measure training steps of a 3 B backbone with the whole VGGT in bfloat16 on a GPU.

Usage: ``python3 -m bench.gpu_training``. Random weights take as long as trained ones, so nothing is
downloaded. The default sizes need 80 GB. ``--dry-run`` runs the same code with tiny sizes on a CPU;
its figures mean nothing.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from bench.figures import Figures
from rich.console import Console

from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract
from sf_policy_node.vla.backbones.tiny import tiny_config, tiny_tokenizer
from sf_policy_node.vla.objective import action_loss, draw
from sf_training.spatial_forcing.alignment import Alignment, AlignmentConfig, prepare_target
from sf_training.spatial_forcing.student_tokens import (
    StudentTokens,
    visual_positions,
    visual_tokens,
)
from sf_training.spatial_forcing.vggt import VggtAggregator, VggtConfig
from sf_training.spatial_forcing.vggt_teacher import VggtTeacher
from sf_training.spatial_forcing.weights import Weights
from sf_training.training.students import StudentSettings, build_student

TargetSource = Literal["no_sf", "cache", "loop"]
SOURCES: tuple[TargetSource, ...] = ("no_sf", "cache", "loop")
_WARM_UP = 3


@dataclass(frozen=True)
class Arguments:
    """Measure step time, peak memory and the largest batch on a GPU.

    Compared are no Spatial Forcing, cached features, and VGGT in the loop.
    """

    out: Path = Path("out/bench_gpu.json")
    """Where the figures go, with the device's name."""
    batch: int = 8
    """Samples of a step whose time is measured."""
    steps: int = 20
    """Measured steps of each source, interleaved."""
    most: int = 256
    """Largest batch that is tried."""
    checkpointing: bool = True
    """Recompute activations of the backbone."""
    dry_run: bool = False
    """Tiny sizes on a processor."""


class Steps:
    """One model, trained with LoRA on random images."""

    def __init__(self, arguments: Arguments, folder: Path) -> None:
        self.device = torch.device("cpu" if arguments.dry_run else "cuda")
        self.dtype = torch.float32 if arguments.dry_run else torch.bfloat16
        _write_backbone(folder, arguments.dry_run)
        settings = StudentSettings(
            kind="hf",
            random_weights=folder,
            dtype="float32" if arguments.dry_run else "bfloat16",
            text_tokens=32,
        )
        self.contract = load_contract(find_robot("sim_arm"))
        torch.manual_seed(0)
        self.student = build_student(settings, self.contract)
        self.model = self.student.model.to(self.device).train()
        if arguments.checkpointing:
            self.model.checkpoint_gradients()
        layout = self.model.visual_layout()
        self.layer = round(len(layout.blocks) * 12 / 18)
        self.teacher = _random_vggt(
            (
                VggtConfig(width=32, pairs=2, encoder_blocks=2, head_size=8, grid=4)
                if arguments.dry_run
                else VggtConfig()
            ),
            self,
        )
        self.alignment = Alignment(
            AlignmentConfig(layer=self.layer), layout.width, self.teacher.feature_size
        ).to(self.device)
        self.tokens = StudentTokens(self.model, (self.layer,), layout.blocks)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW([*trained, *self.alignment.parameters()], lr=1e-5)
        self.noise = torch.Generator().manual_seed(0)

    def step(self, source: TargetSource, batch: int) -> None:
        """Run one whole step, from loss to update.

        Images come from the CPU, and so do cached features (float16), as in a training run.
        """
        config, layout = self.model.config, self.model.visual_layout()
        generator = torch.Generator().manual_seed(0)
        shape = (batch, config.cameras, 3, *config.image_size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(
            self.device
        )
        state = torch.randn(batch, config.state_size, generator=generator).to(self.device)
        chunks = torch.randn(batch, config.horizon, config.action_size, generator=generator).to(
            self.device
        )
        text = self.model.words.encode(["pick the red cube"] * batch).to(self.device)
        weight = torch.ones(config.action_size, device=self.device)
        with (
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
            self.tokens.recording(),
        ):
            context = self.model.context(images, state, text)
            loss = action_loss(
                self.model, context, chunks, weight, draw(self.model, len(chunks), self.noise)
            )
            if source != "no_sf":
                positions = visual_positions(layout.mask.expand(batch, -1))
                hidden = visual_tokens(self.tokens[self.layer], positions)
                loss = loss + 0.5 * self.alignment(
                    {self.layer: hidden}, [self._target(source, images, batch, layout.grid)]
                )
        self.tokens.clear()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(
            [p for group in self.optimizer.param_groups for p in group["params"]], 1.0
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _target(
        self, source: TargetSource, images: torch.Tensor, batch: int, grid: tuple[int, int]
    ) -> torch.Tensor:
        if source == "loop":
            return prepare_target(self.teacher.features(images / 255)[0], grid, 0.1)
        cells = images.shape[1] * grid[0] * grid[1]
        if not hasattr(self, "_kept") or len(self._kept) < batch:
            self._kept = torch.randn(batch, cells, self.teacher.feature_size).half()
        return self._kept[:batch].to(self.device).float()


def main() -> None:
    """Run the benchmark from the command line."""
    arguments = tyro.cli(Arguments, description=Arguments.__doc__)
    if not arguments.dry_run and not torch.cuda.is_available():
        sys.exit(
            "gpu_training: PyTorch finds no GPU here; run it where one is, or take --dry-run to try"
            " the code on a processor"
        )
    console, figures = Console(), Figures()
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(arguments, Path(folder))
    counted = {part: total for part, (total, _) in steps.student.weight_counts().items()}
    trained = sum(
        parameter.numel() for parameter in steps.model.parameters() if parameter.requires_grad
    )
    device = "dry run" if arguments.dry_run else torch.cuda.get_device_name()
    about = (
        f"{sum(counted.values()) / 1e9:.2f} B weights, {trained / 1e6:.0f} M by LoRA;"
        f" {steps.teacher.description}; {steps.dtype}; {device}"
    )
    console.print(about, soft_wrap=True)
    for source in SOURCES:  # "loop" is last: from then on the teacher's weights occupy memory
        _memory(figures, steps, source, arguments, about)
        largest = _largest(lambda batch, source=source: _fits(steps, source, batch), arguments.most)
        figures.add(f"gpu_largest_batch_{source}", largest, "samples", 1, about)
        console.print(f"{source}: largest batch {largest}")
    _time(figures, steps, arguments, about)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({**figures.entries, "device": device, "torch": torch.__version__}, indent=1)
        + "\n"
    )
    console.print(figures.table("training on a GPU"))


def _memory(
    figures: Figures, steps: Steps, source: TargetSource, arguments: Arguments, about: str
) -> None:
    steps.step(source, arguments.batch)  # after this step the optimizer has its moments
    _synchronise(steps.device)
    if steps.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    steps.step(source, arguments.batch)
    peak = torch.cuda.max_memory_allocated() if steps.device.type == "cuda" else 0
    figures.add(
        f"gpu_memory_{source}",
        peak / 2**30,
        "GiB",
        1,
        f"most that tensors took in a step of batch {arguments.batch}; {about}",
    )


def _time(figures: Figures, steps: Steps, arguments: Arguments, about: str) -> None:
    seconds: dict[str, list[float]] = {source: [] for source in SOURCES}
    for number in range(_WARM_UP + arguments.steps):
        for source in SOURCES:
            _synchronise(steps.device)
            started = time.perf_counter()
            steps.step(source, arguments.batch)
            _synchronise(steps.device)
            if number >= _WARM_UP:
                seconds[source].append(time.perf_counter() - started)
    for source in SOURCES:
        figures.spread(
            f"gpu_step_{source}",
            1e3 * np.array(seconds[source]),
            "ms",
            f"batch {arguments.batch}; {about}",
            (50, 95),
        )
        if source != "no_sf":
            ratio = np.median(seconds[source]) / np.median(seconds["no_sf"])
            figures.add(
                f"gpu_step_{source}_over_no_sf",
                ratio,
                "ratio",
                arguments.steps,
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


def _fits(steps: Steps, source: TargetSource, batch: int) -> bool:
    try:
        steps.step(source, batch)
        steps.step(source, batch)  # the second step includes the optimizer's moments
        return True
    except torch.OutOfMemoryError:
        steps.tokens.clear()
        steps.optimizer.zero_grad(set_to_none=True)
        return False
    finally:
        if steps.device.type == "cuda":
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


def _random_vggt(config: VggtConfig, steps: Steps) -> VggtTeacher:
    with torch.device("meta"):
        shapes = {
            f"aggregator.{name}": tuple(value.shape)
            for name, value in VggtAggregator(config).state_dict().items()
        }
    weights = Weights(
        "random weights", (), shapes, "none", lambda name: torch.randn(shapes[name]) * 0.02
    )
    return VggtTeacher(weights, (-1,), 56 if config.width < 100 else 518, steps.device, steps.dtype)


if __name__ == "__main__":
    main()
