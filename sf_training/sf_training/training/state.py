"""The state of a run on the disk, so that it can go on after a kill; the same file from one
process, several, or sharded ones.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from sf_training.training.settings import TrainingError

if TYPE_CHECKING:
    from sf_training.training.loop import TrainingRun

_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
PLACES = (
    "data",
    "out",
    "save_every",
    "read_ahead",
    "workers",
    "wandb",
    "keep_pictures",
    "fsdp",
)  # do not change what is computed


def save_state(path: Path, run: TrainingRun, own: dict[str, Any]) -> None:
    """Write trained weights, average, optimisers and ``own``; what is frozen comes from where it
    came from.

    Raises:
        TrainingError: the disk refuses; the state before is unharmed.
    """
    sharded = run.settings.fsdp
    training = run.training
    if sharded:
        model = get_model_state_dict(training, options=_OPTIONS)
        optimizers: Any = get_optimizer_state_dict(training, run.optimizers.all, options=_OPTIONS)
        average = {
            name: value.full_tensor().cpu() for name, value in run.average_of.state_dict().items()
        }
    else:
        trained = {
            name for name, parameter in training.named_parameters() if parameter.requires_grad
        }
        buffers = {name for name, _ in training.named_buffers()}
        model = {
            name: value
            for name, value in training.state_dict().items()
            if name in trained | buffers
        }
        optimizers = [optimizer.state_dict() for optimizer in run.optimizers.all]
        average = run.average_of.state_dict()
    if not run.accelerator.is_main_process:
        return
    fresh = path.with_suffix(".new")
    try:
        state = {
            "settings": _identity(run),
            "data": run.data.digest,
            "sharded": sharded,
            "model": model,
            "average": average,
            "optimizers": optimizers,
            **own,
        }
        with fresh.open("wb") as file:
            torch.save(state, file)
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except (OSError, RuntimeError) as error:
        fresh.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:150]
        raise TrainingError(
            f"{path}: the state of the run cannot be written ({reason}); free some space and start"
            " the same command again: it goes on from the state before, which is unharmed"
        ) from None


def load_state(path: Path, run: TrainingRun) -> dict[str, Any] | None:
    """Reverse of :func:`save_state`: what is the run's ``own``; None when there is no file.

    Raises:
        TrainingError: it belongs to a run with other settings, or is damaged.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(
            path, weights_only=True, map_location="cpu"
        )  # tensors and plain values only: no code is unpickled
    except Exception as error:  # torch, zipfile and pickle each raise their own
        reason = " ".join(str(error).split())[:150]
        raise TrainingError(f"{path}: cannot be read ({reason}); delete it to start anew") from None
    if state["settings"] != _identity(run) or state["sharded"] != run.settings.fsdp:
        raise TrainingError(
            f"{path}: belongs to a run with other settings; choose another --out, or delete it to"
            " start anew"
        )
    if state["data"] != run.data.digest:
        raise TrainingError(
            f"{path}: the episodes in --data have changed since; choose another --out, or delete it"
            " to start anew"
        )
    training = run.training
    if run.settings.fsdp:
        set_model_state_dict(
            training, state["model"], options=StateDictOptions(full_state_dict=True, strict=False)
        )
        lenient = StateDictOptions(
            full_state_dict=True, cpu_offload=True, strict=False
        )  # a weight that no loss reaches has no moments
        set_optimizer_state_dict(training, run.optimizers.all, state["optimizers"], options=lenient)
        _load_sharded(run.average_of.state_dict(), state["average"])
    else:
        training.load_state_dict(state["model"], strict=False)
        run.average_of.load_state_dict(state["average"])
        for optimizer, values in zip(run.optimizers.all, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
    return state


def _identity(run: TrainingRun) -> str:
    """Settings that decide what is computed."""
    values = dataclasses.asdict(run.settings)
    return json.dumps(
        {name: value for name, value in values.items() if name not in PLACES}, default=str
    )


@torch.no_grad()
def _load_sharded(shards: dict[str, Any], whole: dict[str, torch.Tensor]) -> None:
    from torch.distributed.tensor import distribute_tensor

    for name, mean in shards.items():
        mean.copy_(
            distribute_tensor(whole[name].to(mean.device), mean.device_mesh, mean.placements)
        )
