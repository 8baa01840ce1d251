"""A training run: model, projector, optimisers and data, on one or more processes.

The batch of all processes is drawn on every process from the seed; each process computes its
share. So several processes, or gradient accumulation (``accumulate``), make the same step as one
process with the full batch, and a resumed run gives the same result as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.objective import draw
from sf_training.spatial_forcing.vision_targets import Targets
from sf_training.training.batches.augmentation import Augmentation, mixed_seed
from sf_training.training.batches.batches import Batch, Batches
from sf_training.training.distributed.processes import make_accelerator
from sf_training.training.distributed.sharding import full_state, shard
from sf_training.training.loop.forward import TrainingModule, valid_tokens
from sf_training.training.loop.inputs import InputBuilder, TargetReader
from sf_training.training.loop.state import ResumableState
from sf_training.training.loop.step import GradientStep
from sf_training.training.loop.validation import Predictor, validation_scores
from sf_training.training.optimisation.average import Average
from sf_training.training.optimisation.optimizers import Optimizers
from sf_training.training.projector_file import load_projector
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.students import Student, merged_copy
from sf_training.training.training_set import ContrastiveSampler, TrainingSet, source_of


@dataclass
class Progress:
    """Progress of a run; losses are means since the last report, over all processes."""

    step: int
    cpu_s: float  # processor time of this process in training steps, without evaluations
    action_loss: float
    alignment_loss: float | None


class TrainingRun:
    """Model, projector, optimisers and data of one run.

    Args:
        settings: resolved (:meth:`Settings.resolved`).
        text: what the student takes as text, one row for each of ``data.texts``.
        targets: prepared targets, or teacher features (F, V, gh, gw, C); None without a teacher.
        labels: indices of the labels to train on.

    Attributes:
        projector_origin: one line about the projector of the initial checkpoint; empty without one.

    Raises:
        TrainingError: settings do not fit the data or the cameras.
    """

    def __init__(
        self,
        settings: Settings,
        student: Student,
        contract: Contract,
        data: TrainingSet,
        labels: np.ndarray,
        normalisation: Normalisation,
        text: Tensor,
        targets: Targets | np.ndarray | None,
        accelerator: Accelerator | None = None,
    ) -> None:
        torch.set_num_threads(settings.threads)
        self.settings, self.data, self.normalisation = settings, data, normalisation
        self.accelerator = accelerator = accelerator or make_accelerator(settings)
        self.device = accelerator.device
        targets = Targets((targets,)) if isinstance(targets, np.ndarray) else targets
        self._has_teacher = targets is not None
        self.training = self._make_module(student, contract, targets)
        self.projector_origin = (
            load_projector(self.training.alignment, settings)
            if self.training.alignment is not None
            else ""
        )
        if settings.checkpoint_gradients:
            self.model.checkpoint_gradients()
        if settings.fsdp:
            shard(self.training, accelerator)  # block by block: a device may not hold all of it
        self.training.to(self.device)
        self._average = Average(self.model, settings.ema)
        self.optimizers = Optimizers(self.training, settings)
        self._wrapped = self.training if settings.fsdp else accelerator.prepare_model(self.training)
        self.batches, self._sampler_state = self._make_batches(labels)
        self._noise = torch.Generator().manual_seed(settings.seed)
        grid = self.model.visual_layout().grid
        augmentation = _augmentation(
            settings, contract, has_bars=valid_tokens(contract, student, grid) is not None
        )
        self._targets = (
            TargetReader(targets, grid, settings.alignment, self.batches.reading)
            if targets is not None
            else None
        )
        inputs = InputBuilder(
            data,
            normalisation,
            text,
            self.device,
            self.batches.reading,
            self._targets,
            augmentation,
        )
        self._gradients = GradientStep(
            settings, self.training, self._wrapped, inputs, augmentation, accelerator
        )
        self._predictor = Predictor(self.training, inputs, normalisation, accelerator)
        self._state = ResumableState(
            settings, self.training, self._average, self.optimizers, accelerator
        )
        self._motion_columns = contract.columns.action.indices(without=[ColumnKind.GRIPPER])
        content = np.ascontiguousarray(labels, np.int64).data
        self._labels_hash = hashlib.sha256(content).hexdigest()[:16]
        self.step = 0
        self.cpu_s = 0.0
        self.begin, self._wall_s_before = time.monotonic(), 0.0
        self._losses: list[tuple[float, float | None]] = []  # of steps since the last report

    def _make_module(
        self, student: Student, contract: Contract, targets: Targets | None
    ) -> TrainingModule:
        weight = torch.tensor(self.settings.column_weights(contract.columns.action))
        config = self.settings.alignment
        if targets is None:
            return TrainingModule(student.model, None, 0, weight)
        grid = student.model.visual_layout().grid
        valid = valid_tokens(contract, student, grid) if config.is_masked else None
        channels = targets.layers[0].shape[-1]
        return TrainingModule(student.model, config, channels, weight, valid)

    def _make_batches(self, labels: np.ndarray) -> tuple[Batches, dict]:
        """Return the batches, and the state of the sampler before the first one."""
        settings, data = self.settings, self.data
        weighted: dict[str, Any] = {}
        if settings.data_weights:
            weighted = {
                "source": source_of(data.sources, settings.data)[data.episodes],
                "source_weights": settings.data_weights,
            }
        sampler = ContrastiveSampler(
            data.label_frame[labels],
            labels,
            settings.pairs,
            settings.singles,
            settings.seed,
            **weighted,
        )
        batches = Batches(
            data,
            sampler,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            accumulate=settings.accumulate,
            ahead=settings.read_ahead,
            workers=settings.workers,
        )
        return batches, sampler.state

    @property
    def model(self) -> Any:
        """The student."""
        return self.training.model

    @property
    def alignment(self) -> Any:
        """Projector and gate; None without a teacher."""
        return self.training.alignment

    @property
    def _data_digest(self) -> str:
        """Digest of the data and of the labels that are trained on."""
        return f"{self.data.digest} {self._labels_hash}"

    @property
    def wall_s(self) -> float:
        """Seconds since ``begin``, plus those before the run was resumed."""
        return self._wall_s_before + time.monotonic() - self.begin

    def train_step(self) -> None:
        """Make one optimiser step.

        Raises:
            FloatingPointError: the loss or a gradient is not finite.
        """
        started = time.process_time()
        self.step += 1
        # Seeds dropout: the same in a resumed run, different on every process.
        torch.manual_seed(
            mixed_seed(self.settings.seed, self.step, 0, self.accelerator.process_index)
        )
        batch = next(self.batches)
        self._sampler_state = batch.state
        drawn = draw(self.model, batch.size, self._noise)
        self._losses.append(self._gradients.backward(batch, drawn, self.step))
        self.optimizers.step(self.step)
        self._average.update(self.step)
        self.cpu_s += time.process_time() - started

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return action and alignment loss of a batch, with their graphs; the run does not change.

        Raises:
            TrainingError: the run has no teacher.
        """
        if not self._has_teacher:
            raise TrainingError("--teacher none: there is no alignment loss; choose a teacher")
        return self._gradients.losses(batch, self._draw_without_advancing(batch))

    def _draw_without_advancing(self, batch: Batch) -> Any:
        state = self._noise.get_state()
        drawn = draw(self.model, batch.size, self._noise)
        self._noise.set_state(state)
        return drawn

    def progress(self) -> Progress:
        """Return the mean losses since the last call."""
        recent, self._losses = self._losses, []
        aligned = [value for _, value in recent if value is not None]
        means = [float(np.mean([value for value, _ in recent])) if recent else float("nan")]
        means += [float(np.mean(aligned))] if aligned else []
        if self.accelerator.num_processes > 1:
            means = self.accelerator.reduce(
                torch.tensor(means, device=self.device), "mean"
            ).tolist()
        return Progress(self.step, self.cpu_s, means[0], means[1] if aligned else None)

    @torch.no_grad()
    def validate(self, labels: np.ndarray) -> tuple[float, float]:
        """Return error and instruction accuracy of the averaged weights on held-out labels.

        See :func:`~sf_training.training.loop.validation.validation_scores`; gripper columns do not
        count. Every process computes all of it.
        """
        self._wrapped.eval()
        with self._averaged_in_place():
            predicted = self._predictor.predict(labels)
        columns = self._motion_columns
        return validation_scores(
            predicted[..., columns],
            self.data.label_chunk[labels][..., columns],
            self.data.label_frame[labels],
        )

    @contextmanager
    def _averaged_in_place(self) -> Iterator[None]:
        with self._average.in_place():
            try:
                yield
            finally:
                # FSDP2 keeps weights that a forward pass gathered until a backward pass; the next
                # training step would compute with the averaged ones.
                if self.settings.fsdp:
                    cast(FSDPModule, self.training).reshard()

    def averaged(self) -> Any:
        """Return a copy of the student with averaged weights and adapters merged, on the processor.

        Returns None on all processes but the main one; every process has to call.
        """
        with self._averaged_in_place():
            state = full_state(self.model) if self.settings.fsdp else None
            return merged_copy(self.model, state) if self.accelerator.is_main_process else None

    def projector(self) -> dict[str, Tensor] | None:
        """Return the weights of the alignment on the processor; None without a teacher.

        Every process has to call.
        """
        module = self.training.alignment
        if module is None:
            return None
        state = full_state(module) if self.settings.fsdp else module.state_dict()
        return {name: value.detach().to("cpu") for name, value in state.items()}

    def save_state(self, path: Path) -> None:
        """Write all that a resumed run needs; every process has to call.

        Raises:
            TrainingError: it cannot be written; the state saved before is intact.
        """
        if self.accelerator.num_processes > 1 and self._losses:  # one file for all processes
            pairs = [
                (action, float("nan") if aligned is None else aligned)
                for action, aligned in self._losses
            ]
            means = self.accelerator.reduce(
                torch.tensor(pairs, dtype=torch.float64, device=self.device), "mean"
            ).tolist()
            self._losses = [
                (action, aligned if self._has_teacher else None) for action, aligned in means
            ]
        progress = {
            "step": self.step,
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
            "sums": self._losses,
            "sampler": self._sampler_state,
            "noise": self._noise.get_state(),
        }
        self._state.save(path, self._data_digest, progress)

    def load_state(self, path: Path) -> bool:
        """Resume from the file of :meth:`save_state`; return False where there is none.

        Raises:
            TrainingError: it is damaged, or is of a run with other settings or data.
        """
        progress = self._state.restore(path, self._data_digest)
        if progress is None:
            return False
        self.step, self.cpu_s = progress["step"], progress["cpu_s"]
        self._wall_s_before, self._losses = progress["wall_s"], progress["sums"]
        self._sampler_state = progress["sampler"]
        self.batches.restart(progress["sampler"])
        self._noise.set_state(progress["noise"])
        return True

    def close(self) -> None:
        """Stop the thread or the processes that read ahead, and remove the hooks of the model."""
        self.batches.close()
        self.training.close()


def _augmentation(settings: Settings, contract: Contract, *, has_bars: bool) -> Augmentation | None:
    """Return the augmentation of the training images; None for ``--augmentation none``.

    Raises:
        TrainingError: crops would move letterbox bars.
    """
    if settings.augmentation == "none":
        return None
    augmentation = Augmentation(settings.augmentation, settings.seed, contract.camera_names)
    if augmentation.geometric and has_bars:
        raise TrainingError(
            f"--augmentation {settings.augmentation}: crops would move the letterbox bars; give"
            f" --student.fit stretch or crop, or take --augmentation {settings.augmentation}_colour"
        )
    return augmentation
