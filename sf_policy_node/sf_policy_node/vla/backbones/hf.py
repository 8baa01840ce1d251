"""``hf``: any transformers image-text-to-text model with an action head of this package.

One sequence of fixed layout: images, instruction, a slot for the robot's state, and a slot for each
step of the chunk. Learned embeddings fill the slots; their hidden states after the last block go to
the head (parallel decoding, as in OpenVLA-OFT, arXiv 2502.19645).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sf_policy_node.vla.backbones.pixels import Order, flat_patches, pixels_of
from sf_policy_node.vla.backbones.pretrained import (
    BackboneError,
    build,
    folder_config,
    image_statistics,
    load_pretrained,
    plain_config,
    transformers_config,
)
from sf_policy_node.vla.backbones.visual_layout import VisualLayout
from sf_policy_node.vla.backbones.words import PADDING, Words, load_tokenizer
from sf_policy_node.vla.flow import FlowHead
from sf_policy_node.vla.preprocessing import Fit

PROVEN = (
    "smolvlm",
    "idefics3",
    "paligemma",
    "gemma3",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "llava",
)
"""Families with tests; others are tried with one image when a model is made."""
_SLOT = 0  # any id but the image token's: the embedding is replaced


@dataclass(frozen=True)
class HfConfig:
    """Everything needed to build the model again; made by :meth:`HfVla.create`."""

    cameras: int
    state_size: int
    action_size: int
    horizon: int
    backbone: dict[str, Any]
    """The transformers configuration, plain values."""
    image_size: tuple[int, int]  # height, width
    grid: tuple[int, int]  # visual tokens of one image: rows, columns
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: Order
    before: tuple[int, ...] = ()  # token ids before each image
    after: tuple[int, ...] = ()
    fit: Fit = "letterbox"
    text_tokens: int = 48
    prompt: str = "{instruction}\n"
    head: Literal["regression", "flow"] = "regression"
    head_width: int = 256
    head_layers: int = 2  # of a flow head
    head_heads: int = 4
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the backbone; the head is float32
    text_size: int = 0  # no sentence embedding

    def __post_init__(self) -> None:
        for name in ("image_size", "grid", "mean", "std", "before", "after"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        if self.head not in ("regression", "flow"):
            raise BackboneError(f"head {self.head!r} is not known; it is regression or flow")
        if self.dtype not in ("float32", "bfloat16"):
            raise BackboneError(f"dtype {self.dtype!r} is not known; it is float32 or bfloat16")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for ``config.json``."""
        return asdict(self)


