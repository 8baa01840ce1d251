"""Students: models built from settings and the robot's contract, ready for training.

```python
student = build_student(settings.student, contract, head="flow")
height, width = student.image_size  # load the data in this size, with student.model.config.fit
embeddings = student.embeddings(data.texts)  # for Normalisation.from_data
text = student.text_rows(data.texts, normalisation)
context = student.model.context(images, state, text[label_text])
```
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sf_policy_node.contract import ActionSpace, Contract
from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.vla.backbones.pretrained import BackboneError
from sf_policy_node.vla.backbones.words import WordsError
from sf_policy_node.vla.checkpoint import CheckpointError, read_model
from sf_policy_node.vla.nano import Nano, NanoConfig
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.objective import PI0_KINDS
from sf_policy_node.vla.text import TEXT_SIZE, text_encoder
from sf_training.training.lora import Part, apply_lora, freeze, merged_copy, merged_weights, part_of
from sf_training.training.student_settings import (
    PROMPT,
    LoraSettings,
    StudentError,
    StudentSettings,
)

__all__ = [
    "LoraSettings",
    "Student",
    "StudentError",
    "StudentSettings",
    "apply_lora",
    "build_student",
    "count_weights",
    "merged_copy",
    "merged_weights",
]

Head = Literal["regression", "flow"]


@dataclass(frozen=True)
class Student:
    """A model whose parameters require gradients only where they are trained."""

    model: Any  # Nano, HfVla, Pi0 or OpenVlaOft
    settings: StudentSettings

    @property
    def blocks(self) -> int:
        """Number of transformer blocks; alignment layers count from 0 to this number."""
        return len(self.model.visual_layout().blocks)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of its input images [pixels]."""
        size = self.model.config.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Return sentence embeddings (T, E) float32 for the statistics.

        E is 0 for a model with a tokenizer.
        """
        if self.model.words is not None:
            return np.zeros((len(texts), 0), np.float32)
        return text_encoder().encode(list(texts))

    def text_rows(self, texts: Sequence[str], normalisation: Normalisation) -> Tensor:
        """Return the text input of ``model.context``, one row for each text.

        Embeddings (T, E) float32, or token ids (T, N) int64.

        Raises:
            StudentError: an instruction is too long for the model.
        """
        if self.model.words is None:
            return torch.from_numpy(normalisation.text.normalise(self.embeddings(texts)))
        try:
            return self.model.words.encode(list(texts))
        except WordsError as error:
            raise StudentError(f"{error}, or raise --student.text-tokens") from None

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse alignment layers that the model does not have, or below which nothing is trained.

        Raises:
            StudentError: see :meth:`StudentSettings.check_alignment`.
        """
        if max(layers) > self.blocks:
            raise StudentError(
                f"--alignment.layer {max(layers)}: the model has {self.blocks} blocks, so 0 to"
                f" {self.blocks}"
            )
        self.settings.check_alignment(layers)

    def weight_counts(self) -> dict[Part, tuple[int, int]]:
        """Return the numbers of all and of trained weights of each part, adapters included."""
        return count_weights(self.model)


def build_student(
    settings: StudentSettings,
    contract: Contract,
    *,
    head: Head = "regression",
    width: int = 96,
    layers: int = 4,
    meta: bool = False,
) -> Student:
    """Build the model for a robot; needs no data.

    Random weights come from torch's current seed. Initial weights from a checkpoint of this package
    define the model, whatever ``width`` and ``layers``; its statistics are replaced by those of the
    new data.

    Args:
        contract: gives cameras, state, action columns and horizon.
        head: ``regression`` or ``flow``; pi0 always has its own flow.
        width, layers: of nano.
        meta: build without memory for the weights, to count them.

    Raises:
        StudentError: weights are missing or do not fit, or settings do not fit the model.
    """
    sizes = {
        "cameras": len(contract.cameras),
        "state_size": len(state_names(contract)),
        "action_size": len(contract.action.names),
        "horizon": contract.action.horizon,
    }
    try:
        # No device context unless needed: transformers would take it for a device map.
        with torch.device("meta") if meta else nullcontext():
            if settings.weights and (settings.weights / "contract.yaml").is_file():
                model = _continued(settings, sizes, head, meta)
            elif settings.kind == "nano":
                model = _nano(settings, sizes, head, width, layers, _measured(contract))
            else:
                model = _pretrained(settings, sizes, head, meta)
            if settings.kind != "nano":
                freeze(model, settings)
                if settings.uses_lora:
                    apply_lora(model, settings)
    except (BackboneError, CheckpointError, WordsError) as error:
        raise StudentError(str(error)) from None
    return Student(model, settings)


