"""The training loop: action loss plus alignment loss, on one or more processes, resumable after a
kill with the same result.

One loop for every kind of model, on accelerate. The batch is drawn whole on every process, from the
seed alone, and each process takes
its rows: two processes, or a batch in parts (``accumulate``), make the step that one process with
the whole batch makes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.objective import draw
from sf_training.spatial_forcing.alignment import prepare_target
from sf_training.spatial_forcing.vision_targets import LiveLayer, Targets
from sf_training.training.augmentation import Augmentation, mixed_seed
from sf_training.training.average import Average
from sf_training.training.batches import Batch, Batches, Part
from sf_training.training.optimizer import Optimizers
from sf_training.training.processes import make_accelerator
from sf_training.training.projector_file import load_projector
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.sharding import shard, whole_state
from sf_training.training.state import load_state, save_state
from sf_training.training.step import Inputs, TrainingStep, valid_tokens
from sf_training.training.students import Student, merged_copy
from sf_training.training.training_set import ContrastiveSampler, TrainingSet, source_of

_TIMED = 3  # steps with and without the alignment, to tell what it costs
_PREDICTED_AT_ONCE = {"nano": 128}
_PREDICTED = 16


@dataclass
class Progress:
    """Where a run stands, averaged since the last report over all processes."""

    step: int
    cpu_s: float  # spent in training steps by this process, evaluations excluded
    action_loss: float
    alignment_loss: float | None


class TrainingRun:
    """Model, projector, optimiser and data of one run.

    Args:
        settings: :func:`resolved` ones.
        text: what the student takes as text, one row for each of ``data.texts``.
        targets: prepared ones, or teacher features (F, V, gh, gw, C), or None without a teacher.
        labels: indices of the labels to train on.
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
        self._targets = Targets((targets,)) if isinstance(targets, np.ndarray) else targets
        weight = torch.tensor(settings.column_weights(contract.columns.action))
        model = student.model
        self._grid = model.visual_places().grid
        valid = (
            valid_tokens(contract, student, self._grid)
            if self._targets is not None and settings.alignment.mask
            else None
        )
        channels = 0 if self._targets is None else self._targets.layers[0].shape[-1]
        self.training = TrainingStep(
            model,
            settings.alignment if self._targets is not None else None,
            channels,
            weight,
            valid,
        )
        self.begun_with = (
            load_projector(self.training.alignment, settings)
            if self.training.alignment is not None
            else ""
        )
        if settings.checkpoint_gradients:
            model.checkpoint_gradients()
        if settings.fsdp:
            shard(self.training, accelerator)  # block by block: a device may not hold all of it
        self.training.to(self.device)
        self.average_of = Average(model, settings.ema)
        self.optimizers = Optimizers(self.training, settings)
        self._wrapped = self.training if settings.fsdp else accelerator.prepare_model(self.training)
        more = {}
        if settings.data_weights:
            more = {
                "source": source_of(data.sources, settings.data)[data.episodes],
                "weights": settings.data_weights,
            }
        sampler = ContrastiveSampler(
            data.label_frame[labels],
            labels,
            settings.pairs,
            settings.singles,
            settings.seed,
            **more,
        )
        place = {"process": accelerator.process_index, "processes": accelerator.num_processes}
        self.batches = Batches(
            data,
            sampler,
            **place,
            accumulate=settings.accumulate,
            ahead=settings.read_ahead,
            workers=settings.workers,
        )
        self._sampler_state = sampler.state
        self._states = torch.from_numpy(normalisation.state.normalise(data.states))
        self._chunks = torch.from_numpy(normalisation.action.normalise(data.label_chunk))
        self._text = text
        self._noise = torch.Generator().manual_seed(settings.seed)
        self._augmentation = _augmentation(settings, contract, self._has_bars(contract, student))
        self._motion = contract.columns.action.indices(without=[ColumnKind.GRIPPER])
        self.step = 0
        self.cpu_s = 0.0
        self.begin, self._wall_before = time.monotonic(), 0.0
        self._sums: list[tuple[float, float | None]] = []

    def _has_bars(self, contract: Contract, student: Student) -> bool:
        return valid_tokens(contract, student, self._grid) is not None

    @property
    def model(self) -> Any:
        """The student."""
        return self.training.model

    @property
    def alignment(self) -> Any:
        """Projector and gate; None without a teacher."""
        return self.training.alignment

    @property
    def wall_s(self) -> float:
        """Since ``begin``, and before the run was resumed."""
        return self._wall_before + time.monotonic() - self.begin

    def train_step(self) -> None:
        """One optimiser step.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        started = time.process_time()
        self.step += 1
        # Dropout of any model: the same after a resumption, another on every process.
        torch.manual_seed(
            mixed_seed(self.settings.seed, self.step, 0, self.accelerator.process_index)
        )
        batch = next(self.batches)
        self._sampler_state = batch.state
        self._sums.append(self._backward(batch, draw(self.model, batch.size, self._noise)))
        self.optimizers.step(self.step)
        self.average_of.update(self.step)
        self.cpu_s += time.process_time() - started

    def measure_teacher(self) -> dict[str, float]:
        """Labels per second with and without targets and alignment, on one batch; changes nothing.
        Without a teacher only the latter.
        """
        batch, noise = next(self.batches), self._noise.get_state()
        self.batches.restart(self._sampler_state)
        drawn = draw(self.model, batch.size, self._noise)
        self._noise.set_state(noise)
        found = {}
        for name, aligned in (("without", False), ("with", True))[
            : 1 + (self._targets is not None)
        ]:
            times = []
            for _ in range(_TIMED + 1):
                for layer in self._targets.layers if aligned else ():
                    if isinstance(layer, LiveLayer):  # a training step computes its features
                        layer.forget()
                begin = time.perf_counter()
                # Sharded gradients that are not exchanged stay where no optimiser can clear them,
                # and would join the first step's.
                self._backward(batch, drawn, aligned=aligned, exchange=self.settings.fsdp)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                times.append(time.perf_counter() - begin)
            found[name] = batch.size / float(np.median(times[1:]))
        self.optimizers.clear()
        return found

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return action and alignment loss of a batch, with their graphs; the run stays as it is.

        Raises:
            TrainingError: the run has no teacher.
        """
        if self._targets is None:
            raise TrainingError("--teacher none: there is no alignment loss")
        part = batch.parts[0]
        state = self._noise.get_state()
        drawn = draw(self.model, batch.size, self._noise)
        self._noise.set_state(state)
        share = None if drawn is None else drawn.part(part.whole, len(batch.parts))
        found = self.training(self._inputs(part, share, True))
        return found["action"], found["alignment"]

    def _backward(
        self, batch: Batch, drawn: Any, *, aligned: bool = True, exchange: bool = True
    ) -> tuple[float, float | None]:
        """Gradients of a batch's share; its losses, means over this process's parts."""
        self._wrapped.train()
        last, losses = len(batch.parts) - 1, []
        processes = self.accelerator.num_processes
        draws = self._augmentation.draw(self.step, batch.frames) if self._augmentation else None
        for number, part in enumerate(batch.parts):
            share = None if drawn is None else drawn.part(part.whole, processes * len(batch.parts))
            with self._without_exchange(number < last or not exchange), self.accelerator.autocast():
                found = self._wrapped(self._inputs(part, share, aligned, draws), aligned=aligned)
                loss = found["action"]
                if "alignment" in found:
                    loss = loss + self.settings.alignment.coefficient * found["alignment"]
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"step {self.step}: the loss is not finite; lower --learning-rate (now"
                        f" {self.settings.rate:g})"
                    )
                self.accelerator.backward(loss / len(batch.parts))
            losses.append(
                [
                    float(found[name].detach()) if name in found else None
                    for name in ("action", "alignment")
                ]
            )
        action, alignment = zip(*losses, strict=True)
        return float(np.mean(action)), None if alignment[0] is None else float(np.mean(alignment))

    def _without_exchange(self, wanted: bool) -> Any:
        """Gradients of all but the last part stay in this process."""
        if self.settings.fsdp:
            self.training.set_requires_gradient_sync(not wanted)
            return nullcontext()
        return self.accelerator.no_sync(self._wrapped) if wanted else nullcontext()

    def _inputs(self, part: Part, drawn: Any, aligned: bool, draws: Tensor | None = None) -> Inputs:
        labels = part.labels
        targets, seen = (), None
        images = part.images.to(self.device, non_blocking=True)
        if draws is not None:
            images, seen = self._augmentation.apply(images, draws[part.batch_frames])
        if self._targets is not None and aligned:
            rows = part.rows
            targets = tuple(
                self._target(layer, part.frames, seen)[rows].to(self.device)
                for layer in self._targets.layers
            )
        return Inputs(
            images=images,
            rows=part.rows.to(self.device),
            states=self._states[self.data.label_frame[labels]].to(self.device),
            text=self._text[self.data.label_text[labels]].to(self.device),
            chunks=self._chunks[labels].to(self.device),
            targets=targets,
            drawn=drawn,
        )

    def _target(self, layer: Any, frames: np.ndarray, seen: Tensor | None = None) -> Tensor:
        """Targets (F, N, C) of some frames; a live teacher looks at ``seen`` (F, V, 3, H, W) where
        that is given.
        """
        config = self.settings.alignment
        if seen is not None and isinstance(layer, LiveLayer):
            found = layer.of(frames, seen)
        else:
            with self.batches.reading:  # a live teacher reads pictures
                found = layer[frames]
        features = torch.from_numpy(np.ascontiguousarray(found)).float()
        if self._targets.prepared:
            return features.flatten(1, 3)
        return prepare_target(
            features,
            self._grid,
            config.position_scale,
            position=config.position,
            resize=config.resize,
        )

    def progress(self) -> Progress:
        """Averages since the last call."""
        recent, self._sums = self._sums, []
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
        """Mean error of the averaged weights on held-out labels in the contract's units, and how
        often language chooses right.

        The second figure: among frames with several labels, the share of predictions that lie
        closer to the chunk of their own instruction than to any other chunk of the frame. Every
        process computes all of it.
        """
        size = _PREDICTED_AT_ONCE.get(self.model.kind, _PREDICTED)
        self._wrapped.eval()
        with self._averaged_in_place():
            predicted = np.concatenate(
                [
                    self._predict(labels[start : start + size])
                    for start in range(0, len(labels), size)
                ]
            )
        truth, motion = self.data.label_chunk[labels], self._motion
        error = float(np.abs(predicted - truth)[..., motion].mean())
        right = []
        frames = self.data.label_frame[labels]
        for frame in np.unique(frames):
            rows = np.flatnonzero(frames == frame)
            if len(rows) < 2:
                continue
            distance = np.abs(predicted[rows][:, None] - truth[rows][None])[..., motion].mean(
                (2, 3)
            )
            right.extend(distance.argmin(1) == np.arange(len(rows)))
        return error, float(np.mean(right)) if right else float("nan")

    def _predict(self, labels: np.ndarray) -> np.ndarray:
        frames, rows = np.unique(self.data.label_frame[labels], return_inverse=True)
        with self.batches.reading:
            images = torch.from_numpy(np.ascontiguousarray(self.data.images[frames]))
        noise = None
        if self.model.config.head == "flow":
            generator, horizon = torch.Generator().manual_seed(0), self._chunks.shape[1]
            noise = torch.randn(
                len(labels), horizon, self.model.head.columns, generator=generator
            ).to(self.device)
        inputs = Inputs(
            images=images.to(self.device),
            rows=torch.from_numpy(rows).to(self.device),
            states=self._states[self.data.label_frame[labels]].to(self.device),
            text=self._text[self.data.label_text[labels]].to(self.device),
        )
        with self.accelerator.autocast():
            actions = self.training(inputs, noise=noise)
        return self.normalisation.action.restore(actions.float().cpu().numpy())

    @contextmanager
    def _averaged_in_place(self) -> Iterator[None]:
        with self.average_of.in_place():
            try:
                yield
            finally:
                # it keeps what a forward pass gathered until a backward one: the next step would
                # compute with that
                if self.settings.fsdp:
                    self.training.reshard()

    def averaged(self) -> Any:
        """A plain copy of the student with its averaged weights, adapters folded in, on the
        processor; None on all processes but the
        main one. Every process has to ask."""
        with self._averaged_in_place():
            state = whole_state(self.model) if self.settings.fsdp else None
            return merged_copy(self.model, state) if self.accelerator.is_main_process else None

    def projector(self) -> dict[str, Tensor] | None:
        """Weights of the alignment on the processor, None without a teacher; every process has to
        ask.
        """
        if self.training.alignment is None:
            return None
        module = self.training.alignment
        state = whole_state(module) if self.settings.fsdp else module.state_dict()
        return {name: value.detach().to("cpu") for name, value in state.items()}

    def save_state(self, path: Path) -> None:
        """All that a resumed run needs, written beside ``path`` and moved into place, by one
        process; every process has to ask.

        Raises:
            TrainingError: it cannot be written; the one before is unharmed.
        """
        if self.accelerator.num_processes > 1 and self._sums:  # all processes go on from one file
            pairs = [
                (action, float("nan") if aligned is None else aligned)
                for action, aligned in self._sums
            ]
            means = self.accelerator.reduce(
                torch.tensor(pairs, dtype=torch.float64, device=self.device), "mean"
            ).tolist()
            self._sums = [
                (action, None if self._targets is None else aligned) for action, aligned in means
            ]
        own = {
            "step": self.step,
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
            "sums": self._sums,
            "sampler": self._sampler_state,
        }
        save_state(path, self, {**own, "noise": self._noise.get_state()})

    def load_state(self, path: Path) -> bool:
        """Resume from :meth:`save_state`; False when there is none.

        Raises:
            TrainingError: it belongs to a run with other settings, or is damaged.
        """
        own = load_state(path, self)
        if own is None:
            return False
        self.step, self.cpu_s, self._wall_before, self._sums = (
            own["step"],
            own["cpu_s"],
            own["wall_s"],
            own["sums"],
        )
        self._sampler_state = own["sampler"]
        self.batches.restart(own["sampler"])
        self._noise.set_state(own["noise"])
        return True

    def close(self) -> None:
        """End the thread that reads ahead."""
        self.batches.close()


