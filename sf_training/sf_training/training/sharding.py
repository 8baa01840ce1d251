"""FSDP2: weights, gradients and optimiser states of one model shared among processes (torch's ``fully_shard``)."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(training: Any, accelerator: Accelerator, precision: str) -> None:
    """Shard a ``TrainingStep`` in place: block by block of the language model, then the rest."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16) if precision == "bf16" else MixedPrecisionPolicy()
    for block in training.model.visual_places().blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(training, mesh=mesh, mp_policy=policy)


def whole_state(model: Any) -> dict[str, Tensor]:
    """All weights of a sharded model on the processor, on every process."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=False)  # offloading would leave them to one process
    return {name: value.cpu() for name, value in get_model_state_dict(model, options=options).items()}
