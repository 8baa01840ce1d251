"""A tiny pi0 and pi0.5 in the published layouts: openpi's names and shapes, weights from a seed."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from sf_policy_node.vla.backbones.tiny import tiny_tokenizer

TINY = {
    "vision": {"width": 32, "mlp": 64, "depth": 2, "patch": 14, "image": 56},
    "language": {"width": 64, "mlp": 128, "depth": 3, "heads": 8, "head": 16},
    "expert": {"width": 32, "mlp": 64, "depth": 3, "heads": 8, "head": 16},
    "vocabulary": 300,
    "columns": 12,
}
FULL = {
    "vision": {"width": 1152, "mlp": 4304, "depth": 27, "patch": 14, "image": 224},
    "language": {"width": 2048, "mlp": 16384, "depth": 18, "heads": 8, "head": 256},
    "expert": {"width": 1024, "mlp": 4096, "depth": 18, "heads": 8, "head": 256},
    "vocabulary": 257152,
    "columns": 32,
}
HORIZON = 6
_PALIGEMMA, _EXPERT = "paligemma_with_expert.paligemma.", "paligemma_with_expert.gemma_expert."


def shapes(sizes: dict = TINY, *, pi05: bool = False) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of openpi's ``model.safetensors``.

    It stores tied embeddings once.
    """
    vision, text, expert = sizes["vision"], sizes["language"], sizes["expert"]
    width, columns = expert["width"], sizes["columns"]
    tower = f"{_PALIGEMMA}model.vision_tower.vision_model."
    found = {
        f"{tower}embeddings.patch_embedding.weight": (
            vision["width"],
            3,
            vision["patch"],
            vision["patch"],
        ),
        f"{tower}embeddings.patch_embedding.bias": (vision["width"],),
        f"{tower}embeddings.position_embedding.weight": (
            (vision["image"] // vision["patch"]) ** 2,
            vision["width"],
        ),
        **_linear(f"{tower}post_layernorm", vision["width"]),
        **_linear(
            f"{_PALIGEMMA}model.multi_modal_projector.linear", text["width"], vision["width"]
        ),
        f"{_PALIGEMMA}lm_head.weight": (sizes["vocabulary"], text["width"]),
        f"{_EXPERT}lm_head.weight": (sizes["vocabulary"], width),
        **_linear("action_in_proj", width, columns),
        **_linear("action_out_proj", columns, width),
    }
    for number in range(vision["depth"]):
        block = f"{tower}encoder.layers.{number}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= _linear(f"{block}self_attn.{name}", vision["width"], vision["width"])
        found |= _linear(f"{block}layer_norm1", vision["width"])
        found |= _linear(f"{block}layer_norm2", vision["width"])
        found |= _linear(f"{block}mlp.fc1", vision["mlp"], vision["width"])
        found |= _linear(f"{block}mlp.fc2", vision["width"], vision["mlp"])
    found |= _gemma(f"{_PALIGEMMA}model.language_model.", text, adaptive=False)
    found |= _gemma(f"{_EXPERT}model.", expert, adaptive=pi05)
    if pi05:
        found |= _linear("time_mlp_in", width, width) | _linear("time_mlp_out", width, width)
    else:
        found |= _linear("state_proj", width, columns)
        found |= _linear("action_time_mlp_in", width, 2 * width)
        found |= _linear("action_time_mlp_out", width, width)
    return found


def weights(*, pi05: bool = False) -> dict[str, torch.Tensor]:
    """Return seeded weights of :func:`shapes`; norms near their neutral value."""
    generator, found = torch.Generator().manual_seed(7), {}
    for name, shape in sorted(shapes(pi05=pi05).items()):
        scale = 0.1 if len(shape) == 1 or ".dense." in name else 0.15
        found[name] = scale * torch.randn(shape, generator=generator)
    return found


def write_openpi(folder: Path, *, pi05: bool = False) -> Path:
    """Write a directory as openpi's converter does, with a tokenizer."""
    values = {
        "action_dim": TINY["columns"],
        "action_horizon": HORIZON,
        "paligemma_variant": "dummy",
        "action_expert_variant": "dummy",
        "precision": "float32",
    }
    return _write(folder, weights(pi05=pi05), values)


def write_lerobot(folder: Path, *, pi05: bool = False) -> Path:
    """Write a directory as LeRobot does.

    Names begin with ``model.``, embeddings are stored twice.
    """
    named = {f"model.{name}": value for name, value in weights(pi05=pi05).items()}
    tied = f"model.{_PALIGEMMA}model.language_model.embed_tokens.weight"
    named[tied] = named[f"model.{_PALIGEMMA}lm_head.weight"].clone()
    values = {
        "type": "pi05" if pi05 else "pi0",
        "chunk_size": HORIZON,
        "max_action_dim": TINY["columns"],
        "paligemma_variant": "dummy",
        "action_expert_variant": "dummy",
        "num_inference_steps": 5,
        "normalization_mapping": {"STATE": "QUANTILES" if pi05 else "MEAN_STD"},
    }
    statistics = {"observation.state.mean": torch.zeros(5)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(statistics, folder / "policy_preprocessor_step_5_normalizer_processor.safetensors")
    return _write(folder, named, values)


def _write(folder: Path, named: dict[str, torch.Tensor], values: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values))
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _gemma(prefix: str, sizes: dict, *, adaptive: bool) -> dict[str, tuple[int, ...]]:
    width, queries, keys = sizes["width"], sizes["heads"] * sizes["head"], sizes["head"]

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        if adaptive:
            return _linear(f"{prefix}{name}.dense", 3 * width, width)
        return {f"{prefix}{name}.weight": (width,)}

    found = norm("norm")
    for number in range(sizes["depth"]):
        layer = f"layers.{number}."
        found |= norm(f"{layer}input_layernorm") | norm(f"{layer}post_attention_layernorm")
        for name, shape in {
            "self_attn.q_proj": (queries, width),
            "self_attn.k_proj": (keys, width),
            "self_attn.v_proj": (keys, width),
            "self_attn.o_proj": (width, queries),
            "mlp.gate_proj": (sizes["mlp"], width),
            "mlp.up_proj": (sizes["mlp"], width),
            "mlp.down_proj": (width, sizes["mlp"]),
        }.items():
            found[f"{prefix}{layer}{name}.weight"] = shape
    return found


def _linear(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