def _augmentation(settings: Settings, contract: Contract, has_bars: bool) -> Augmentation | None:
    """What changes the images in training; None where nothing does.

    Raises:
        TrainingError: crops would move letterbox bars.
    """
    if settings.augmentation == "none":
        return None
    found = Augmentation(settings.augmentation, settings.seed, contract.camera_names)
    if found.geometric and has_bars:
        raise TrainingError(
            f"--augmentation {settings.augmentation}: crops would move the letterbox bars; give"
            f" --student.fit stretch or crop, or take --augmentation {settings.augmentation}_colour"
        )
    return found


def resolved(settings: Settings, student: Student) -> Settings:
    """The settings with every choice made that depends on the model: alignment (without a teacher
    the one that it would have), preset, optimiser, learning rate, weight of the gripper, channels
    of the teacher.

    Raises:
        TrainingError, StudentError: it has no such layer, or nothing below it is trained.
    """
    config = settings.alignment_of(student.blocks)
    if settings.teacher != "none":
        student.check_layers(config.student_layers)
    return replace(
        settings,
        alignment=config,
        preset=settings.chosen_preset,
        optimizer="muon" if settings.uses_muon else "adamw",
        learning_rate=settings.rate,
        gripper_weight=settings.weight_of_grippers,
        teacher_channels=settings.channels,
    )
