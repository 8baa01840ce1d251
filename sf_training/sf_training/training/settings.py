"""Settings of a training run; every one is printed at the start and saved with the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.cache_format import CacheFormat
from sf_training.spatial_forcing.presets import PresetName, preset
from sf_training.spatial_forcing.teachers import TeacherName
from sf_training.spatial_forcing.vision_targets import Control

_VISION = ("vggt", "hf")


class TrainingError(ValueError):
    """A setting or the data cannot be used; the message names it and the cure."""


@dataclass(frozen=True)
class Settings:
    """Fine-tune the nano model on recorded episodes, with Spatial Forcing or a control."""

    data: Path
    """Directory of episode bags."""
    out: Path
    """Checkpoint directory to write."""
    contract: Path | None = None
    """The robot's contract: closed-loop evaluations and the checkpoint take its limits; default the one in the bags."""
    teacher: TeacherName = "pointmap"
    """Where alignment targets come from; none trains with the action loss alone."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """The alignment loss; ignored with teacher none."""
    preset: PresetName | None = None
    """Named settings of the alignment, in proportion to --layers; what is given with --alignment... differs from it."""
    teacher_weights: str = ""
    """Of the teachers vggt and hf: a file, a directory or a hub id. Their licence is shown."""
    teacher_size: int = 0
    """Longer side of the images that vggt or hf sees [pixels]; 0 takes what it was trained with."""
    teacher_device: str = "auto"
    """Where vggt or hf runs; auto takes the GPU where there is one."""
    teacher_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of vggt or hf; auto takes bfloat16 on a GPU, float32 elsewhere."""
    teacher_channels: int = 128
    """Channels of the targets of vggt or hf at most, by principal directions; the cosine lost is shown. 0 keeps all: with VGGT's 2048
    a step of this small model takes 15 times as long."""
    cache_format: CacheFormat | Literal["none"] = "float16"
    """How features of vggt or hf are kept beside the data: int8 takes half of the room of the others, and shows the cosine that is
    lost. none keeps nothing and runs the teacher in every step."""
    control: Control = "none"
    """Replace the teacher by a control of the same width that holds no geometry."""
    seed: int = 0
    """Of the weights and of the order of the data."""
    steps: int = 3000
    """Optimiser steps."""
    pairs: int = 6
    """Frames in a batch that carry two different instructions (contrastive relabelling)."""
    singles: int = 4
    """Frames in a batch with one instruction, from those that have only one."""
    learning_rate: float = 2e-3
    """Peak, after 60 steps of warm-up."""
    decay_share: float = 0.3
    """Share of the steps at the end over which the rate falls to zero; 0 keeps it constant."""
    width: int = 96
    """Width of the transformer."""
    layers: int = 4
    """Blocks of the transformer."""
    head: Literal["regression", "flow"] = "regression"
    """How actions are made: directly, or from noise by flow matching, which real-time chunking needs."""
    validation_share: float = 0.08
    """Share of the episodes kept for validation."""
    validate_every: int = 200
    """Steps between two validations (action error, and whether the named cube is chosen)."""
    evaluate_every: int = 0
    """Steps between two closed-loop evaluations in the simulator; 0 evaluates never."""
    evaluation_episodes: int = 40
    """Episodes of each closed-loop evaluation, half with 2 cubes and half with 3; seeds from 900000."""
    stop_at: float = 0.0
    """End the run when this success rate is reached in an evaluation; 0 never ends it early."""
    save_every: int = 200
    """Steps between two saves; after a kill the run resumes from the last."""
    threads: int = 1
    """Threads of PyTorch. One is the most thrifty; results are the same only for the same number."""

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "save_every", "threads", "evaluation_episodes"):
            if getattr(self, name) < 1:
                raise TrainingError(f"--{name.replace('_', '-')}: must be at least 1, got {getattr(self, name)}")
        if self.teacher_channels < 0 or self.teacher_channels % 4:
            raise TrainingError(f"--teacher-channels: must be a multiple of 4, or 0 for all, got {self.teacher_channels}")
        if self.pairs < 0 or self.singles < 0 or not self.pairs + self.singles:
            raise TrainingError(f"--pairs, --singles: must not be negative, and one above zero, got {self.pairs} and {self.singles}")
        if not 0 < self.validation_share < 1:
            raise TrainingError(f"--validation-share: must lie between 0 and 1, got {self.validation_share}")
        if not 0 <= self.decay_share <= 1:
            raise TrainingError(f"--decay-share: must lie between 0 and 1, got {self.decay_share}")
        if self.preset:
            object.__setattr__(self, "alignment", self._from_preset())
        self._check_teacher()

    @property
    def uses_vision_teacher(self) -> bool:
        """Whether the teacher is a vision model with weights."""
        return self.teacher in _VISION

    def _from_preset(self) -> AlignmentConfig:
        default = AlignmentConfig()
        changes = {
            each.name: getattr(self.alignment, each.name)
            for each in fields(AlignmentConfig)
            if getattr(self.alignment, each.name) != getattr(default, each.name)
        }
        if not self.uses_vision_teacher:
            changes["teacher_layers"] = (-1,)
        return preset(self.preset, self.layers, **changes)

    def _check_teacher(self) -> None:
        if self.teacher == "none":
            if self.control != "none":
                raise TrainingError(f"--control {self.control}: a control stands for a teacher; give --teacher")
            return
        deepest = max(self.alignment.student_layers)
        if deepest > self.layers:
            name = "layers" if self.alignment.layers else "layer"
            raise TrainingError(f"--alignment.{name}: the model has {self.layers} blocks, got {deepest}")
        if self.uses_vision_teacher and not self.teacher_weights:
            raise TrainingError(f"--teacher-weights: teacher {self.teacher} needs a file, a directory or a hub id")
        if not self.uses_vision_teacher and self.cache_format != "float16":
            raise TrainingError(f"--cache-format {self.cache_format}: teacher {self.teacher} has no cache; it is for vggt and hf")
        if not self.uses_vision_teacher and self.teacher_weights:
            raise TrainingError(f"--teacher-weights: teacher {self.teacher} has none; take --teacher vggt or hf")
        if not self.uses_vision_teacher and self.alignment.teacher_layers != (-1,):
            raise TrainingError(f"--alignment.teacher-layers: teacher {self.teacher} has one layer, -1")
        if self.control != "none" and self.teacher not in ("pointmap", *_VISION):
            raise TrainingError(f"--control {self.control}: teacher {self.teacher} is a control itself")
