"""Settings of the student: model kind, initial weights, and which parts are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from sf_policy_node.vla.objective import PI0_KINDS

ModelKind = Literal["nano", "hf", "pi0", "pi05", "openvla_oft"]
PROMPT = "{instruction}\n"
Train = Literal["full", "lora", "frozen"]


class StudentError(ValueError):
    """The model cannot be built or trained with these settings.

    The message names the setting or file and the cure.
    """


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters; the defaults of rank, alpha and targets are OpenVLA-OFT's."""

    rank: int = 32
    """Rank of the adapters."""
    alpha: float = 16.0
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the adapters' input, in training."""
    init: Literal["kaiming", "gaussian"] = "kaiming"
    """Initialisation of the first factor (the second starts at zero): kaiming is peft's default,
    gaussian OpenVLA-OFT's.
    """
    targets: tuple[str, ...] = ()
    """Name endings of the linear layers that get adapters, such as q_proj v_proj; none: every
    linear layer.
    """

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise StudentError(f"--student.lora.rank: must be at least 1, got {self.rank}")
        if not self.alpha > 0:
            raise StudentError(f"--student.lora.alpha: must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise StudentError(
                f"--student.lora.dropout: must be at least 0 and below 1, got {self.dropout}"
            )


@dataclass(frozen=True)
class StudentSettings:
    """The student. Of these settings nano takes only ``kind``, ``weights`` and ``image_size``."""

    kind: ModelKind = "nano"
    """nano: small, from scratch. hf: any transformers image-text-to-text model. pi0, pi05: from
    transformers', openpi's or LeRobot's weights. openvla_oft: OpenVLA-OFT.
    """
    weights: Path | None = None
    """Initial weights: a local directory in the layout of the Hugging Face hub, with tokenizer;
    or a checkpoint of this package, which also defines the model: then of the settings below
    only dtype, train-... and lora apply.
    """
    random_weights: Path | None = None
    """Instead of weights: a directory with config.json and a tokenizer; the model starts from
    random weights (dry runs, timing).
    """
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the backbone's frozen weights. Trained weights stay float32: bfloat16 needs lora
    or frozen in every part, and is not for pi0.
    """
    image_size: tuple[int, ...] = ()
    """Side, or height and width, of the images [pixels]; none: the model's own (96 for nano, 224
    for Qwen).
    """
    fit: Literal["letterbox", "stretch", "crop"] | None = None
    """How images are fitted to that size: letterbox with black bars, stretch, or crop to the
    centre square (nano always crops). None is stretch for openvla_oft and letterbox for the
    others, as their authors do.
    """
    test_crop: float = 1.0
    """For openvla_oft: share of the image area, at its centre, that the trained policy sees; 0.9
    after training on random crops.
    """
    text_tokens: int | None = None
    """Tokens of an instruction at most; a longer instruction is refused. None is 200 for pi05,
    whose prompt holds the state, and 48 for the others.
    """
    prompt: str | None = None
    """Text around {instruction}. None is the authors' prompt for openvla_oft and pi05, else the
    instruction and a line feed.
    """
    head_width: int = 256
    """For hf: width of the action head."""
    head_layers: int = 2
    """For hf: blocks of a flow head."""
    train_vision: Train = "lora"
    """How the vision tower and its projection into the language model are trained."""
    train_language: Train = "lora"
    """How the language model is trained."""
    train_expert: Train = "full"
    """For pi0 and pi05: how the flow expert is trained. The small layers for state and actions,
    and hf's action head, are always trained in full.
    """
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Adapters of the parts with lora."""

    def __post_init__(self) -> None:
        if self.kind == "nano":
            self._refuse_what_nano_ignores()
        elif (self.weights is None) == (self.random_weights is None):
            found = "both are" if self.weights else "neither is"
            raise StudentError(
                f"--student.weights, --student.random-weights: {self.kind} needs one of them,"
                f" {found} given"
            )
        if len(self.image_size) > 2 or any(side < 1 for side in self.image_size):
            raise StudentError(
                f"--student.image-size: give one side, or height and width, got {self.image_size}"
            )
        for name in ("text_tokens", "head_width", "head_layers"):
            if (1 if getattr(self, name) is None else getattr(self, name)) < 1:
                raise StudentError(
                    f"--student.{name.replace('_', '-')}: must be at least 1, got"
                    f" {getattr(self, name)}"
                )
        if not 0 < self.test_crop <= 1:
            raise StudentError(
                f"--student.test-crop: must be above 0 and at most 1, got {self.test_crop}"
            )
        if self.kind == "openvla_oft" and self.image_size:
            raise StudentError(
                "--student.image-size: the size of openvla_oft is that of its weights; leave it out"
            )
        if self.prompt is not None and "{instruction}" not in self.prompt:
            raise StudentError(f"--student.prompt: must hold {{instruction}}, got {self.prompt!r}")
        if self.dtype == "bfloat16" and self.kind in PI0_KINDS:
            raise StudentError(
                "--student.dtype bfloat16: pi0's layers for states and actions are trained, and"
                " small updates would be lost in rounding; take float32 weights and --precision"
                " bf16"
            )
        if self.dtype == "bfloat16" and (
            full := [part for part, how in self.training.items() if how == "full"]
        ):
            raise StudentError(
                f"--student.dtype bfloat16: small updates of the {' and the '.join(full)} would be"
                " lost in rounding; train by lora, or take float32 weights and --precision bf16"
            )

    @property
    def training(self) -> dict[str, Train]:
        """How each part of the backbone is trained."""
        parts: dict[str, Train] = {"vision": self.train_vision, "language": self.train_language}
        if self.kind in PI0_KINDS:
            parts["expert"] = self.train_expert
        return {} if self.kind == "nano" else parts

    @property
    def uses_lora(self) -> bool:
        """Whether any part is trained with adapters."""
        return "lora" in self.training.values()

    def check_alignment(self, layers: Sequence[int]) -> None:
        """Refuse settings with which Spatial Forcing would train nothing.

        Needs neither the model nor data.

        Args:
            layers: blocks after which the student's tokens are read.

        Raises:
            StudentError: nothing below the deepest of them is trained.
        """
        if self.kind == "nano" or self.train_vision != "frozen":
            return
        if self.train_language == "frozen" or max(layers) == 0:
            below = (
                "the language model is frozen"
                if self.train_language == "frozen"
                else "layer 0 reads what enters its first block"
            )
            raise StudentError(
                f"--student.train-vision frozen: {below} and so Spatial Forcing would train"
                " nothing; take lora or full for the vision tower, or --teacher none"
            )

    def _refuse_what_nano_ignores(self) -> None:
        for each in fields(self):
            default = LoraSettings() if each.name == "lora" else each.default
            if (
                each.name not in ("kind", "weights", "image_size")
                and getattr(self, each.name) != default
            ):
                raise StudentError(
                    f"--student.{each.name.replace('_', '-')}: nano has no such setting; give"
                    " --student.kind hf or pi0"
                )
