"""``pi0`` (arXiv 2410.24164) and ``pi0.5`` on transformers' implementation.

PaliGemma reads images and instruction, the prefix, once; its keys and values serve every step of
the flow expert. Time in this package is ``tau`` from 0 (noise) to 1 (action); transformers' time
runs the other way, see ``real_time_chunking.ascending``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sf_policy_node.vla.backbones.pi0_published import PublishedPi0, fill, published_values
from sf_policy_node.vla.backbones.pi05 import PROMPT as PI05_PROMPT
from sf_policy_node.vla.backbones.pi05 import StateWords, make_adaptive, velocity
from sf_policy_node.vla.backbones.pixels import pixels_of
from sf_policy_node.vla.backbones.pretrained import (
    BackboneError,
    build,
    folder_config,
    load_pretrained,
    plain_config,
    transformers_config,
)
from sf_policy_node.vla.backbones.visual_layout import VisualLayout
from sf_policy_node.vla.backbones.words import PADDING, Words, load_tokenizer
from sf_policy_node.vla.preprocessing import Fit
from sf_policy_node.vla.real_time_chunking import ascending


@dataclass(frozen=True)
class Pi0Config:
    """Everything needed to build the model again."""

    cameras: int
    state_size: int
    action_size: int
    horizon: int
    backbone: dict[str, Any]
    """The transformers PI0 configuration, plain values."""
    fit: Fit = "letterbox"
    text_tokens: int = 48
    prompt: str = "{instruction}\n"
    dtype: Literal["float32", "bfloat16"] = "float32"
    text_size: int = 0  # no sentence embedding

    def __post_init__(self) -> None:
        for ours, theirs in (("state_size", "max_state_dim"), ("action_size", "max_action_dim")):
            if getattr(self, ours) > self.backbone[theirs]:
                raise BackboneError(
                    f"pi0: {ours} {getattr(self, ours)} is more than the model's {theirs}"
                    f" {self.backbone[theirs]}"
                )
        if self.horizon != self.backbone["chunk_size"]:
            size = self.backbone["chunk_size"]
            raise BackboneError(
                f"pi0: the contract's horizon is {self.horizon}, the model's chunk_size {size};"
                " give them the same"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise BackboneError(f"dtype {self.dtype!r} is not known; it is float32 or bfloat16")

    @property
    def head(self) -> Literal["flow"]:
        """Always a flow."""
        return "flow"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        side = self.backbone["vlm_config"]["vision_config"]["image_size"]
        return (side, side)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for ``config.json``."""
        return asdict(self)


@dataclass
class Prefix:
    """Input of the flow expert: keys and values of images and instruction, and the robot's state.

    Attributes:
        mask: (B, T), 1 where a token is attended to.
        state: (B, max_state_dim), padded.
    """

    cache: Any
    mask: Tensor
    state: Tensor


