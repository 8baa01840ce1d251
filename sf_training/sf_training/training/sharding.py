"""FSDP2: weights, gradients and optimiser states of one model shared among processes (torch's
``fully_shard``).
"""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sf_policy_node.vla.objective import PI0_KINDS

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(training: Any, accelerator: Accelerator) -> None:
    """Shard a ``TrainingStep`` in place: block by block of each transformer in it, then the rest.

    Weights are gathered in their own precision; with ``--precision bf16`` autocast rounds what is
    multiplied, as without sharding.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in _blocks(training.model):
        fully_shard(block, mesh=mesh)
    fully_shard(training, mesh=mesh)


def whole_state(model: Any) -> dict[str, Tensor]:
    """All weights of a sharded model, in the first process's memory; empty in the others. Every
    process has to ask.
    """
    return get_model_state_dict(model, options=WHOLE)


def _blocks(model: Any) -> list[nn.Module]:
    """Of every transformer in the model: those of lists of one kind, but a block that FSDP2 would
    not gather for the backward pass.

    It does that where a gradient reaches what a block returns. Of pi0's last language block only
    the cache is read.
    """
    unread = model.visual_places().blocks[-1] if model.kind in PI0_KINDS else None
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) > 1
    ]
    alike = [blocks for blocks in lists if len({type(block) for block in blocks}) == 1]
    return [
        block for blocks in alike for block in blocks if block is not unread and _has_weights(block)
    ]


def _has_weights(block: nn.Module) -> bool:
    return next(block.parameters(), None) is not None
