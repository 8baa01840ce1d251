"""Recipes: settings of a complete run as the paper's authors trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal, get_args

RecipeName = Literal["paper_openvla", "paper_pi0"]


class RecipeError(ValueError):
    """There is no such recipe; the message lists the recipes."""


_RECIPES: dict[RecipeName, dict[str, Any]] = {
    # openvla-SF/train.sh and vla-scripts/finetune_align.py of OpenHelix-Team/Spatial-Forcing
    # 4e9f66c.
    "paper_openvla": {
        "student.kind": "openvla_oft",
        "student.dtype": "bfloat16",
        "student.train-vision": "lora",
        "student.train-language": "lora",
        "student.lora.rank": 32,
        "student.lora.alpha": 16.0,
        "student.lora.dropout": 0.0,
        "student.lora.init": "gaussian",
        "student.test-crop": 0.9,
        "student.text-tokens": 64,
        "teacher": "vggt",
        "cache-format": "none",
        "preset": "paper_openvla",
        "augmentation": "openvla",
        "normalisation": "quantiles",
        "gripper-weight": 1.0,
        "pairs": 0,
        "singles": 64,
        "optimizer": "adamw",
        "learning-rate": 5e-4,
        "betas": (0.9, 0.999),
        "weight-decay": 0.01,
        "clip": 0.0,
        "warm-up": 0,
        "schedule": "multistep",
        "milestones": (100_000,),
        "milestone-factor": 0.1,
        "steps": 150_005,
        "ema": 0.0,
        "precision": "bf16",
    },
    # openpi-SF's TrainConfig pi0_align_aloha_place_block and openpi's CosineDecaySchedule, same
    # commit.
    "paper_pi0": {
        "student.kind": "pi0",
        "student.train-vision": "full",
        "student.train-language": "full",
        "student.train-expert": "full",
        "teacher": "vggt",
        "cache-format": "none",
        "preset": "paper_pi0",
        "augmentation": "openpi_colour",
        "normalisation": "deviation",
        "gripper-weight": 1.0,
        "pairs": 0,
        "singles": 16,
        "optimizer": "adamw",
        "learning-rate": 2.5e-5,
        "betas": (0.9, 0.95),
        "weight-decay": 1e-10,
        "clip": 1.0,
        "warm-up": 1001,  # openpi starts at peak / 1001 and reaches the peak after 1000 steps
        "schedule": "cosine",
        "decay-share": 29 / 30,
        "decay-end": 30_000,
        "floor": 0.1,
        "steps": 20_000,
        "ema": 0.0,
        "precision": "bf16",
        "checkpoint-gradients": True,
    },
}
_NOT_IN_PAPER = ("student.text-tokens",)  # set by a recipe, not specified by the paper
_ALWAYS_DIFFERENT: dict[RecipeName, tuple[str, ...]] = {
    "paper_openvla": (
        (
            "adapters of the towers have separate factors for query, key and value (one fused layer"
            " in timm)"
        ),
        (
            "draws of crop, brightness, contrast, saturation and hue are independent (one seed"
            " for all of them in dlimp)"
        ),
        "images are resized by area averaging (Lanczos in TensorFlow)",
        "head and projectors are float32 (bfloat16 under autocast)",
    ),
    "paper_pi0": (
        "colours are drawn for every image (once for a batch in openpi)",
        "the projector's gradient is clipped too",
        "missing cameras are left out of the loss, not shown to the teacher in white",
        "weights are float32 with bfloat16 matrix products (bfloat16 weights)",
    ),
}


def with_recipe(words: Sequence[str]) -> list[str]:
    """Insert the options of ``--recipe NAME`` before the typed ones, which override them.

    Raises:
        RecipeError: there is no such recipe.
    """
    name = ""
    for index, word in enumerate(words):
        if word == "--recipe":
            name = words[index + 1] if index + 1 < len(words) else ""
        elif word.startswith("--recipe="):
            name = word.removeprefix("--recipe=")
    if name in ("", "None"):
        return list(words)
    if name not in _RECIPES:
        raise RecipeError(f"--recipe {name}: there are {', '.join(get_args(RecipeName))}")
    return [
        option for key, value in _RECIPES[name].items() for option in _option(key, value)
    ] + list(words)


def difference(settings: Any) -> list[str]:
    """Return how a run differs from the paper's.

    First changed settings, then differences of this package.

    Args:
        settings: before :meth:`Settings.resolved`; without a recipe the list is empty.
    """
    if settings.recipe is None:
        return []
    lines = []
    for key, paper in _RECIPES[settings.recipe].items():
        value = reduce(getattr, key.replace("-", "_").split("."), settings)
        if value != paper and key not in _NOT_IN_PAPER:
            lines.append(f"{key}: {_shown(value)} (paper: {_shown(paper)})")
    if settings.alignment.given and settings.preset == settings.recipe:
        lines += [
            f"alignment.{name}: {value} (paper: that of preset {settings.preset})"
            for name, value in settings.alignment.given.items()
        ]
    return lines + list(_ALWAYS_DIFFERENT[settings.recipe])


def _option(key: str, value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={value}"]


def _shown(value: Any) -> str:
    return (
        " ".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
