"""OpenVLA-OFT (arXiv 2502.19645): one sequence, a chunk in one forward pass.

Sequence: ``[BOS] [patches, camera by camera] [state] [instruction] [slots] [stop]``. A slot is a
zero embedding, one for each value of the chunk. Attention is bidirectional over the whole sequence,
as in the authors' fork of transformers; padding is not attended to and does not count as a
position. For each slot the head reads the hidden state one position before it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sf_policy_node.vla.backbones.openvla_oft.published import PublishedWeights, mapped
from sf_policy_node.vla.backbones.openvla_oft.towers import (
    ActionHead,
    PatchProjector,
    StateProjector,
    Tower,
)
from sf_policy_node.vla.backbones.pretrained import (
    BackboneError,
    build,
    copy_published,
    read_config,
    transformers_config,
)
from sf_policy_node.vla.backbones.visual_layout import VisualLayout
from sf_policy_node.vla.backbones.words import PADDING, Words, load_tokenizer
from sf_policy_node.vla.preprocessing import Fit

PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
_STOP = 2  # </s>
_LLAMA_SUFFIX = (29871,)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TOWERS = {
    "dinosiglip-vit-so-224px": {
        "dino": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        },
        # timm's SigLIP has the exact GELU, transformers' default is the approximation by tanh.
        "siglip": {
            "hidden_size": 1152,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "intermediate_size": 4304,
            "image_size": 224,
            "patch_size": 14,
            "hidden_act": "gelu",
        },
    }
}


@dataclass(frozen=True)
class OftConfig:
    """Everything needed to build the model again."""

    cameras: int
    state_size: int
    action_size: int
    horizon: int
    dino: dict[str, Any]
    """Values of transformers' Dinov2WithRegistersConfig."""
    siglip: dict[str, Any]
    """Values of transformers' SiglipVisionConfig."""
    language: dict[str, Any]
    """Values of transformers' LlamaConfig."""
    fit: Fit = "stretch"
    crop: float = 0.9
    """Share of the image's area, at its centre, that the model sees outside of training; 1: all
    of it. OFT trains on random crops of 0.9.
    """
    text_tokens: int = 64
    prompt: str = PROMPT
    suffix: tuple[int, ...] = _LLAMA_SUFFIX
    """Token ids after the prompt: Llama's empty word, which training has before the actions."""
    use_state: bool = True
    film: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone; head and state projector are float32."""
    text_size: int = 0  # no sentence embedding

    def __post_init__(self) -> None:
        object.__setattr__(self, "suffix", tuple(self.suffix))
        if self.dtype not in ("float32", "bfloat16"):
            raise BackboneError(f"dtype {self.dtype!r} is not known; it is float32 or bfloat16")
        if not 0 < self.crop <= 1:
            raise BackboneError(f"crop {self.crop}: must be above 0 and at most 1")

    @property
    def head(self) -> Literal["regression"]:
        """Always L1 regression."""
        return "regression"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return (self.dino["image_size"],) * 2

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for ``config.json``."""
        return asdict(self)


class OftWords(Words):
    """Encodes instructions in lower case inside OpenVLA's prompt, with its suffix."""

    def __init__(
        self, tokenizer: Any, length: int, prompt: str, vocabulary: int, suffix: tuple[int, ...]
    ) -> None:
        super().__init__(tokenizer, length, prompt, vocabulary)
        self._suffix = suffix

    def encode(self, instructions: list[str]) -> Tensor:
        """Return token ids (B, length) int64, padded with ``PADDING``; see :meth:`Words.encode`."""
        room = Words(self.tokenizer, self.length - len(self._suffix), self.prompt, self.vocabulary)
        rows = functional.pad(
            room.encode([text.lower() for text in instructions]),
            (0, len(self._suffix)),
            value=PADDING,
        )
        for row in rows:
            count = int((row != PADDING).sum())
            if tuple(row[count - len(self._suffix) : count].tolist()) != self._suffix:
                row[count : count + len(self._suffix)] = torch.tensor(self._suffix)
        return rows


