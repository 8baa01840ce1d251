"""The resume file of a run: everything that a killed run needs to continue with the same result.

One process, several, and sharded runs write the same layout; only the first process writes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from sf_training.training.loop.forward import TrainingModule
from sf_training.training.optimisation.average import Average
from sf_training.training.optimisation.optimizers import Optimizers
from sf_training.training.settings import Settings, TrainingError

_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
OPERATIONAL_SETTINGS = (
    "data",
    "out",
    "save_every",
    "read_ahead",
    "workers",
    "wandb",
    "cache_images",
    "keep_pictures",  # the same in earlier versions
    "fsdp",
)
"""Settings that do not change the result of a run."""


@dataclass(frozen=True)
class ResumableState:
    """Saves and restores trained weights, moving average and optimisers of a run.

    Frozen weights are not saved: a resumed run reads them from where the first one did.
    """

    settings: Settings
    module: TrainingModule
    average: Average
    optimizers: Optimizers
    accelerator: Accelerator

    def save(self, path: Path, data_digest: str, progress: dict[str, Any]) -> None:
        """Write the state, beside ``path`` first and then moved there; every process has to call.

        Args:
            data_digest: of the training set; :meth:`restore` refuses another one.
            progress: counters and random states of the run, which :meth:`restore` returns.

        Raises:
            TrainingError: the file cannot be written; the state saved before is intact.
        """
        model, average, optimizers = self._collect()
        if not self.accelerator.is_main_process:
            return
        temporary = path.with_suffix(".new")
        try:
            state = {
                "settings": _result_settings(self.settings),
                "data": data_digest,
                "sharded": self.settings.fsdp,
                "model": model,
                "average": average,
                "optimizers": optimizers,
                **progress,
            }
            with temporary.open("wb") as file:
                torch.save(state, file)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise TrainingError(
                f"{path}: the state of the run cannot be written ({_short(error)}); free disk"
                " space and start the same command again: it resumes from the last saved state,"
                " which is intact"
            ) from None

    def restore(self, path: Path, data_digest: str) -> dict[str, Any] | None:
        """Read the state into module, average and optimisers.

        Returns:
            The whole saved dictionary, which contains the entries of ``progress`` of :meth:`save`;
            None if there is no file.

        Raises:
            TrainingError: the file is damaged, or is of a run with other settings or data.
        """
        if not path.exists():
            return None
        try:  # weights_only: tensors and plain values, no code is unpickled
            state = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch, zipfile and pickle each raise their own
            raise TrainingError(
                f"{path}: cannot be read ({_short(error)}); delete it to start from step 0"
            ) from None
        if (
            state["settings"] != _result_settings(self.settings)
            or state["sharded"] != self.settings.fsdp
        ):
            raise TrainingError(
                f"{path}: belongs to a run with other settings; choose another --out, or delete it"
                " to start from step 0"
            )
        if state["data"] != data_digest:
            raise TrainingError(
                f"{path}: the episodes in --data have changed since; choose another --out, or"
                " delete it to start from step 0"
            )
        self._apply(state)
        return state

    def _collect(self) -> tuple[dict, dict, Any]:
        """Return the state dictionaries of module, average and optimisers on the processor."""
        if self.settings.fsdp:
            return (
                get_model_state_dict(self.module, options=_OPTIONS),
                {
                    name: cast(DTensor, value).full_tensor().cpu()
                    for name, value in self.average.state_dict().items()
                },
                get_optimizer_state_dict(self.module, self.optimizers.all, options=_OPTIONS),
            )
        saved = {name for name, each in self.module.named_parameters() if each.requires_grad}
        saved |= {name for name, _ in self.module.named_buffers()}
        return (
            {name: value for name, value in self.module.state_dict().items() if name in saved},
            self.average.state_dict(),
            [optimizer.state_dict() for optimizer in self.optimizers.all],
        )

    def _apply(self, state: dict[str, Any]) -> None:
        if not self.settings.fsdp:
            self.module.load_state_dict(state["model"], strict=False)
            self.average.load_state_dict(state["average"])
            for optimizer, values in zip(self.optimizers.all, state["optimizers"], strict=True):
                optimizer.load_state_dict(values)
            return
        set_model_state_dict(
            self.module,
            state["model"],
            options=StateDictOptions(full_state_dict=True, strict=False),
        )
        # Not strict: a weight that no loss reaches has no moments.
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
        set_optimizer_state_dict(
            self.module, self.optimizers.all, state["optimizers"], options=options
        )
        _shard_into(self.average.state_dict(), state["average"])


def _result_settings(settings: Settings) -> str:
    """Return the settings that decide the result of a run, as JSON."""
    values = dataclasses.asdict(settings)
    return json.dumps(
        {name: value for name, value in values.items() if name not in OPERATIONAL_SETTINGS},
        default=str,
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:150]


@torch.no_grad()
def _shard_into(shards: dict[str, Any], full: dict[str, torch.Tensor]) -> None:
    """Copy full tensors into sharded ones, by name."""
    from torch.distributed.tensor import distribute_tensor

    for name, shard in shards.items():
        shard.copy_(
            distribute_tensor(full[name].to(shard.device), shard.device_mesh, shard.placements)
        )