class Pi0(nn.Module):
    """Maps images, instruction and robot state to a chunk of normalised actions.

    Args:
        config: sizes and settings.
        words: PaliGemma's tokenizer.
        backbone: transformers' model with its weights; None builds one.
        blank: build without initialising, for weights that are loaded next.
    """

    kind = "pi0"
    can_mask_cameras = True
    language = "backbone.model.vlm.language_model"  # name of the language model
    keeps_given = False  # all steps have one time; only guidance ties a chunk to the previous one
    words_class: type[Words] = Words
    backbone: Any  # of transformers
    _image_ids: Tensor  # buffer

    def __init__(
        self,
        config: Pi0Config,
        words: Words,
        backbone: nn.Module | None = None,
        *,
        blank: bool = False,
    ) -> None:
        super().__init__()
        from transformers import PI0ForConditionalGeneration

        self.config, self.words = config, words
        self.backbone = backbone or self._adapted(
            build(
                PI0ForConditionalGeneration,
                transformers_config(config.backbone),
                config.dtype,
                blank=blank,
            )
        )
        self._image_token = self.backbone.config.vlm_config.image_token_id
        self._pixels = pixels_of(self.backbone.config.vlm_config)
        count = self._pixels.grid[0] * self._pixels.grid[1] * config.cameras
        self.register_buffer(
            "_image_ids", torch.full((count,), self._image_token), persistent=False
        )

    @classmethod
    def create(cls, backbone: Any, tokenizer: Any, **sizes: Any) -> Self:
        """Make a model on transformers' PI0 model, or with random weights on a PI0 configuration.

        Args:
            tokenizer: PaliGemma's.
            sizes: fields of :class:`Pi0Config`; ``cameras``, ``state_size``, ``action_size`` and
                ``horizon`` are needed.

        Raises:
            BackboneError: a setting does not fit the model.
        """
        full_model: Any = backbone if isinstance(backbone, nn.Module) else None
        their = full_model.config if full_model is not None else backbone
        config = Pi0Config(**{"backbone": plain_config(their), **sizes})
        words = cls.words_class(
            tokenizer, config.text_tokens, config.prompt, their.vlm_config.text_config.vocab_size
        )
        return cls(config, words, full_model)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: str = "float32", **sizes: Any) -> Self:
        """Make a model on pretrained weights and their tokenizer in a local directory.

        Layouts: transformers' own, openpi's PyTorch and LeRobot's (see ``pi0_published``).

        Raises:
            BackboneError: the weights cannot be used.
            WordsError: there is no tokenizer.
        """
        if published_values(folder) is not None:
            return cls.from_published(PublishedPi0.read(folder), dtype=dtype, **sizes)
        return cls._from_transformers(folder, dtype, sizes)

    @classmethod
    def from_published(
        cls, published: PublishedPi0, *, tokenizer: Any = None, dtype: str = "float32", **sizes: Any
    ) -> Self:
        """Make a model on weights in openpi's or LeRobot's layout.

        Args:
            tokenizer: PaliGemma's; None reads it from the directory.

        Raises:
            BackboneError: the weights are of the other version, missing or left over.
            WordsError: there is no tokenizer.
        """
        if published.is_pi05 != (cls.kind == "pi05"):
            found = "pi05" if published.is_pi05 else "pi0"
            raise BackboneError(
                f"{published.folder}: holds the weights of {found}; give --student.kind {found}"
            )
        backbone = published.config(sizes["horizon"])
        if tokenizer is None:
            tokenizer = load_tokenizer(published.folder)
        config = Pi0Config(**{"backbone": backbone, "dtype": dtype, **sizes})
        words = cls.words_class(
            tokenizer,
            config.text_tokens,
            config.prompt,
            backbone["vlm_config"]["text_config"]["vocab_size"],
        )
        model = cls(config, words, blank=True)
        fill(model, published)
        return model

    @classmethod
    def _from_transformers(cls, folder: str | Path, dtype: str, sizes: dict[str, Any]) -> Self:
        from transformers import PI0ForConditionalGeneration

        full_model = load_pretrained(PI0ForConditionalGeneration, folder, dtype, "pi0")
        return cls.create(full_model, load_tokenizer(folder), dtype=dtype, **sizes)

    @classmethod
    def from_config(cls, folder: str | Path, **sizes: Any) -> Self:
        """Make a model with random weights from ``config.json`` and the tokenizer in a directory.

        Raises:
            BackboneError: the configuration is missing or of another model.
            WordsError: there is no tokenizer.
        """
        return cls.create(folder_config(folder, "pi0"), load_tokenizer(folder), **sizes)

    @property
    def head(self) -> Pi0:
        """The model itself, which samples a chunk from a context."""
        return self

    @property
    def columns(self) -> int:
        """Columns of the flow; those beyond ``action_size`` are padding."""
        return self.backbone.config.max_action_dim

    @property
    def steps(self) -> int:
        """Euler steps of the sampling."""
        return self.backbone.config.num_inference_steps

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass: less memory, more time.

        Applies to the vision tower, and of the transformer blocks only to the MLPs, which hold most
        of the activations. If complete blocks were checkpointed, transformers would drop the
        prefix's keys and values.
        """
        model = self.backbone.model
        model.vlm.vision_tower.activation_checkpointing_enable()
        for block in (*model.vlm.language_model.layers, *model.dit.layers):
            if not isinstance(block.mlp.forward, partial):
                block.mlp.forward = partial(checkpoint, block.mlp.forward, use_reentrant=False)

    def visual_layout(self) -> VisualLayout:
        """Return where the visual tokens are."""
        language = self.backbone.model.vlm.language_model
        mask = torch.cat(
            [
                torch.ones_like(self._image_ids, dtype=torch.bool),
                self._image_ids.new_zeros(self.config.text_tokens).bool(),
            ]
        )
        return VisualLayout(
            language.layers,
            mask,
            self._pixels.grid,
            self.config.cameras,
            language.config.hidden_size,
        )

    def context(
        self,
        images: Tensor,
        state: Tensor,
        text: Tensor,
        *,
        rows: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Prefix:
        """Run the prefix; arguments as for ``HfVla.context``."""
        images = images if rows is None else images[rows]
        text = self._with_state(text, state)
        dtype = next(self.backbone.parameters()).dtype
        pixels = images.float().div(127.5).sub(1.0).to(dtype)
        ids = torch.cat([self._image_ids.expand(len(text), -1), text.clamp(min=0)], 1)
        image_mask = torch.ones_like(ids[:, : len(self._image_ids)])
        if present is not None:
            image_mask = present.to(image_mask.dtype).repeat_interleave(
                len(self._image_ids) // self.config.cameras, 1
            )
        mask = torch.cat([image_mask, (text != PADDING).long()], 1)
        model = self.backbone.model
        if self.training and any(
            getattr(part, "gradient_checkpointing", False)
            for part in (*model.vlm.language_model.layers, *model.dit.layers)
        ):
            raise BackboneError(
                "pi0: gradient checkpointing would drop the prefix's keys and values; call"
                " checkpoint_gradients of the model"
            )
        # A missing camera is masked, not left out, so that sequences keep one layout.
        embedded = model.embed_prefix(
            ids, pixels, torch.ones(images.shape[:2], dtype=torch.bool, device=ids.device)
        )
        cache = model.vlm(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            token_type_ids=torch.zeros_like(ids),  # bidirectional attention in the prefix
            use_cache=True,
        ).past_key_values
        return Prefix(cache, mask, self._pad(state, self.backbone.config.max_state_dim).to(dtype))

    def velocity(self, context: Prefix, noisy: Tensor, tau: float, given: int = 0) -> Tensor:
        """Return the velocity (B, H, columns).

        Args:
            tau: flow time, one for all chunks.
            given: must be 0: all steps of a chunk have one time.
        """
        if given:
            raise ValueError("pi0: all steps of a chunk have one flow time, so none can be given")
        return ascending(lambda x, t: self._their_velocity(context, x, t))(noisy, tau)

    def flow_loss(
        self,
        context: Prefix,
        chunks: Tensor,
        column_weights: Tensor | None = None,
        *,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the mean squared error of the velocity.

        Over all columns, padding included, as in openpi.

        ``mean ||(epsilon - a) - u(x_t, t)||^2`` with ``x_t = t epsilon + (1 - t) a``, noise epsilon
        and padded actions a (B, H, columns), t = 1 at noise, and the expert's velocity u.

        Args:
            chunks: normalised actions (B, H, action_size).
            column_weights: (action_size,) weights of the squared errors; padding weighs 1. None
                weighs all columns by 1.
            noise: (B, H, columns); None draws it.
            time: (B,) in transformers' convention (1 is noise); None draws from the model's beta
                distribution.
            generator: on the processor, so that every device draws the same numbers.
        """
        config, actions = self.backbone.config, self._pad(chunks, self.columns)
        if noise is None or time is None:
            drawn, moment = self.draw_noise(len(actions), generator)
            noise = drawn.to(actions) if noise is None else noise
            time = moment.to(actions.device) if time is None else time
        blend = time[:, None, None]
        predicted = self._their_velocity(
            context, blend * noise + (1 - blend) * actions, time
        ).float()
        error = (noise - actions - predicted).square()
        if column_weights is not None:
            padding = config.max_action_dim - len(column_weights)
            error = error * functional.pad(column_weights, (0, padding), value=1.0)
        return error.mean()

    def draw_noise(self, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw noise (count, H, columns) and times (count,).

        On the processor, so that every device gets the same numbers.
        """
        noise = torch.randn(count, self.config.horizon, self.columns, generator=generator)
        return noise, self._draw_time(count, generator)

    def _their_velocity(self, context: Prefix, noisy: Tensor, time: float | Tensor) -> Tensor:
        """Return the velocity in transformers' convention.

        The cache of the prefix stays unchanged.
        """
        length = context.cache.get_seq_length()
        if not isinstance(time, Tensor):
            time = torch.full((len(noisy),), time, device=noisy.device)
        try:
            return self._expert(context, noisy.to(context.state.dtype), time).to(noisy.dtype)
        finally:
            context.cache.crop(length - context.cache.get_seq_length())

    def _expert(self, context: Prefix, noisy: Tensor, time: Tensor) -> Tensor:
        return self.backbone(
            state=context.state,
            noise=noisy,
            timestep=time,
            attention_mask=context.mask,
            past_key_values=context.cache,
        ).logits

    def _with_state(self, text: Tensor, state: Tensor) -> Tensor:
        """Return the text of the prefix; pi0's state enters the expert instead."""
        del state
        return text

    @staticmethod
    def _adapted(backbone: nn.Module) -> nn.Module:
        return backbone

    def _draw_time(self, count: int, generator: torch.Generator | None) -> Tensor:
        config = self.backbone.config
        if config.time_sampling_beta_beta != 1.0:
            raise BackboneError(
                f"pi0: time_sampling_beta_beta is {config.time_sampling_beta_beta}, only 1.0 is"
                " supported"
            )
        # Inverse of the cumulative distribution of Beta(a, 1), which is x^a.
        drawn = torch.rand(count, generator=generator) ** (1.0 / config.time_sampling_beta_alpha)
        return drawn * config.time_sampling_scale + config.time_sampling_offset

    @staticmethod
    def _pad(values: Tensor, columns: int) -> Tensor:
        return functional.pad(values, (0, columns - values.shape[-1]))


class Pi05(Pi0):
    """pi0.5: the state is part of the prompt, and the flow time enters the expert's norms.

    States should be normalised by quantiles: the prompt has 256 bins for -1 to 1.
    """

    kind = "pi05"
    words_class = StateWords
    words: StateWords

    @classmethod
    def create(cls, backbone: Any, tokenizer: Any, **sizes: Any) -> Self:
        """Make a model with random weights on a PI0 configuration of transformers.

        See :meth:`Pi0.create`.
        """
        return super().create(
            backbone, tokenizer, **{"text_tokens": 200, "prompt": PI05_PROMPT, **sizes}
        )

    @classmethod
    def from_published(cls, published: PublishedPi0, **sizes: Any) -> Self:
        """Make a model on openpi's or LeRobot's weights; see :meth:`Pi0.from_published`."""
        return super().from_published(
            published, **{"text_tokens": 200, "prompt": PI05_PROMPT, **sizes}
        )

    @classmethod
    def _from_transformers(cls, folder: str | Path, dtype: str, sizes: dict[str, Any]) -> Self:
        raise BackboneError(
            f"{folder}: transformers has no pi0.5; give a directory in openpi's or LeRobot's layout"
        )

    def _expert(self, context: Prefix, noisy: Tensor, time: Tensor) -> Tensor:
        return velocity(self.backbone, context.cache, context.mask, noisy, time)

    def _with_state(self, text: Tensor, state: Tensor) -> Tensor:
        return self.words.with_state(text, state)

    @staticmethod
    def _adapted(backbone: nn.Module) -> nn.Module:
        make_adaptive(backbone)
        return backbone


def load_pi0(sizes: dict[str, Any], folder: Path, kind: str = "pi0") -> Pi0:
    """Build the model of a checkpoint of kind ``pi0`` or ``pi05``; its weights are loaded next."""
    config, model = Pi0Config(**sizes), Pi05 if kind == "pi05" else Pi0
    vocabulary = transformers_config(config.backbone).vlm_config.text_config.vocab_size
    words = model.words_class.load(folder, config.text_tokens, config.prompt, vocabulary)
    return model(config, words, blank=True)
