"""Published weights of pi0 and pi0.5 from a local directory.

Every key is mapped or reported.

Three layouts, recognised by their tensors:

* openpi's PyTorch: ``model.safetensors`` with ``paligemma_with_expert.*`` and the projections,
  ``config.json`` (``action_dim``, ``paligemma_variant`` ...)
* LeRobot's: the same names after ``model.``, ``config.json`` with ``type`` ``pi0`` or ``pi05``
* transformers' own, which ``load_pretrained`` reads

The first two have no tokenizer: copy PaliGemma's files into the directory. Names are those of
openpi 15a9616 and LeRobot 7427f31.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sf_policy_node.vla.backbones.pretrained import BackboneError, open_safetensors

# openpi's gemma.get_config: width of a head. Other sizes are those of the tensors.
_HEAD_WIDTH = {"gemma_2b": 256, "gemma_300m": 256, "gemma_2b_lora": 256, "gemma_300m_lora": 256}
_DUMMY_HEAD_WIDTH = 16
_SIGLIP_HEADS = {1152: 16}  # width of So400m
_UNREAD = re.compile(
    # Words are never predicted, and the expert reads none.
    r"paligemma_with_expert\.gemma_expert\.(lm_head|model\.embed_tokens)\.weight"
    r"|.*rotary_emb\.inv_freq|.*embeddings\.position_ids"
    r"|.*vision_tower\.(vision_model\.)?head\..*"
    r"|paligemma_with_expert\.paligemma\.(model\.|language_model\.)?lm_head\.weight"
)
_RULES = (
    (r"paligemma_with_expert\.gemma_expert\.model\.(.+)", r"backbone.model.dit.\1"),
    (
        r"paligemma_with_expert\.paligemma\.(?:model\.)?vision_tower\.(?:vision_model\.)?(.+)",
        r"backbone.model.vlm.vision_tower.\1",
    ),
    (
        r"paligemma_with_expert\.paligemma\.(?:model\.)?multi_modal_projector\.(.+)",
        r"backbone.model.vlm.multi_modal_projector.\1",
    ),
    (
        r"paligemma_with_expert\.paligemma\.(?:model\.)?language_model\.(?:model\.)?(.+)",
        r"backbone.model.vlm.language_model.\1",
    ),
    (r"action_out_proj\.(.+)", r"backbone.action_out_proj.\1"),
    (
        r"((?:action_in_proj|state_proj|(?:action_)?time_mlp_(?:in|out))\..+)",
        r"backbone.embed_action_time.\1",
    ),
)
_WORDS = "backbone.model.vlm.language_model.embed_tokens.weight"
_LM_HEAD = re.compile(r"paligemma_with_expert\.paligemma\.(?:language_model\.)?lm_head\.weight")
_NEVER_STORED = "backbone.model.dit.embed_tokens.weight"  # transformers has it, nothing reads it


class PublishedPi0:
    """Tensors of a directory under openpi's names, read one at a time.

    Args:
        tensors: reader of each tensor by its published name, with or without the prefix ``model.``.
        values: of ``config.json``.
        folder: for messages.
    """

    def __init__(
        self, tensors: Mapping[str, Callable[[], Tensor]], values: Mapping[str, Any], folder: Path
    ) -> None:
        self.folder, self.values = folder, values
        self._tensors = {name.removeprefix("model."): read for name, read in tensors.items()}
        if not any(name.startswith("paligemma_with_expert.") for name in self._tensors):
            raise BackboneError(
                f"{folder}: no paligemma_with_expert.* in its weights; give the directory of a pi0"
                " or pi0.5 of openpi or LeRobot"
            )

    @classmethod
    def read(cls, folder: str | Path) -> PublishedPi0:
        """Open a directory.

        Raises:
            BackboneError: weights or ``config.json`` are missing or damaged.
        """
        folder = Path(folder)
        tensors: dict[str, Callable[[], Tensor]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            if not path.name.startswith("policy_"):  # statistics of LeRobot's processors
                tensors |= open_safetensors(path)
        if not tensors:
            raise BackboneError(f"{folder}: no *.safetensors; copy the weights of pi0 there")
        return cls(tensors, published_values(folder) or {}, folder)

    @property
    def is_pi05(self) -> bool:
        """Whether the weights are pi0.5's, which has no layer for the state."""
        return "state_proj.weight" not in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]()

    def mapped(self) -> dict[str, str]:
        """Return the name in this package of each published name.

        Empty for tensors that nothing reads.

        Unknown names are left out.
        """
        names: dict[str, str] = {}
        for name in self._tensors:
            if _UNREAD.fullmatch(name):
                names[name] = ""
                continue
            for pattern, ours in _RULES:
                if match := re.fullmatch(pattern, name):
                    names[name] = match.expand(ours)
                    break
        if _WORDS not in names.values():  # tied: safetensors keeps one of the two
            names |= {name: _WORDS for name in self._tensors if _LM_HEAD.fullmatch(name)}
        return names

    def config(self, horizon: int) -> dict[str, Any]:
        """Return the configuration of transformers' PI0 that these weights need.

        Raises:
            BackboneError: a tensor that gives a size is missing.
        """
        shapes = {ours: tuple(self[name].shape) for name, ours in self.mapped().items() if ours}
        vision, language = "backbone.model.vlm.vision_tower.", "backbone.model.vlm.language_model."
        try:
            width, channels, patch, _ = shapes[f"{vision}embeddings.patch_embedding.weight"]
            del channels
            patches = shapes[f"{vision}embeddings.position_embedding.weight"][0]
            vocabulary = shapes[_WORDS][0]
            text = self._gemma(shapes, language, "paligemma_variant", vocabulary)
            expert = self._gemma(shapes, "backbone.model.dit.", "action_expert_variant", vocabulary)
            columns = shapes["backbone.action_out_proj.weight"][0]
            tower = {
                "model_type": "siglip_vision_model",
                "vision_use_head": False,
                "hidden_size": width,
                "intermediate_size": shapes[f"{vision}encoder.layers.0.mlp.fc1.weight"][0],
                "num_hidden_layers": _count(shapes, f"{vision}encoder.layers."),
                "num_attention_heads": _SIGLIP_HEADS.get(width, width // 16),
                "patch_size": patch,
                "image_size": round(patches**0.5) * patch,
            }
            state = (
                columns
                if self.is_pi05
                else shapes["backbone.embed_action_time.state_proj.weight"][1]
            )
        except KeyError as error:
            raise BackboneError(
                f"{self.folder}: weights missing, first {error.args[0]} (the name here); copy the"
                " weights of pi0 again"
            ) from None
        from transformers import PI0Config

        from sf_policy_node.vla.backbones.pretrained import plain_config

        kept = ("num_inference_steps", "min_period", "max_period")
        return plain_config(
            PI0Config(
                vlm_config={
                    "model_type": "paligemma",
                    "text_config": text,
                    "vision_config": tower,
                    "projection_dim": text["hidden_size"],
                    "hidden_size": text["hidden_size"],
                    "image_token_id": vocabulary,
                },
                dit_config=expert,
                chunk_size=horizon,
                max_state_dim=state,
                max_action_dim=columns,
                **{key: self.values[key] for key in kept if key in self.values},
            )
        )

    def _gemma(
        self, shapes: Mapping[str, tuple[int, ...]], prefix: str, variant: str, vocabulary: int
    ) -> dict[str, Any]:
        name = str(self.values.get(variant, "gemma_2b"))
        head = _HEAD_WIDTH.get(name, _DUMMY_HEAD_WIDTH)
        queries, width = shapes[f"{prefix}layers.0.self_attn.q_proj.weight"]
        return {
            "model_type": "gemma",
            "hidden_size": width,
            "intermediate_size": shapes[f"{prefix}layers.0.mlp.gate_proj.weight"][0],
            "num_hidden_layers": _count(shapes, f"{prefix}layers."),
            "num_attention_heads": queries // head,
            "num_key_value_heads": shapes[f"{prefix}layers.0.self_attn.k_proj.weight"][0] // head,
            "head_dim": head,
            "vocab_size": vocabulary,
        }


def published_values(folder: str | Path) -> dict[str, Any] | None:
    """Return ``config.json`` where it is openpi's or LeRobot's, or empty without one.

    Returns:
        None where it is one of transformers, which ``load_pretrained`` reads.

    Raises:
        BackboneError: it is not JSON, or of another policy.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise BackboneError(f"{path}: not valid JSON ({error}); copy it again") from None
    if values.get("type", "pi0") not in ("pi0", "pi05"):
        raise BackboneError(
            f"{path}: holds a LeRobot policy of type {values['type']}; give a pi0 or pi05"
        )
    published = (
        "type" in values or "paligemma_variant" in values or "action_expert_variant" in values
    )
    return values if published else None


@torch.no_grad()
def fill(model: Any, published: PublishedPi0) -> None:
    """Copy published weights into a model of the same sizes.

    Raises:
        BackboneError: weights are missing, left over or of another size; the message lists them.
    """
    from sf_policy_node.vla.backbones.pretrained import copy_published

    names = published.mapped()
    copy_published(
        model,
        published.folder,
        ((ours, partial(published.__getitem__, name), name) for name, ours in names.items()),
        published=set(published),
        optional={_NEVER_STORED},
    )
    own = model.state_dict()
    own[_NEVER_STORED].zero_()


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """Return the number of blocks whose names begin with ``prefix``."""
    return 1 + max(
        (
            int(name.removeprefix(prefix).split(".")[0])
            for name in shapes
            if name.startswith(prefix)
        ),
        default=0,
    )