class OpenVlaOft(nn.Module):
    """Maps images, instruction and robot state to a chunk of normalised actions.

    Args:
        config: sizes and settings.
        words: Llama's tokenizer.
        blank: build without initialising, for weights that are loaded next.
    """

    kind = "openvla_oft"
    can_mask_cameras = True
    language = "backbone.language_model"  # name of the language model
    backbone: Any  # holds dino, siglip, projector and language_model
    _dino_mean: Tensor  # buffers
    _dino_std: Tensor
    _siglip_mean: Tensor
    _siglip_std: Tensor

    def __init__(self, config: OftConfig, words: Words, *, blank: bool = False) -> None:
        super().__init__()
        from transformers import Dinov2WithRegistersConfig, LlamaModel, SiglipVisionConfig

        self.config, self.words = config, words
        dino, siglip = Dinov2WithRegistersConfig(**config.dino), SiglipVisionConfig(**config.siglip)
        llama = transformers_config(
            {"model_type": "llama", **config.language, "attn_implementation": "sdpa"}
        )
        width, dtype = llama.hidden_size, getattr(torch, config.dtype)
        self.backbone = nn.Module()
        film = width if config.film else 0
        self.backbone.dino, self.backbone.siglip = (
            Tower(dino, film).to(dtype),
            Tower(siglip, film).to(dtype),
        )
        self.backbone.projector = PatchProjector(dino.hidden_size + siglip.hidden_size, width).to(
            dtype
        )
        self.backbone.language_model = build(LlamaModel, llama, config.dtype, blank=blank)
        self.proprio = StateProjector(config.state_size, width) if config.use_state else None
        self.head = ActionHead(width, config.action_size)
        self._width = width
        for name, (mean, std) in {"dino": _IMAGENET, "siglip": ((0.5,) * 3, (0.5,) * 3)}.items():
            self.register_buffer(
                f"_{name}_mean", torch.tensor(mean).view(3, 1, 1), persistent=False
            )
            self.register_buffer(f"_{name}_std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @classmethod
    def create(cls, config: Any, tokenizer: Any, **sizes: Any) -> OpenVlaOft:
        """Build a model with random weights.

        Args:
            config: values of a published ``config.json`` (``vision_backbone_id`` and
                ``text_config``), or of one of this package (``dino``, ``siglip``, ``language``).
            tokenizer: Llama's.
            sizes: fields of :class:`OftConfig`; ``cameras``, ``state_size``, ``action_size`` and
                ``horizon`` are needed.
        """
        full = _config(config, sizes)
        return cls(full, _words(tokenizer, full))

    @classmethod
    def from_config(cls, folder: str | Path, **sizes: Any) -> OpenVlaOft:
        """Build a model with random weights from a directory with ``config.json`` and tokenizer.

        Raises:
            BackboneError: the configuration is missing or of another model.
            WordsError: there is no tokenizer.
        """
        return cls.create(_read_config(folder), load_tokenizer(folder), **sizes)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: str = "float32", **sizes: Any
    ) -> OpenVlaOft:
        """Make a model on the published weights of openvla-7b or OpenVLA-OFT; see ``published``.

        Head and state projector start from random weights where the directory has none, as OFT
        starts them.

        Args:
            folder: local directory of the weights and the tokenizer.

        Raises:
            BackboneError: weights are missing, left over or of another size; the message lists
                them.
            WordsError: there is no tokenizer.
        """
        published = PublishedWeights(folder)
        config = _config(_read_config(folder), {**sizes, "dtype": dtype, "film": published.film})
        model = cls(
            config,
            _words(load_tokenizer(folder), config),
            blank=True,
        )
        absent: list[nn.Module] = [] if published.head else [model.head]
        if model.proprio is not None and not published.proprio:
            absent.append(model.proprio)
        for module in absent:
            for layer in module.modules():
                reset = getattr(layer, "reset_parameters", None)
                if reset is not None:
                    reset()
        model._load(published)
        return model

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass: less memory, more time.

        Applies to the blocks of towers and language model; with FiLM not to those of the towers.
        """
        for block in (
            *self.backbone.dino.blocks,
            *self.backbone.siglip.blocks,
            *self.backbone.language_model.layers,
        ):
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def visual_layout(self) -> VisualLayout:
        """Return where the visual tokens are."""
        config, grid = self.config, self.backbone.dino.grid
        patches, rest = (
            grid[0] * grid[1] * config.cameras,
            config.text_tokens + config.action_size * config.horizon,
        )
        mask = torch.zeros(1 + patches + config.use_state + rest, dtype=torch.bool)
        mask[1 : 1 + patches] = True
        return VisualLayout(
            self.backbone.language_model.layers, mask, grid, config.cameras, self._width
        )

    def forward(
        self, images: Tensor, state: Tensor, text: Tensor, *, rows: Tensor | None = None
    ) -> Tensor:
        """Return chunks (B, horizon, action_size); arguments as for :meth:`context`."""
        return self.head(self.context(images, state, text, rows=rows))

    def context(
        self,
        images: Tensor,
        state: Tensor,
        text: Tensor,
        *,
        rows: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Run the model up to its head; arguments as for :meth:`HfVla.context`.

        Returns:
            Hidden states (B, horizon * action_size, width) one position before the slots, float32.
        """
        images = images if rows is None else images[rows]
        config, language = self.config, self.backbone.language_model
        words = language.embed_tokens(text.clamp(min=0))
        is_word = text != PADDING
        stop = language.embed_tokens(text.new_full((len(text), 1), _STOP))
        patches = self._patches(
            images, self._instruction(words, is_word, stop) if config.film else None
        )
        dtype = patches.dtype
        parts = [words[:, :1], patches]
        masks = [is_word[:, :1], is_word.new_ones(patches.shape[:2])]
        if present is not None:
            masks[1] = present.repeat_interleave(patches.shape[1] // config.cameras, 1)
        if self.proprio is not None:
            parts.append(self.proprio(state.to(self.proprio.fc1.weight.dtype))[:, None].to(dtype))
            masks.append(is_word.new_ones(len(text), 1))
        # Padding comes before the words, so that the last word is next to the first slot in every
        # row.
        order = torch.argsort(is_word[:, 1:].int(), dim=1, stable=True)
        slots = config.horizon * config.action_size
        parts += [
            words[:, 1:].gather(1, order[..., None].expand(-1, -1, self._width)),
            words.new_zeros(len(text), slots, self._width),
            stop,
        ]
        masks += [is_word[:, 1:].gather(1, order), is_word.new_ones(len(text), slots + 1)]
        embedded, mask = torch.cat([part.to(dtype) for part in parts], 1), torch.cat(masks, 1)
        hidden = language(
            inputs_embeds=embedded,
            # (B, 1, T, T): every token attends to every token but padding.
            attention_mask=mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        return hidden[:, -slots - 2 : -2].float()

    def _patches(self, images: Tensor, instruction: Tensor | None) -> Tensor:
        """Return projected patches (B, V * patches, width), camera by camera."""
        views = images.shape[1]
        pixels = images.flatten(0, 1).float() / 255.0
        if not self.training and self.config.crop < 1:
            pixels = centre_crop(pixels, self.config.crop)
        dtype = self.backbone.projector.fc1.weight.dtype
        instruction = None if instruction is None else instruction.repeat_interleave(views, 0)
        dino = self.backbone.dino(
            ((pixels - self._dino_mean) / self._dino_std).to(dtype), instruction
        )
        siglip = self.backbone.siglip(
            ((pixels - self._siglip_mean) / self._siglip_std).to(dtype), instruction
        )
        return (
            self.backbone.projector(torch.cat([dino, siglip], -1))
            .unflatten(0, (-1, views))
            .flatten(1, 2)
        )

    @staticmethod
    def _instruction(words: Tensor, is_word: Tensor, stop: Tensor) -> Tensor:
        """Return the mean embedding (B, width) of the words and the stop token."""
        return ((words * is_word[..., None]).sum(1) + stop[:, 0]) / (
            is_word.sum(1, keepdim=True) + 1
        )

    def _load(self, published: PublishedWeights) -> None:
        counts = {
            "dino": len(self.backbone.dino.blocks),
            "siglip": len(self.backbone.siglip.blocks),
        }
        copy_published(
            self,
            published.folder,
            mapped(published, counts),
            published=published,
            optional=[
                name
                for name in self.state_dict()
                if (name.startswith("head.") and not published.head)
                or (name.startswith("proprio.") and not published.proprio)
            ],
        )


def centre_crop(pixels: Tensor, share: float) -> Tensor:
    """Cut out the centre and resize it to the full size, as OFT does at test time.

    Same sampling as TensorFlow's ``crop_and_resize``: the first and last samples lie on the corners
    of the crop.

    Args:
        pixels: (N, 3, H, W).
        share: of the image's area.
    """
    height, width = pixels.shape[-2:]
    side = share**0.5
    # Corners at pixel centres: the first sample lies (1 - side) / 2 * (H - 1) pixels inside.
    grid_y = torch.linspace(-side, side, height, dtype=pixels.dtype, device=pixels.device)
    grid_x = torch.linspace(-side, side, width, dtype=pixels.dtype, device=pixels.device)
    grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), -1)
    return functional.grid_sample(
        pixels, grid.expand(len(pixels), -1, -1, -1), mode="bilinear", align_corners=True
    )


