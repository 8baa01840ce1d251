"""Settings of a training run; every one is printed at the start and saved with the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.teachers import TeacherName


class TrainingError(ValueError):
    """A setting or the data cannot be used; the message names it and the cure."""


@dataclass(frozen=True)
class Settings:
    """Fine-tune the nano model on recorded episodes, with Spatial Forcing or a control."""

    data: Path
    """Directory of episode bags."""
    out: Path
    """Checkpoint directory to write."""
    teacher: TeacherName = "pointmap"
    """Where alignment targets come from; none trains with the action loss alone."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """The alignment loss; ignored with teacher none."""
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
        if self.pairs < 0 or self.singles < 0 or not self.pairs + self.singles:
            raise TrainingError(f"--pairs, --singles: must not be negative, and one above zero, got {self.pairs} and {self.singles}")
        if not 0 < self.validation_share < 1:
            raise TrainingError(f"--validation-share: must lie between 0 and 1, got {self.validation_share}")
        if not 0 <= self.decay_share <= 1:
            raise TrainingError(f"--decay-share: must lie between 0 and 1, got {self.decay_share}")
        if self.teacher != "none" and not 0 <= self.alignment.layer <= self.layers:
            raise TrainingError(f"--alignment.layer: the model has {self.layers} blocks, got {self.alignment.layer}")
