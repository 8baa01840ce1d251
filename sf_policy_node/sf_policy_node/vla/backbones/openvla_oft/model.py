"""OpenVLA-OFT: images, state and instruction in one sequence, all actions of a chunk in one pass
(arXiv 2502.19645).

Sequence: ``[BOS] [patches, view by view] [state] [instruction] [slots] [stop]``. A slot is an empty
embedding, one for each value of the chunk. Attention is bidirectional over the whole sequence, as
in the authors' fork of transformers; padding is not attended to and does not count as a position.
The head reads, for each slot, the hidden state in front of it.
"""

from __future__ import annotations

import json
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
from sf_policy_node.vla.backbones.places import VisualPlaces
from sf_policy_node.vla.backbones.pretrained import (
    BackboneError,
    build,
    copy_published,
    transformers_config,
)
from sf_policy_node.vla.backbones.words import PADDING, Words
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
    """Of transformers' Dinov2WithRegistersConfig."""
    siglip: dict[str, Any]
    """Of transformers' SiglipVisionConfig."""
    language: dict[str, Any]
    """Of transformers' LlamaConfig."""
    fit: Fit = "stretch"
    crop: float = 0.9
    """Share of the image's area, its centre, that is seen outside of training; 1: all of it. OFT
    trains on random crops of 0.9.
    """
    text_tokens: int = 64
    prompt: str = PROMPT
    suffix: tuple[int, ...] = _LLAMA_SUFFIX
    """Token ids behind the prompt: Llama's empty word, which training sees in front of the
    actions.
    """
    use_state: bool = True
    film: bool = False
    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of the backbone; head and state projector are float32
    )
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
        """Plain values for ``config.json``."""
        return asdict(self)