def load_openvla_oft(sizes: dict[str, Any], folder: Path) -> OpenVlaOft:
    """Build the model of a checkpoint; its weights are loaded next."""
    config = OftConfig(**sizes)
    return OpenVlaOft(config, _words(load_tokenizer(folder), config), blank=True)


def _config(values: dict[str, Any], sizes: dict[str, Any]) -> OftConfig:
    if "suffix" not in sizes and values.get("language", values.get("text_config") or {}).get(
        "vocab_size", 32064
    ) <= max(_LLAMA_SUFFIX):
        sizes = {**sizes, "suffix": ()}  # the vocabulary is smaller than Llama's
    if "vision_backbone_id" in values:
        vision = values["vision_backbone_id"]
        if vision not in _TOWERS:
            raise BackboneError(
                f"vision_backbone_id {vision!r}: only {', '.join(_TOWERS)} is supported, which"
                " openvla-7b has"
            )
        values = {
            **_TOWERS[vision],
            "language": {"vocab_size": 32064, **_plain_llama(values.get("text_config") or {})},
        }
    return OftConfig(**{**{key: values[key] for key in ("dino", "siglip", "language")}, **sizes})


def _plain_llama(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a published text_config that LlamaConfig knows."""
    return {
        key: value
        for key, value in values.items()
        if key not in ("model_type", "torch_dtype", "architectures", "_name_or_path")
    }


def _read_config(folder: str | Path) -> dict[str, Any]:
    path, values = read_config(folder, "an OpenVLA model")
    if values.get("model_type") != "openvla" and "dino" not in values:
        raise BackboneError(
            f"{path}: holds a {values.get('model_type')} model, not openvla; give the directory of"
            " openvla-7b or OpenVLA-OFT"
        )
    return values


def _words(tokenizer: Any, config: OftConfig) -> OftWords:
    return OftWords(
        tokenizer,
        config.text_tokens,
        config.prompt,
        config.language.get("vocab_size", 32000),
        config.suffix,
    )