class HfVla(nn.Module):
    """Maps images, instruction and robot state to a chunk of normalised actions.

    Args:
        config: sizes and settings.
        words: the backbone's tokenizer.
        backbone: a model of ``config.backbone`` with its weights; None builds one.
        blank: build without initialising, for weights that are loaded next.

    Raises:
        BackboneError: the model lacks something that the adapter needs.
    """

    kind = "hf"
    backbone: Any  # of transformers
    _mean: Tensor  # buffers
    _std: Tensor
    _image_ids: Tensor

    def __init__(
        self,
        config: HfConfig,
        words: Words,
        backbone: nn.Module | None = None,
        *,
        blank: bool = False,
    ) -> None:
        super().__init__()
        from transformers import AutoModelForImageTextToText

        self.config, self.words = config, words
        full_model: Any = backbone or build(
            AutoModelForImageTextToText,
            transformers_config(config.backbone),
            config.dtype,
            blank=blank,
        )
        # Without the language-model head, which nothing here trains or reads.
        self.backbone = getattr(full_model, "model", full_model)
        self._image_token = full_model.config.image_token_id
        self._family = full_model.config.model_type
        decoder = full_model.get_decoder() if hasattr(full_model, "get_decoder") else None
        if not hasattr(decoder, "layers"):
            raise BackboneError(
                f"backbone {self._family}: its decoder has no list of layers; this family is not"
                " supported"
            )
        self.language = "backbone." + next(
            name for name, module in self.backbone.named_modules() if module is decoder
        )
        width = full_model.config.get_text_config().hidden_size
        self.state = nn.Linear(config.state_size, width)
        self.query = nn.Parameter(torch.randn(config.horizon, width) * 0.02)
        self.read = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.head_width))
        self.head: nn.Module
        if config.head == "flow":
            self.head = FlowHead(
                config.head_width,
                config.head_heads,
                config.head_layers,
                config.horizon,
                config.action_size,
            )
        else:
            self.head = nn.Sequential(nn.GELU(), nn.Linear(config.head_width, config.action_size))
        self.register_buffer("_mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(config.std).view(3, 1, 1), persistent=False)
        tokens = [
            *config.before,
            *[self._image_token] * (config.grid[0] * config.grid[1]),
            *config.after,
        ]
        self.register_buffer("_image_ids", torch.tensor(tokens * config.cameras), persistent=False)

    @classmethod
    def create(
        cls,
        backbone: Any,
        tokenizer: Any,
        *,
        image_size: tuple[int, int] | None = None,
        **sizes: Any,
    ) -> HfVla:
        """Make a new model on a transformers model or configuration.

        A configuration gives random weights.

        Args:
            tokenizer: the backbone's.
            image_size: (height, width) where the family takes any size; None takes its own.
            sizes: fields of :class:`HfConfig`; ``cameras``, ``state_size``, ``action_size`` and
                ``horizon`` are needed.

        Raises:
            BackboneError: a setting does not fit the backbone.
        """
        full_model: Any = backbone if isinstance(backbone, nn.Module) else None
        their = full_model.config if full_model is not None else backbone
        try:
            pixels = pixels_of(their, image_size)
        except (AttributeError, ValueError) as error:
            raise BackboneError(f"backbone {their.model_type}: {error}") from None
        settings: dict[str, Any] = {
            "backbone": plain_config(their),
            "image_size": pixels.size,
            "grid": pixels.grid,
            "mean": pixels.mean,
            "std": pixels.std,
            "order": pixels.order,
            "before": _ids(pixels.before, tokenizer),
            "after": _ids(pixels.after, tokenizer),
        }
        config = HfConfig(**{**settings, **sizes})
        words = Words(
            tokenizer, config.text_tokens, config.prompt, their.get_text_config().vocab_size
        )
        model = cls(config, words, full_model)
        if their.model_type not in PROVEN and not model.query.is_meta:
            model._try()
        return model

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: str = "float32", **sizes: Any) -> HfVla:
        """Make a new model on pretrained weights and their tokenizer in a local directory.

        Raises:
            BackboneError: the weights cannot be used.
            WordsError: there is no tokenizer.
        """
        from transformers import AutoModelForImageTextToText

        full_model = load_pretrained(AutoModelForImageTextToText, folder, dtype)
        return cls.create(
            full_model,
            load_tokenizer(folder),
            dtype=dtype,
            **{**image_statistics(folder), **sizes},
        )

    @classmethod
    def from_config(cls, folder: str | Path, **sizes: Any) -> HfVla:
        """Make a new model with random weights from a directory with ``config.json`` and tokenizer.

        Raises:
            BackboneError: the configuration cannot be used.
            WordsError: there is no tokenizer.
        """
        config = folder_config(folder)
        if config.model_type == "pi0":
            raise BackboneError(f"{folder}: holds a pi0 model; give kind pi0")
        model = cls.create(config, load_tokenizer(folder), **{**image_statistics(folder), **sizes})
        model.fill_zeros()
        return model

    @property
    def can_mask_cameras(self) -> bool:
        """Whether nothing attends to a missing camera; known of the tested families alone."""
        return self._family in PROVEN

    def fill_zeros(self) -> None:
        """Initialise all-zero matrices of the backbone with small random values.

        Gemma3's projector starts at zero, with which the features of all images are equal.
        """
        for parameter in self.backbone.parameters():
            if parameter.ndim > 1 and not parameter.is_meta and not parameter.any():
                nn.init.normal_(parameter, std=0.1)

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass: less memory, more time."""
        self.backbone.activation_checkpointing_enable()

    def visual_layout(self) -> VisualLayout:
        """Return where the visual tokens are."""
        rest = self.config.text_tokens + 1 + self.config.horizon
        mask = torch.cat(
            [
                self._image_ids == self._image_token,
                self._image_ids.new_zeros(rest, dtype=torch.bool),
            ]
        )
        decoder = self.backbone.get_decoder()
        return VisualLayout(
            decoder.layers, mask, self.config.grid, self.config.cameras, self.query.shape[1]
        )

    def forward(
        self,
        images: Tensor,
        state: Tensor,
        text: Tensor,
        *,
        rows: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Return chunks (B, horizon, action_size) of a regression head.

        Arguments as for :meth:`context`.
        """
        return self.head(self.context(images, state, text, rows=rows, present=present))

    def context(
        self,
        images: Tensor,
        state: Tensor,
        text: Tensor,
        *,
        rows: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Run the model up to its head.

        Args:
            images: (F, V, 3, H, W) uint8 or float in [0, 255], prepared with ``config.image_size``
                and ``config.fit``.
            state: (B, state_size), normalised.
            text: (B, text_tokens) from ``words``.
            rows: (B,) index into ``images`` for each row of ``state``; None when F equals B.
            present: (B, V), False where a camera is missing: nothing attends to its tokens. None:
                no camera is missing.

        Returns:
            Action tokens (B, horizon, head_width) for the head.
        """
        images = images if rows is None else images[rows]
        slots = torch.cat([self.state(state)[:, None], self.query.expand(len(state), -1, -1)], 1)
        inputs = self._sequence(text, present)
        inputs.update(self._pixels((images.float() / 255.0 - self._mean) / self._std))

        def fill_slots(_module: nn.Module, _arguments: tuple, embedded: Tensor) -> Tensor:
            return torch.cat([embedded[:, : -slots.shape[1]], slots.to(embedded.dtype)], 1)

        hook = self.backbone.get_input_embeddings().register_forward_hook(fill_slots)
        try:
            hidden = self.backbone(**inputs, use_cache=False).last_hidden_state
        finally:
            hook.remove()
        return self.read(hidden[:, -self.config.horizon :].float())

    @torch.no_grad()
    def _try(self) -> None:
        """Run the backbone once.

        Raises:
            BackboneError: the family takes its images otherwise than LLaVA.
        """
        images = torch.zeros(1, self.config.cameras, 3, *self.config.image_size)
        try:
            self.context(images, torch.zeros(1, self.config.state_size), self.words.encode(["try"]))
        except Exception as error:  # any error of an untested family
            reason = " ".join(str(error).split())[:150]
            raise BackboneError(
                f"backbone {self._family}: not supported ({reason}); {', '.join(PROVEN)} are, and"
                " similar families"
            ) from None

    def _sequence(self, text: Tensor, present: Tensor | None) -> dict[str, Tensor]:
        batch, slots = len(text), 1 + self.config.horizon
        image_ids = self._image_ids.expand(batch, -1)
        ids = torch.cat([image_ids, text.clamp(min=0), text.new_full((batch, slots), _SLOT)], 1)
        image_mask = torch.ones_like(image_ids)
        if present is not None:
            image_mask = present.to(image_mask.dtype).repeat_interleave(
                image_ids.shape[1] // self.config.cameras, 1
            )
        mask = torch.cat([image_mask, (text != PADDING).long(), text.new_ones(batch, slots)], 1)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._family == "paligemma":
            # Images and instruction attend to each other; slots attend to what is before them.
            inputs["token_type_ids"] = torch.zeros_like(ids)
            inputs["token_type_ids"][:, -slots:] = 1
        elif self._family == "gemma3":
            inputs["token_type_ids"] = (ids == self._image_token).long()
        elif self.config.order == "patches":
            inputs["mm_token_type_ids"] = (ids == self._image_token).int()
        return inputs

    def _pixels(self, images: Tensor) -> dict[str, Tensor]:
        images = images.to(next(self.backbone.parameters()).dtype)
        if self.config.order == "views":
            return {"pixel_values": images}
        flat = images.flatten(0, 1)
        if self.config.order == "flat":
            return {"pixel_values": flat}
        vision = self.backbone.config.vision_config
        patch, merge = vision.patch_size, vision.spatial_merge_size
        grid = torch.tensor(
            [[1, flat.shape[2] // patch, flat.shape[3] // patch]], device=flat.device
        )
        values = flat_patches(flat, patch, merge, vision.temporal_patch_size)
        return {"pixel_values": values, "image_grid_thw": grid.expand(len(flat), -1)}


def load_hf(sizes: dict[str, Any], folder: Path) -> HfVla:
    """Build the model of a checkpoint; its weights are loaded next."""
    config = HfConfig(**sizes)
    vocabulary = transformers_config(config.backbone).get_text_config().vocab_size
    return HfVla(
        config, Words.load(folder, config.text_tokens, config.prompt, vocabulary), blank=True
    )


def _ids(tokens: Sequence[str | int], tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of the tokens around an image.

    Words that the tokenizer does not know are left out.
    """
    known = tokenizer.get_vocab()
    named = [known.get(token) if isinstance(token, str) else token for token in tokens]
    return tuple(token for token in named if token is not None)