class OftWords(Words):
    """Instructions in lower case inside OpenVLA's prompt, with the tokens that follow it."""

    def __init__(
        self, tokenizer: Any, length: int, prompt: str, vocabulary: int, suffix: tuple[int, ...]
    ) -> None:
        super().__init__(tokenizer, length, prompt, vocabulary)
        self._suffix = suffix

    def encode(self, instructions: list[str]) -> Tensor:
        """Token ids (B, length) int64, ``PADDING`` behind the text; see :meth:`Words.encode`."""
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
    """Images, instruction and robot state in; a chunk of normalised actions out.

    Args:
        config: sizes and settings.
        words: Llama's tokenizer.
        blank: build without initialising, for weights that are loaded next.
    """

    kind = "openvla_oft"
    language = "backbone.language_model"  # name of the language model

    def __init__(self, config: OftConfig, words: Words, *, blank: bool = False) -> None:
        super().__init__()
        from transformers import Dinov2WithRegistersConfig, LlamaModel, SiglipVisionConfig

        self.config, self.words = config, words
        dino, siglip = Dinov2WithRegistersConfig(**config.dino), SiglipVisionConfig(**config.siglip)
        llama = transformers_config(
            {"model_type": "llama", **config.language, "attn_implementation": "sdpa"}
        )
        width, kind = llama.hidden_size, getattr(torch, config.dtype)
        self.backbone = nn.Module()
        film = width if config.film else 0
        self.backbone.dino, self.backbone.siglip = (
            Tower(dino, film).to(kind),
            Tower(siglip, film).to(kind),
        )
        self.backbone.projector = PatchProjector(dino.hidden_size + siglip.hidden_size, width).to(
            kind
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
                ``text_config``), or of ours (``dino``,
                ``siglip``, ``language``).
            tokenizer: Llama's.
            sizes: fields of :class:`OftConfig`; ``cameras``, ``state_size``, ``action_size`` and
                ``horizon`` are needed.
        """
        full = _config(config, sizes)
        return cls(full, _words(tokenizer, full))

    @classmethod
    def from_config(cls, folder: str | Path, **sizes: Any) -> OpenVlaOft:
        """A new model with random weights, after ``config.json`` and the tokenizer in a local
        directory.

        Raises:
            BackboneError: the configuration is missing or of another model.
            WordsError: there is no tokenizer.
        """
        return cls.create(
            _read_config(folder), Words.load(folder, 1, "{instruction}", 2**31).tokenizer, **sizes
        )

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: str = "float32", **sizes: Any
    ) -> OpenVlaOft:
        """A new model on published weights in a local directory: openvla-7b, or OpenVLA-OFT's; see
        ``published``.

        Head and state projector start from random weights where the directory has none, as OFT
        starts them.

        Raises:
            BackboneError: weights are missing, left over or of another size; the message lists
                them.
            WordsError: there is no tokenizer.
        """
        published = PublishedWeights(folder)
        config = _config(_read_config(folder), {**sizes, "dtype": dtype, "film": published.film})
        model = cls(
            config,
            _words(Words.load(folder, 1, "{instruction}", 2**31).tokenizer, config),
            blank=True,
        )
        for fresh in [model.head] * (not published.head) + [model.proprio] * (
            model.proprio is not None and not published.proprio
        ):
            for module in fresh.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        model._load(published)
        return model

    def checkpoint_gradients(self) -> None:
        """Trade time for memory in training: every block of the towers and of the language model
        (with FiLM not of the towers).
        """
        for block in (
            *self.backbone.dino.blocks,
            *self.backbone.siglip.blocks,
            *self.backbone.language_model.layers,
        ):
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def visual_places(self) -> VisualPlaces:
        """Where the visual tokens are."""
        config, grid = self.config, self.backbone.dino.grid
        patches, rest = (
            grid[0] * grid[1] * config.cameras,
            config.text_tokens + config.action_size * config.horizon,
        )
        mask = torch.zeros(1 + patches + config.use_state + rest, dtype=torch.bool)
        mask[1 : 1 + patches] = True
        return VisualPlaces(
            self.backbone.language_model.layers, mask, grid, config.cameras, self._width
        )

    def forward(
        self, images: Tensor, state: Tensor, text: Tensor, *, rows: Tensor | None = None
    ) -> Tensor:
        """Chunks (B, horizon, action_size); arguments as for :meth:`context`."""
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
        """All of the model but its head.

        Args:
            images: (F, V, 3, H, W) uint8 or float in [0, 255], prepared with ``config.image_size``
                and ``config.fit``.
            state: (B, state_size), normalised.
            text: (B, text_tokens) from ``words``.
            rows: (B,) index into ``images`` for each row of ``state``; None when F equals B.
            present: (B, V), False where a camera is missing: nothing attends to its tokens.

        Returns:
            Hidden states (B, horizon * action_size, width) in front of the slots, float32.
        """
        images = images if rows is None else images[rows]
        config, language = self.config, self.backbone.language_model
        words = language.embed_tokens(text.clamp(min=0))
        spoken = text != PADDING
        stop = language.embed_tokens(text.new_full((len(text), 1), _STOP))
        patches = self._patches(
            images, self._instruction(words, spoken, stop) if config.film else None
        )
        kind = patches.dtype
        parts, seen = [words[:, :1], patches], [spoken[:, :1], spoken.new_ones(patches.shape[:2])]
        if present is not None:
            seen[1] = present.repeat_interleave(patches.shape[1] // config.cameras, 1)
        if self.proprio is not None:
            parts.append(self.proprio(state.to(self.proprio.fc1.weight.dtype))[:, None].to(kind))
            seen.append(spoken.new_ones(len(text), 1))
        # Padding stands in front of the words, so that the last word is next to the first slot in
        # every row.
        order = torch.argsort(spoken[:, 1:].int(), dim=1, stable=True)
        slots = config.horizon * config.action_size
        parts += [
            words[:, 1:].gather(1, order[..., None].expand(-1, -1, self._width)),
            words.new_zeros(len(text), slots, self._width),
            stop,
        ]
        seen += [spoken[:, 1:].gather(1, order), spoken.new_ones(len(text), slots + 1)]
        embedded, mask = torch.cat([part.to(kind) for part in parts], 1), torch.cat(seen, 1)
        hidden = language(
            inputs_embeds=embedded,
            attention_mask=mask[:, None, None, :].expand(
                -1, 1, mask.shape[1], -1
            ),  # (B, 1, T, T): all sees all but padding
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        return hidden[:, -slots - 2 : -2].float()

    def _patches(self, images: Tensor, instruction: Tensor | None) -> Tensor:
        """Projected patches (B, V * patches, width), view by view."""
        views = images.shape[1]
        pixels = images.flatten(0, 1).float() / 255.0
        if not self.training and self.config.crop < 1:
            pixels = centre_crop(pixels, self.config.crop)
        kind = self.backbone.projector.fc1.weight.dtype
        instruction = None if instruction is None else instruction.repeat_interleave(views, 0)
        dino = self.backbone.dino(
            ((pixels - self._dino_mean) / self._dino_std).to(kind), instruction
        )
        siglip = self.backbone.siglip(
            ((pixels - self._siglip_mean) / self._siglip_std).to(kind), instruction
        )
        return (
            self.backbone.projector(torch.cat([dino, siglip], -1))
            .unflatten(0, (-1, views))
            .flatten(1, 2)
        )

    @staticmethod
    def _instruction(words: Tensor, spoken: Tensor, stop: Tensor) -> Tensor:
        """Mean embedding (B, width) of what is no slot: the words and the stop token."""
        return ((words * spoken[..., None]).sum(1) + stop[:, 0]) / (spoken.sum(1, keepdim=True) + 1)

    def _load(self, published: PublishedWeights) -> None:
        counts = {
            "dino": len(self.backbone.dino.blocks),
            "siglip": len(self.backbone.siglip.blocks),
        }
        copy_published(
            self,
            published.folder,
            mapped(published, counts),
            left=published,
            optional=[
                name
                for name in self.state_dict()
                if (name.startswith("head.") and not published.head)
                or (name.startswith("proprio.") and not published.proprio)
            ],
        )


def centre_crop(pixels: Tensor, share: float) -> Tensor:
    """Cut the centre with a share of the area and bring it back to the size, as OFT does at test
    time (TensorFlow's crop_and_resize).

    Args:
        pixels: (N, 3, H, W).
        share: of the area.
    """
    height, width = pixels.shape[-2:]
    side = share**0.5
    # Corners on the pixels' centres: the first sample lies (1 - side) / 2 of H - 1 pixels inside.
    grid_y = torch.linspace(-side, side, height, dtype=pixels.dtype, device=pixels.device)
    grid_x = torch.linspace(-side, side, width, dtype=pixels.dtype, device=pixels.device)
    grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), -1)
    return functional.grid_sample(
        pixels, grid.expand(len(pixels), -1, -1, -1), mode="bilinear", align_corners=True
    )


def load_openvla_oft(sizes: dict[str, Any], folder: Path) -> OpenVlaOft:
    """The model of a checkpoint, its weights not yet loaded."""
    config = OftConfig(**sizes)
    return OpenVlaOft(
        config, _words(Words.load(folder, 1, "{instruction}", 2**31).tokenizer, config), blank=True
    )


def _config(values: dict[str, Any], sizes: dict[str, Any]) -> OftConfig:
    if "suffix" not in sizes and values.get("language", values.get("text_config") or {}).get(
        "vocab_size", 32064
    ) <= max(_LLAMA_SUFFIX):
        sizes = {**sizes, "suffix": ()}  # not Llama's tokenizer
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
    """Of a published text_config what LlamaConfig knows; the rest is of an older transformers."""
    return {
        key: value
        for key, value in values.items()
        if key not in ("model_type", "torch_dtype", "architectures", "_name_or_path")
    }


def _read_config(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text())
    except OSError:
        raise BackboneError(
            f"{folder}: no config.json; give the local directory of an OpenVLA model"
        ) from None
    except ValueError as error:
        raise BackboneError(f"{path}: not valid JSON ({error}); copy it again") from None
    if "contract_hash" in values:
        raise BackboneError(
            f"{folder}: is a checkpoint of this package, without its contract.yaml; copy it whole"
        )
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
