"""Named alignment settings for a student of any depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

from sf_training.spatial_forcing.alignment import AlignmentConfig, AlignmentError

PresetName = Literal["openvla", "paper_openvla", "paper_pi0", "multilayer", "adaptive"]
PRESETS = get_args(PresetName)


def preset(name: PresetName, blocks: int, **changes: Any) -> AlignmentConfig:
    """Return the complete settings of a preset.

    Layers keep their proportion of the student's depth.

    * ``openvla``: layer 24 of 32 as in the paper; each patch is paired with its own target, missing
      cameras and letterbox bars are masked.
    * ``paper_openvla``: as the authors' launcher trains OpenVLA-OFT: layer 24 of 32, tokens shifted
      by one, no mask.
    * ``paper_pi0``: as their configuration trains pi0: layer 12 of 18, no shift, missing cameras
      and letterbox bars masked.
    * ``multilayer``: up to ten pairs of layers with one shared projector, after ROCKET (arXiv
      2602.17951): layers 2, 4, ... 18 and the last, each with the teacher's layer of the same
      number; without ROCKET's nested widths.
    * ``adaptive``: a learned mixture of all layers, after the paper's later version, whose code is
      not released.

    Args:
        blocks: number of blocks of the student.
        changes: settings that override the preset. A ``layer`` without ``layers`` replaces the
            preset's layers.

    Raises:
        AlignmentError: there is no such preset, or a change does not fit it.
    """
    if name not in PRESETS:
        raise AlignmentError(f"preset {name}: is unknown; take one of {', '.join(PRESETS)}")
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
