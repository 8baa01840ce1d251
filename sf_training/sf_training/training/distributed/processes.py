"""Device, precision and processes of a run, started by plain python, torchrun or accelerate."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from sf_training.training.settings import Settings, TrainingError

_TIMEOUT = timedelta(hours=4)  # other processes wait while the first one runs the simulator


def make_accelerator(settings: Settings) -> Accelerator:
    """Return accelerate's description of the device and the processes of this run.

    Raises:
        TrainingError: ``fsdp`` with one process; or batch norm in the projector with several
            micro-batches, of which it would see one at a time.
    """
    has_unused = settings.student.kind != "nano"  # pi0 and LLaVA hold weights that no loss reaches
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=has_unused),
            InitProcessGroupKwargs(timeout=_TIMEOUT),
        ],
    )
    if settings.fsdp and accelerator.num_processes < 2:
        raise TrainingError(
            "--fsdp: there is one process, so nothing to shard; start with torchrun"
            " --nproc_per_node=2, or leave it out"
        )
    micro_batches = accelerator.num_processes * settings.accumulate
    if micro_batches > 1 and settings.teacher != "none" and settings.alignment.norm == "batch":
        raise TrainingError(
            f"--alignment.norm batch: its statistics would cover one of {micro_batches}"
            " micro-batches; take layer, or one process and --accumulate 1"
        )
    return accelerator
