"""The alignment's own weights in a checkpoint's report: training that goes on from a checkpoint
goes on with its projector too.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sf_training.training.settings import Settings

_FILE = "alignment.safetensors"


def save_projector(report: Path, weights: dict[str, Tensor], settings: Settings) -> None:
    """Write projector and gate; the robot never reads them.

    Raises:
        OSError, SafetensorError: the disk refuses.
    """
    save_file(
        {name: value.contiguous() for name, value in weights.items()},
        report / _FILE,
        metadata={"made_for": _made_for(settings)},
    )


@torch.no_grad()
def load_projector(alignment: nn.Module, settings: Settings) -> str:
    """Take over the weights of the checkpoint that the student begins with, where they are for the
    same targets. One line on that.
    """
    path = settings.student.weights / "report" / _FILE if settings.student.weights else None
    if path is None or not path.is_file():
        return ""
    try:
        with safe_open(path, "pt") as file:
            made_for = file.metadata()["made_for"]
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
    except (OSError, SafetensorError, KeyError, TypeError):
        return f"projector: starts anew, {path} cannot be read"
    own = alignment.state_dict()
    if made_for != _made_for(settings):
        return f"projector: starts anew, that of {settings.student.weights} was for {made_for}"
    if {name: value.shape for name, value in weights.items()} != {
        name: value.shape for name, value in own.items()
    }:
        return f"projector: starts anew, that of {settings.student.weights} has other sizes"
    alignment.load_state_dict(weights)
    return f"projector: goes on from {path}"


def _made_for(settings: Settings) -> str:
    layers = " ".join(map(str, settings.alignment.student_layers))
    control = "" if settings.control == "none" else f" control {settings.control}"
    return f"teacher {settings.teacher}{control}, student layer {layers}"
