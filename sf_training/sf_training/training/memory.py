"""Whether a training run fits into memory, before it takes any."""

from __future__ import annotations

import psutil
import torch

from sf_policy_node.contract import Contract
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.students import build_student

_STATE_BYTES = 4 + 8  # of a trained weight: its gradient, and AdamW's two moments


def bytes_needed(settings: Settings, contract: Contract) -> int:
    """Of weights, gradients, optimiser and average of one model, all of it; activations come on top."""
    model = build_student(settings.student, contract, head=settings.head, meta=True).model
    trained = _STATE_BYTES + (4 if settings.ema else 0)
    return sum(each.numel() * (each.element_size() + trained * each.requires_grad) for each in model.parameters())


def require_memory(settings: Settings, contract: Contract, processes: int, device: torch.device) -> None:
    """Refuse a run that cannot fit.

    Args:
        processes: on this host, which share its memory; with ``--fsdp`` they share the model too.

    Raises:
        TrainingError: it cannot.
    """
    if settings.student.kind == "nano":
        return
    gpu = device.type == "cuda"
    copies = 1 if settings.fsdp else processes
    needed = bytes_needed(settings, contract) * (1 if gpu else copies) // (processes if gpu and settings.fsdp else 1)
    free = torch.cuda.mem_get_info(device)[0] if gpu else psutil.virtual_memory().available
    if needed > free:
        raise TrainingError(
            f"the model needs {needed / 1e9:.1f} GB for weights, gradients and optimiser states, {free / 1e9:.1f} GB are free; take "
            "--student.dtype bfloat16 with lora, a smaller --student.lora.rank, --fsdp on more processes, or a smaller model"
        )