def count_weights(model: Any) -> dict[Part, tuple[int, int]]:
    """Return the numbers of all and of trained weights of each part of a model."""
    counts: dict[Part, list[int]] = {}
    for name, parameter in model.named_parameters():
        count = counts.setdefault(part_of(model, name), [0, 0])
        count[0] += parameter.numel()
        count[1] += parameter.numel() * parameter.requires_grad
    return {part: (total, trained) for part, (total, trained) in counts.items()}


def _continued(settings: StudentSettings, sizes: dict[str, int], head: Head, meta: bool) -> Any:
    """Return the model of a checkpoint, with its weights unless ``meta``."""
    assert settings.weights is not None
    model = read_model(settings.weights, with_weights=not meta)
    config, where = model.config, f"--student.weights {settings.weights}"
    if model.kind != settings.kind:
        raise StudentError(f"{where}: holds a {model.kind} model; give --student.kind {model.kind}")
    wrong = [
        f"{name} {getattr(config, name)}, the robot {size}"
        for name, size in sizes.items()
        if getattr(config, name) != size
    ]
    if wrong:
        raise StudentError(
            f"{where}: is for another robot ({'; '.join(wrong)}); start from pretrained weights"
        )
    if settings.kind not in PI0_KINDS and config.head != head:
        raise StudentError(f"{where}: its head is {config.head}; give --head {config.head}")
    if settings.kind == "nano" or config.dtype == settings.dtype:
        return model
    other = type(model)(replace(config, dtype=settings.dtype), model.words, blank=True)
    if not meta:
        other.load_state_dict(model.state_dict())
    return other


def _nano(
    settings: StudentSettings,
    sizes: dict[str, int],
    head: Head,
    width: int,
    layers: int,
    measured: tuple[int, ...],
) -> Nano:
    if settings.weights:
        raise StudentError(
            f"--student.weights {settings.weights}: is not a checkpoint of nano, the only initial"
            " weights for nano"
        )
    side = set(settings.image_size) or {96}
    if len(side) > 1:
        raise StudentError(
            f"--student.image-size: nano takes square images, got {settings.image_size}"
        )
    try:
        return Nano(
            NanoConfig(
                **sizes,
                image_size=side.pop(),
                text_size=TEXT_SIZE,
                width=width,
                layers=layers,
                head=head,
                rows_per_query=1 if head == "flow" else _rows_per_query(sizes["horizon"]),
                measured=() if head == "flow" else measured,
            )
        )
    except ValueError as error:
        raise StudentError(f"nano: {error}") from None


def _measured(contract: Contract) -> tuple[int, ...]:
    """Return the state column of each action column, -1 for grippers.

    Empty unless the actions are joint targets.
    """
    if contract.action.space is not ActionSpace.JOINT_POSITION:
        return ()
    state_columns = {column.name: column.index for column in contract.columns.state}
    return tuple(state_columns.get(column.name, -1) for column in contract.columns.action)


def _rows_per_query(horizon: int) -> int:
    """Return the smallest number of steps per action token that leaves at most 16 tokens.

    Steps of a long chunk are similar: with three cameras, one token for each of 50 steps costs a
    sixth more processor time in a training step.
    """
    return next(
        rows for rows in range(1, horizon + 1) if horizon % rows == 0 and horizon // rows <= 16
    )


def _pretrained(settings: StudentSettings, sizes: dict[str, Any], head: Head, meta: bool) -> Any:
    from sf_policy_node.vla.backbones.hf import HfVla
    from sf_policy_node.vla.backbones.openvla_oft.model import PROMPT as OPENVLA_PROMPT
    from sf_policy_node.vla.backbones.openvla_oft.model import OpenVlaOft
    from sf_policy_node.vla.backbones.pi0 import PI05_PROMPT, Pi0, Pi05

    model_class: Any = {"hf": HfVla, "pi0": Pi0, "pi05": Pi05, "openvla_oft": OpenVlaOft}[
        settings.kind
    ]
    prompt = {"openvla_oft": OPENVLA_PROMPT, "pi05": PI05_PROMPT}.get(settings.kind, PROMPT)
    fit = "stretch" if settings.kind == "openvla_oft" else "letterbox"
    sizes |= {
        "fit": settings.fit or fit,
        "text_tokens": settings.text_tokens or (200 if settings.kind == "pi05" else 48),
        "prompt": settings.prompt or prompt,
    }
    if settings.kind == "openvla_oft":
        sizes["crop"] = settings.test_crop
    if settings.kind == "hf":
        sizes |= {
            "head": head,
            "head_width": settings.head_width,
            "head_layers": settings.head_layers,
        }
    if settings.image_size:
        sizes["image_size"] = (settings.image_size * 2)[:2]
    folder = settings.weights or settings.random_weights
    random = settings.weights is None or meta
    return (model_class.from_config if random else model_class.from_pretrained)(
        folder, dtype=settings.dtype, **sizes
    )
