"""Named settings of the alignment, for a student of any depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

from sf_training.spatial_forcing.alignment import AlignmentConfig, AlignmentError

PresetName = Literal["openvla", "paper_openvla", "paper_pi0", "multilayer", "adaptive"]
PRESETS = get_args(PresetName)


def preset(name: PresetName, blocks: int, **changes: Any) -> AlignmentConfig:
    """Settings of a preset; those that speak of a depth keep its proportion.

    * ``openvla``: layer 24 of 32 as in the paper; each patch is paired with its own target, missing
      cameras and letterbox bars masked.
    * ``paper_openvla``: what the authors' launcher trains OpenVLA-OFT with: layer 24 of 32, tokens
      shifted by one, no mask.
    * ``paper_pi0``: what their configuration trains pi0 with: layer 12 of 18, no shift, missing
      cameras and letterbox masked.
    * ``multilayer``: ten pairs of layers at most, one shared projector, after ROCKET (arXiv
      2602.17951): the layers
      2, 4, ... 18 and the last, each with the teacher's of the same number, here without its nested
      widths.
    * ``adaptive``: a learned mixture of all layers, after the paper's later version, whose code is
      not released.

    Args:
        blocks: of the student.
        changes: settings that differ from the preset. A ``layer`` without ``layers`` takes the
            place of the preset's layers.

    Raises:
        AlignmentError: there is no such preset, or a change does not fit it.
    """
    if name not in PRESETS:
        raise AlignmentError(f"preset {name}: there are {', '.join(PRESETS)}")
    if name == "openvla":
        chosen = AlignmentConfig(layer=round(blocks * 24 / 32))
    elif name == "paper_openvla":
        chosen = AlignmentConfig(layer=round(blocks * 24 / 32), token_shift=1, mask=False)
    elif name == "paper_pi0":
        chosen = AlignmentConfig(layer=round(blocks * 12 / 18))
    elif name == "multilayer":
        inner = tuple(range(2, min(blocks, 20), 2))
        chosen = AlignmentConfig(
            layers=(*inner, blocks), teacher_layers=(*(layer - 1 for layer in inner), -1)
        )
    else:
        chosen = AlignmentConfig(layers=tuple(range(1, blocks + 1)), combine="gate")
    if "layer" in changes and not changes.get("layers"):
        changes = {"layers": (), "teacher_layers": (-1,), "combine": "each"} | changes
    return replace(chosen, **changes).complete()
