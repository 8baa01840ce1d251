"""Tiny models with random weights, built without a download, for tests, benchmarks and dry runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from sf_policy_node.vla.backbones.hf import HfVla
from sf_policy_node.vla.backbones.openvla_oft.model import OpenVlaOft
from sf_policy_node.vla.backbones.pi0 import Pi0

_VOCABULARY = 300
_IMAGE, _VIDEO, _START, _END = 299, 298, 297, 296
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "vision_use_head": False,
    "image_size": 56,
    "patch_size": 14,
    **_VISION,
}
_HEADS = {"head_dim": 16}


def tiny_tokenizer() -> Any:
    """Return a tokenizer of single bytes and six special words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<bos>",
        "<eos>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        "<fake_token_around_image>",
        "<img>",
        "</img>",
    ]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def tiny_config(family: str) -> Any:
    """Return a transformers configuration of one of :data:`FAMILIES` with about 200,000 weights."""
    import transformers

    return FAMILIES[family](transformers)


def tiny_hf(family: str, **sizes: Any) -> HfVla:
    """Build one of :data:`FAMILIES` with random weights; ``sizes`` as for :meth:`HfVla.create`."""
    small = {"text_tokens": 24, "head_width": 32, "head_heads": 2}
    image_size = {"qwen2_5_vl": (56, 112), "qwen3_vl": (64, 96)}.get(family)
    model = HfVla.create(
        tiny_config(family), tiny_tokenizer(), image_size=image_size, **{**small, **sizes}
    )
    if family == "gemma3":  # starts at zero: all images would have equal features
        nn.init.normal_(model.backbone.multi_modal_projector.mm_input_projection_weight, std=0.1)
    return model


def tiny_pi0(*, columns: int = 8, horizon: int = 8, **sizes: Any) -> Pi0:
    """Build pi0 with random weights; ``columns`` is the maximum size of states and actions."""
    from transformers import PI0Config

    gemma = {"model_type": "gemma", **_TEXT, **_HEADS, "num_key_value_heads": 1}
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma,
            "vision_config": _SIGLIP,
            "projection_dim": 64,
            "hidden_size": 64,
            "image_token_id": _IMAGE,
        },
        dit_config={**gemma, "hidden_size": 32, "intermediate_size": 64},
        chunk_size=horizon,
        max_state_dim=columns,
        max_action_dim=columns,
        num_inference_steps=4,
    )
    return Pi0.create(config, tiny_tokenizer(), horizon=horizon, **{"text_tokens": 24, **sizes})


def tiny_openvla_oft(**sizes: Any) -> OpenVlaOft:
    """Build OpenVLA-OFT with random weights; ``sizes`` as for :meth:`OpenVlaOft.create`."""
    return OpenVlaOft.create(
        tiny_openvla_config(), tiny_tokenizer(), **{"text_tokens": 100, **sizes}
    )


def tiny_openvla_config() -> dict[str, Any]:
    """Return values of a ``config.json`` of this package for OpenVLA-OFT, about 200,000 weights."""
    vision = {"num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    return {
        "model_type": "openvla",
        "dino": {"hidden_size": 48, "num_hidden_layers": 3, **vision},
        "siglip": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "hidden_act": "gelu",
            **vision,
        },
        "language": {**_TEXT, "num_key_value_heads": 4},
    }


def _idefics(name: str) -> Callable[[Any], Any]:
    def make(library: Any) -> Any:
        text = {"model_type": "llama", **_TEXT, **_HEADS}
        vision = {**_VISION, "image_size": 64, "patch_size": 8}
        return getattr(library, name)(
            text_config=text, vision_config=vision, scale_factor=2, image_token_id=_IMAGE
        )

    return make


def _paligemma(library: Any) -> Any:
    text = {"model_type": "gemma", **_TEXT, **_HEADS}
    return library.PaliGemmaConfig(
        text_config=text,
        vision_config=_SIGLIP,
        projection_dim=64,
        hidden_size=64,
        image_token_id=_IMAGE,
    )


def _gemma3(library: Any) -> Any:
    return library.Gemma3Config(
        text_config={**_TEXT, **_HEADS, "sliding_window": 64, "query_pre_attn_scalar": 16},
        vision_config={**_SIGLIP, "image_size": 64, "patch_size": 8},
        mm_tokens_per_image=16,
        image_token_id=_IMAGE,
        boi_token_id=_START,
        eoi_token_id=_END,
    )


def _qwen(name: str, vision: dict[str, Any]) -> Callable[[Any], Any]:
    def make(library: Any) -> Any:
        text = {
            **_TEXT,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [2, 3, 3],
                "rope_theta": 10000.0,
            },
        }
        shared = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "spatial_merge_size": 2,
        }
        return getattr(library, name)(
            text_config=text if name.startswith("Qwen2") else {**text, **_HEADS},
            vision_config={**shared, "temporal_patch_size": 2, "out_hidden_size": 64, **vision},
            image_token_id=_IMAGE,
            video_token_id=_VIDEO,
            vision_start_token_id=_START,
            vision_end_token_id=_END,
        )

    return make


def _internvl(library: Any) -> Any:
    vision = {**_VISION, "image_size": [56, 56], "patch_size": [14, 14]}
    text = {"model_type": "qwen2", **_TEXT}
    return library.InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=_IMAGE,
        downsample_ratio=0.5,
        image_seq_length=4,
    )


def _llava(library: Any) -> Any:
    return library.LlavaConfig(
        text_config={"model_type": "llama", **_TEXT, **_HEADS},
        vision_config=_SIGLIP,
        image_token_id=_IMAGE,
        image_seq_length=16,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )


FAMILIES: dict[str, Callable[[Any], Any]] = {
    "smolvlm": _idefics("SmolVLMConfig"),
    "idefics3": _idefics("Idefics3Config"),
    "paligemma": _paligemma,
    "gemma3": _gemma3,
    "qwen2_5_vl": _qwen(
        "Qwen2_5_VLConfig", {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    ),
    "qwen3_vl": _qwen(
        "Qwen3VLConfig",
        {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    ),
    "internvl": _internvl,
    "llava": _llava,
}
