"""Which weights of a backbone are trained, and its low-rank adapters.

LoRA (arXiv 2106.09685) by peft.

Adapters exist in training only: :func:`merged_copy` merges them into the weights, so a saved
checkpoint runs without peft.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sf_policy_node.vla.objective import PI0_KINDS
from sf_training.training.student_settings import StudentError, StudentSettings

Part = Literal["vision", "language", "expert", "action"]
_BASE, _DOWN, _UP = ".base_layer", ".lora_A.default.weight", ".lora_B.default.weight"


def part_of(model: Any, name: str) -> Part:
    """Return the part of the model that a parameter or module belongs to, by its name.

    ``vision``: the tower and its projection into the language model. ``expert``: pi0's flow
    transformer. ``action``: heads, embeddings of state and actions, and FiLM. All of nano is
    ``action``.
    """
    if model.kind == "nano" or ".film." in name:
        return "action"
    if name.startswith(f"{model.language}."):
        return "language"
    if name.startswith("backbone.model.dit."):
        return "expert"
    return (
        "vision"
        if name.startswith("backbone.model.vlm." if model.kind in PI0_KINDS else "backbone.")
        else "action"
    )


def freeze(model: Any, settings: StudentSettings) -> None:
    """Let gradients flow only into the parameters of parts that are trained in full."""
    for name, parameter in model.named_parameters():
        # pi0's expert never reads its word embeddings, a quarter of a billion weights.
        unread = name.startswith("backbone.model.dit.embed_tokens.")
        parameter.requires_grad_(
            not unread and settings.training.get(part_of(model, name), "full") == "full"
        )


def apply_lora(model: Any, settings: StudentSettings) -> None:
    """Add adapters to the linear layers of the parts with ``lora``, in place.

    Other parameters keep their ``requires_grad``. Adapters are float32 whatever the backbone's
    dtype, and have no effect at first. Parameter names gain ``.base_layer``; modules stay the same,
    so hooks and lists of blocks remain valid.

    Raises:
        StudentError: no linear layer of such a part has one of the names in ``targets``.
    """
    from peft import LoraConfig, inject_adapter_in_model

    lora, chosen = settings.lora, []
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for part, how in settings.training.items():
        if how != "lora":
            continue
        found = [
            name
            for name in linear
            if part_of(model, name) == part
            and (not lora.targets or name.endswith(tuple(lora.targets)))
        ]
        if not found:
            there = sorted(
                {name.rpartition(".")[2] for name in linear if part_of(model, name) == part}
            )
            raise StudentError(
                f"--student.lora.targets: the {part} has no layer {' '.join(lora.targets)}; there"
                f" are {', '.join(there)}"
            )
        chosen += found
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft only divides it by the rank
        lora_dropout=lora.dropout,
        init_lora_weights="gaussian" if lora.init == "gaussian" else True,
        target_modules=chosen,
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
        else:
            parameter.requires_grad_(name in trained)


def merged_weights(model: Any, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the weights of the plain model: adapters merged, names as without adapters.

    W + (alpha / rank) B A, with down projection A (rank, inputs) and up projection B (outputs,
    rank).

    Args:
        model: with or without adapters; only its structure matters when ``state`` is given.
        state: full state of the model where it is sharded, or a moving average of it; None takes
            ``model.state_dict()``.
    """
    from peft.tuners.lora import LoraLayer

    state = dict(model.state_dict() if state is None else state)
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        down, up = state.pop(name + _DOWN), state.pop(name + _UP)
        weight = state.pop(f"{name}{_BASE}.weight")
        update = module.scaling["default"] * (up.float() @ down.float())
        state[f"{name}.weight"] = (weight.float() + update).to(weight.dtype)
        if f"{name}{_BASE}.bias" in state:
            state[f"{name}.bias"] = state.pop(f"{name}{_BASE}.bias")
    return state


def merged_copy(model: Any, state: Mapping[str, Tensor] | None = None) -> Any:
    """Return a plain copy of a model on the processor, in evaluation mode.

    It has no adapters, hooks or gradients.

    Arguments as for :func:`merged_weights`.
    """
    plain = (
        type(model)(model.config)
        if model.words is None
        else type(model)(model.config, model.words, blank=True)
    )
    weights = {
        name: value.detach().to("cpu") for name, value in merged_weights(model, state).items()
    }
    with torch.no_grad():
        plain.load_state_dict(weights)
    return plain.eval().requires_grad_(False)
