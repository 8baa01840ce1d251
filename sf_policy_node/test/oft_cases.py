"""A tiny OpenVLA-OFT in the published layout: names and shapes of ``moojink/openvla-oft``, weights
from a seed.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from sf_policy_node.vla.backbones.tiny import tiny_tokenizer

WIDTH, VOCABULARY, ACTIONS, HORIZON, STATE = 32, 32000, 3, 4, 5
DINO = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
SIGLIP = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 56,
    "patch_size": 14,
    "hidden_act": "gelu",
}
LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
}
SIZES = {
    "state_size": STATE,
    "action_size": ACTIONS,
    "horizon": HORIZON,
    "text_tokens": 100,
    "crop": 1.0,
}


def backbone_shapes(
    dino: dict = DINO, siglip: dict = SIGLIP, llama: dict = LLAMA, *, film: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of openvla-7b's safetensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for tower, config in (("featurizer", dino), ("fused_featurizer", siglip)):
        width, patch = config["hidden_size"], config["patch_size"]
        hidden = config.get("intermediate_size", 4 * width)
        prefix = f"vision_backbone.{tower}."
        shapes |= {
            prefix + "pos_embed": (1, (config["image_size"] // patch) ** 2, width),
            prefix + "patch_embed.proj.weight": (width, 3, patch, patch),
            prefix + "patch_embed.proj.bias": (width,),
            **_norm(prefix + "norm", width),
        }
        if tower == "featurizer":
            shapes |= {prefix + "cls_token": (1, 1, width), prefix + "reg_token": (1, 4, width)}
        else:
            pool = prefix + "attn_pool."
            shapes |= {pool + "latent": (1, 1, width), **_norm(pool + "norm", width)}
            for name, rows, columns in (
                ("q", width, width),
                ("kv", 2 * width, width),
                ("proj", width, width),
            ):
                shapes |= _linear(pool + name, rows, columns)
            shapes |= _linear(pool + "mlp.fc1", hidden, width) | _linear(
                pool + "mlp.fc2", width, hidden
            )
        for number in range(config["num_hidden_layers"]):
            block = f"{prefix}blocks.{number}." + ("block." if film else "")
            shapes |= _norm(block + "norm1", width) | _norm(block + "norm2", width)
            shapes |= _linear(block + "attn.qkv", 3 * width, width) | _linear(
                block + "attn.proj", width, width
            )
            shapes |= _linear(block + "mlp.fc1", hidden, width) | _linear(
                block + "mlp.fc2", width, hidden
            )
            if tower == "featurizer":
                shapes |= {
                    block + "ls1.scale_factor": (width,),
                    block + "ls2.scale_factor": (width,),
                }
            if film:
                outer = block.removesuffix("block.")
                shapes |= _linear(outer + "scale", width, llama["hidden_size"]) | _linear(
                    outer + "shift", width, llama["hidden_size"]
                )
    vision, width = dino["hidden_size"] + siglip["hidden_size"], llama["hidden_size"]
    shapes |= (
        _linear("projector.fc1", 4 * vision, vision)
        | _linear("projector.fc2", width, 4 * vision)
        | _linear("projector.fc3", width, width)
    )
    model = "language_model.model."
    shapes |= {
        model + "embed_tokens.weight": (llama["vocab_size"], width),
        model + "norm.weight": (width,),
    }
    shapes["language_model.lm_head.weight"] = (llama["vocab_size"], width)
    for number in range(llama["num_hidden_layers"]):
        layer, inner = f"{model}layers.{number}.", llama["intermediate_size"]
        shapes |= {f"{layer}self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{layer}mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes |= {layer + "mlp.down_proj.weight": (width, inner)}
        shapes |= {
            f"{layer}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")
        }
    return shapes


def head_shapes(width: int = WIDTH, actions: int = ACTIONS) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of ``action_head--*_checkpoint.pt``."""
    shapes = _norm("model.layer_norm1", width * actions) | _linear(
        "model.fc1", width, width * actions
    )
    for number in range(2):
        shapes |= _norm(f"model.mlp_resnet_blocks.{number}.ffn.0", width) | _linear(
            f"model.mlp_resnet_blocks.{number}.ffn.1", width, width
        )
    return shapes | _norm("model.layer_norm2", width) | _linear("model.fc2", actions, width)


def proprio_shapes(width: int = WIDTH, state: int = STATE) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of ``proprio_projector--*_checkpoint.pt``."""
    return _linear("fc1", width, state) | _linear("fc2", width, width)


def seeded(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Return seeded weights of about the size of trained ones."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name in sorted(shapes):
        value = torch.randn(shapes[name], generator=generator)
        ones = name.endswith("weight") and len(shapes[name]) == 1
        found[name] = (
            1.0 + 0.1 * value if ones else value * (0.5 if "scale_factor" in name else 0.15)
        )
    return found


def write_published(
    folder: Path,
    *,
    film: bool = False,
    head: bool = True,
    proprio: bool = True,
    step: str = "150000",
) -> Path:
    """Write a directory as OFT does after merging.

    With ``film`` the vision backbone is a separate file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = seeded(backbone_shapes(), 1)
    names = sorted(weights)
    half = len(names) // 2
    for number, part in enumerate((names[:half], names[half:]), 1):
        save_file(
            {name: weights[name] for name in part},
            folder / f"model-{number:05d}-of-00002.safetensors",
        )
    if film:
        state = {
            name: value
            for name, value in seeded(backbone_shapes(film=True), 2).items()
            if name.startswith("vision_backbone.")
        }
        torch.save(state, folder / f"vision_backbone--{step}_checkpoint.pt")
    if head:
        torch.save(
            {f"module.{name}": value for name, value in seeded(head_shapes(), 3).items()},
            folder / f"action_head--{step}_checkpoint.pt",
        )
    if proprio:
        torch.save(seeded(proprio_shapes(), 4), folder / f"proprio_projector--{step}_checkpoint.pt")
    (folder / "config.json").write_text(
        json.dumps({"dino": DINO, "siglip": SIGLIP, "language": LLAMA})
    )
    tiny_tokenizer().save_pretrained(folder)
    return folder


def observations(count: int, views: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (count, views, 3, 56, 56) uint8 and normalised states (count, STATE)."""
    rng = np.random.default_rng(7)
    images = torch.from_numpy(rng.integers(0, 256, (count, views, 3, 56, 56), dtype=np.uint8))
    return images, torch.from_numpy(rng.uniform(-1, 1, (count, STATE)).astype(np.float32))


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
