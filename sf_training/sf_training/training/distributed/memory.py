"""Check that a training run fits into memory, before it allocates any."""

from __future__ import annotations

import os

import psutil
import torch

from sf_policy_node.contract import Contract
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.students import build_student

_STATE_BYTES = 4 + 8  # for each trained weight: gradient, and AdamW's two moments


def bytes_needed(settings: Settings, contract: Contract) -> tuple[int, int]:
    """Return the bytes of a model's weights, and of its complete training state.

    The state is weights, gradients, optimiser and moving average; activations come on top.
    """
    model = build_student(settings.student, contract, head=settings.head, meta=True).model
    trained = _STATE_BYTES + (4 if settings.ema else 0)
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    return weights, weights + sum(
        trained * each.numel() for each in model.parameters() if each.requires_grad
    )


def require_memory(
    settings: Settings, contract: Contract, processes: int, device: torch.device
) -> None:
    """Refuse a run that does not fit into memory.

    Args:
        processes: of the run. Those on this host share its memory; with ``--fsdp`` all share
            weights, gradients and optimiser states.

    Raises:
        TrainingError: it does not fit.
    """
    if settings.student.kind == "nano":
        return
    here = min(processes, int(os.environ.get("LOCAL_WORLD_SIZE", processes)))  # torchrun's
    weights, state = bytes_needed(settings, contract)
    host = psutil.virtual_memory().available
    share = state // processes if settings.fsdp else state
    if device.type == "cuda":
        _require(
            share, torch.cuda.mem_get_info(device)[0], "weights, gradients and optimiser states"
        )
        _require(weights * here, host, f"the weights of {here} processes while they start")
    else:  # each process builds the full model before it keeps its shard
        _require(max(share, weights) * here, host, "weights, gradients and optimiser states")


def _require(needed: int, free: int, purpose: str) -> None:
    if needed > free:
        raise TrainingError(
            f"the model needs {needed / 1e9:.1f} GB for {purpose}, {free / 1e9:.1f} GB are free;"
            " take --student.dtype bfloat16 with lora, a smaller --student.lora.rank, --fsdp on"
            " more processes, or a smaller model"
        )
