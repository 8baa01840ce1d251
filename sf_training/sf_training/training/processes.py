"""Device, precision and processes of a run, as plain python, torchrun or accelerate has started
it.
"""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from sf_training.training.settings import Settings, TrainingError

_PATIENCE = timedelta(hours=4)


def make_accelerator(settings: Settings) -> Accelerator:
    """What accelerate knows of this run.

    Raises:
        TrainingError: ``fsdp`` without processes to share the model among, or a norm that several
            parts would spoil.
    """
    unused = settings.student.kind != "nano"  # pi0 and LLaVA hold weights that no loss reaches
    options = DistributedDataParallelKwargs(find_unused_parameters=unused)
    patience = InitProcessGroupKwargs(
        timeout=_PATIENCE
    )  # the others wait while the first runs the simulator
    handlers = [options, patience]
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=handlers,
    )
    if settings.fsdp and accelerator.num_processes < 2:
        raise TrainingError(
            "--fsdp: there is one process, so nothing to share; start with torchrun"
            " --nproc_per_node=2, or leave it out"
        )
    parts = accelerator.num_processes * settings.accumulate
    if parts > 1 and settings.teacher != "none" and settings.alignment.norm == "batch":
        raise TrainingError(
            "--alignment.norm batch: its statistics would be of a part of the batch; take layer, or"
            " one process and part"
        )
    return accelerator
