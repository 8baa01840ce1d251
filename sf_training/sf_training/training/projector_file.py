"""Save and load the weights of projector and gate in a checkpoint's report.

Further training continues with them.
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
    """Write the weights of projector and gate; the robot never reads them.

    Raises:
        OSError, SafetensorError: the file cannot be written.
    """
    save_file(
        {name: value.contiguous() for name, value in weights.items()},
        report / _FILE,
        metadata={"made_for": _made_for(settings)},
    )


@torch.no_grad()
def load_projector(alignment: nn.Module, settings: Settings) -> str:
    """Load the projector of the initial checkpoint if it is for the same targets; return one line.

    Returns:
        What happened, with the file; empty where the initial checkpoint has no projector.
    """
    path = settings.student.weights / "report" / _FILE if settings.student.weights else None
    if path is None or not path.is_file():
        return ""
    try:
        with safe_open(path, "pt") as file:
            made_for = file.metadata()["made_for"]
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
    except (OSError, SafetensorError, KeyError, TypeError):
        return f"projector: starts from random weights, {path} cannot be read"
    own = alignment.state_dict()
    if made_for != _made_for(settings):
        return (
            f"projector: starts from random weights, that of {settings.student.weights} was for"
            f" {made_for}"
        )
    if {name: value.shape for name, value in weights.items()} != {
        name: value.shape for name, value in own.items()
    }:
        return (
            f"projector: starts from random weights, that of {settings.student.weights} has other"
            " sizes"
        )
    alignment.load_state_dict(weights)
    return f"projector: continues from {path}"


def _made_for(settings: Settings) -> str:
    layers = " ".join(map(str, settings.alignment.student_layers))
    control = "" if settings.control == "none" else f" control {settings.control}"
    return f"teacher {settings.teacher}{control}, student layer {layers}"
