"""FSDP2: one model sharded over processes (torch's ``fully_shard``)."""

from __future__ import annotations

from typing import Any, cast

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sf_policy_node.vla.objective import PI0_KINDS

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(module: Any, accelerator: Accelerator) -> None:
    """Shard a ``TrainingModule`` in place: each transformer block by itself, then the rest.

    Weights are gathered in their own precision. With ``--precision bf16`` autocast rounds the
    operands of matrix products, as it does without sharding.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in _blocks(module.model):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def full_state(model: Any) -> dict[str, Tensor]:
    """Return all weights of a sharded model on the first process, an empty dictionary on others.

    Every process has to call.
    """
    return cast(dict[str, Tensor], get_model_state_dict(model, options=_FULL))


def _blocks(model: Any) -> list[nn.Module]:
    """Return the blocks of every transformer in the model: members of lists of one type.

    Pi0's last language block is left out. FSDP2 gathers a block for the backward pass when a
    gradient reaches the block's output, and of that block only the key-value cache is used.
    """
    unused = model.visual_layout().blocks[-1] if model.kind in PI0_KINDS else None
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) > 1
    ]
    uniform = [blocks for blocks in lists if len({type(block) for block in blocks}) == 1]
    return [
        block
        for blocks in uniform
        for block in blocks
        if block is not unused and _has_weights(block)
    ]


def _has_weights(block: nn.Module) -> bool:
    return next(block.parameters(), None) is not None
