"""The training loop: action loss plus alignment loss, resumable after a kill, with the same result as an uninterrupted run."""

from __future__ import annotations

import copy
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sf_policy_node.contract import GRIPPER_COLUMN, Contract
from sf_policy_node.vla.flow import flow_loss
from sf_policy_node.vla.nano import Nano, NanoConfig
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.real_time_chunking import sample
from sf_training.spatial_forcing.alignment import Alignment, prepare_target
from sf_training.spatial_forcing.student_tokens import StudentTokens, visual_tokens
from sf_training.spatial_forcing.vision_targets import Targets
from sf_training.training.optimizer import Optimizers, update_average
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.training_set import ContrastiveSampler, TrainingSet

_GRIPPER_WEIGHT = 0.3  # its column is -1 or 1, many times larger than a displacement's error
_WARM_UP = 60
_FLOW_DRAWS = 4  # noises and times for each label in a step


@dataclass
class Progress:
    """Where a run stands, averaged since the last report."""

    step: int
    cpu_s: float  # spent in training steps by this process, evaluations excluded
    action_loss: float
    alignment_loss: float | None


class TrainingRun:
    """Model, projector, optimiser and data of one run.

    Args:
        embeddings: (T, E) sentence embeddings of ``data.texts``.
        targets: prepared ones, or teacher features (F, V, g, g, C), or None without a teacher.
        labels: indices of the labels to train on.
    """

    def __init__(
        self,
        settings: Settings,
        contract: Contract,
        data: TrainingSet,
        labels: np.ndarray,
        normalisation: Normalisation,
        embeddings: np.ndarray,
        targets: Targets | np.ndarray | None,
    ) -> None:
        torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        self.settings, self.data = settings, data
        self.normalisation = normalisation
        config = NanoConfig(
            cameras=data.images.shape[1],
            state_size=data.states.shape[1],
            action_size=data.label_chunk.shape[2],
            horizon=data.label_chunk.shape[1],
            image_size=data.images.shape[-1],
            text_size=embeddings.shape[1],
            width=settings.width,
            layers=settings.layers,
            head=settings.head,
        )
        self.model = Nano(config)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self._targets = Targets((targets,)) if isinstance(targets, np.ndarray) else targets
        self.alignment = self._tokens = None
        if self._targets is not None:
            self.alignment = Alignment(settings.alignment, config.width, self._targets.layers[0].shape[-1])
            self._tokens = StudentTokens(self.model, settings.alignment.student_layers, "blocks")
        # Noise hides for long which object is meant. A linear readout of the head's input, in training only, teaches the trunk that
        # as quickly as a regression head does.
        self.readout = nn.Linear(config.width, config.action_size) if settings.head == "flow" else None
        modules = [module for module in (self.model, self.alignment, self.readout) if module is not None]
        self._optimizers = Optimizers(modules, settings.learning_rate, _WARM_UP, settings.steps, settings.decay_share)
        self._sampler = ContrastiveSampler(data.label_frame[labels], labels, settings.pairs, settings.singles, settings.seed)
        self._states = torch.from_numpy(normalisation.state.normalise(data.states))
        self._chunks = torch.from_numpy(normalisation.action.normalise(data.label_chunk))
        self._texts = torch.from_numpy(normalisation.text.normalise(embeddings))
        self._weight = torch.tensor([_GRIPPER_WEIGHT if name == GRIPPER_COLUMN else 1.0 for name in contract.action.names])
        self._noise = torch.Generator().manual_seed(settings.seed)
        self.step = 0
        self.cpu_s = 0.0
        self._sums: list[tuple[float, float | None]] = []

    def train_step(self) -> None:
        """One optimiser step.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        started = time.process_time()
        self.step += 1
        frames, rows, labels = self._sampler.draw()
        self.model.train()
        label_frames = self.data.label_frame[labels]
        images = torch.from_numpy(self.data.images[frames])
        texts = self._texts[self.data.label_text[labels]]
        with self._tokens.recording() if self._tokens else nullcontext():
            features, _ = self.model.encode(images, self._states[label_frames], texts, rows=torch.from_numpy(rows))
        action_loss = self._action_loss(features, self._chunks[labels])
        loss, aligned = action_loss, None
        if self.alignment is not None:
            aligned = self._alignment_loss(frames, rows)
            loss = action_loss + self.settings.alignment.coefficient * aligned
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {self.step}: the loss is not finite; lower --learning-rate (now {self.settings.learning_rate})")
        loss.backward()
        self._optimizers.step(self.step)
        update_average(self.average, self.model, self.step)
        self._sums.append((float(action_loss.detach()), None if aligned is None else float(aligned.detach())))
        self.cpu_s += time.process_time() - started

    def progress(self) -> Progress:
        """Averages since the last call."""
        recent, self._sums = self._sums, []
        aligned = [value for _, value in recent if value is not None]
        action = float(np.mean([value for value, _ in recent])) if recent else float("nan")
        return Progress(self.step, self.cpu_s, action, float(np.mean(aligned)) if aligned else None)

    @torch.inference_mode()
    def validate(self, labels: np.ndarray) -> tuple[float, float]:
        """Mean tool or joint error on held-out labels in the contract's units, and how often language chooses right.

        The second figure: among frames with several labels, the share of predictions that lie closer to
        the chunk of their own instruction than to any other chunk of the frame.
        """
        predicted = np.concatenate([self._predict(labels[start : start + 128]) for start in range(0, len(labels), 128)])
        truth = self.data.label_chunk[labels]
        motion = slice(0, -1) if self._weight[-1] != 1.0 else slice(None)
        error = float(np.abs(predicted - truth)[..., motion].mean())
        right = []
        frames = self.data.label_frame[labels]
        for frame in np.unique(frames):
            rows = np.flatnonzero(frames == frame)
            if len(rows) < 2:
                continue
            distance = np.abs(predicted[rows][:, None] - truth[rows][None])[..., motion].mean((2, 3))
            right.extend(distance.argmin(1) == np.arange(len(rows)))
        return error, float(np.mean(right)) if right else float("nan")

    def save_state(self, path: Path) -> None:
        """All that a resumed run needs, written beside ``path`` and moved into place."""
        state = {
            "settings": repr(self.settings),
            "step": self.step,
            "cpu_s": self.cpu_s,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "alignment": self.alignment.state_dict() if self.alignment else {},
            "readout": self.readout.state_dict() if self.readout else {},
            "optimizers": self._optimizers.state_dict(),
            "sampler": self._sampler.state,
            "noise": self._noise.get_state(),
            "sums": self._sums,
        }
        fresh = path.with_suffix(".new")
        torch.save(state, fresh)
        os.replace(fresh, path)

    def load_state(self, path: Path) -> bool:
        """Resume from :meth:`save_state`; False when there is none.

        Raises:
            TrainingError: it belongs to a run with other settings.
        """
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)  # tensors and plain values only: no code is unpickled
        if state["settings"] != repr(self.settings):
            raise TrainingError(f"{path}: belongs to a run with other settings; choose another --out, or delete it to start anew")
        self.step, self.cpu_s, self._sums = state["step"], state["cpu_s"], state["sums"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        if self.alignment:
            self.alignment.load_state_dict(state["alignment"])
        if self.readout:
            self.readout.load_state_dict(state["readout"])
        self._optimizers.load_state_dict(state["optimizers"])
        self._sampler.state = state["sampler"]
        self._noise.set_state(state["noise"])
        return True

    def _action_loss(self, features: Tensor, chunks: Tensor) -> Tensor:
        if self.settings.head == "flow":
            flow = flow_loss(self.model.head, features, chunks, self._weight, _FLOW_DRAWS, self._noise)
            return flow + self._distance(self.readout(features), chunks)
        return self._distance(self.model.head(features), chunks)

    def _distance(self, actions: Tensor, chunks: Tensor) -> Tensor:
        return ((actions - chunks).abs() * self._weight).mean()

    def _alignment_loss(self, frames: np.ndarray, rows: np.ndarray) -> Tensor:
        config = self.settings.alignment
        places = slice(0, self.model.visual_tokens)
        tokens = {layer: visual_tokens(self._tokens[layer], places, config.token_shift) for layer in config.student_layers}
        self._tokens.clear()
        chosen = torch.from_numpy(rows)
        return self.alignment(tokens, [self._target(layer, frames)[chosen] for layer in self._targets.layers])

    def _target(self, layer: np.ndarray, frames: np.ndarray) -> Tensor:
        """Targets (F, N, C) of a batch's frames."""
        config = self.settings.alignment
        features = torch.from_numpy(np.ascontiguousarray(layer[frames])).float()
        if self._targets.prepared:
            return features.flatten(1, 3)
        return prepare_target(features, self.model.config.grid, config.position_scale, position=config.position, resize=config.resize)

    def _predict(self, labels: np.ndarray) -> np.ndarray:
        frames = self.data.label_frame[labels]
        images = torch.from_numpy(self.data.images[frames])
        features, _ = self.average.encode(images, self._states[frames], self._texts[self.data.label_text[labels]])
        if self.settings.head == "flow":
            noise = torch.randn(len(labels), *self._chunks.shape[1:], generator=torch.Generator().manual_seed(0))
            actions = sample(partial(self.average.head.velocity, features), noise)
        else:
            actions = self.average.head(features)
        return self.normalisation.action.restore(actions.numpy())
