"""Command ``teacher``: a teacher's features of one frame as an image, and the list of teachers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from rich.console import Console

from sf_policy_node.contract import ContractError
from sf_policy_node.vla.preprocessing import prepare
from sf_training.config_file import parse
from sf_training.data.bag_files import find_episodes
from sf_training.data.episode_reader import BagError, EpisodeReader
from sf_training.recording.topics import absolute
from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.vision_targets import open_teacher

TEACHERS = """\
teacher|weights|licence of the weights|size|layers|channels
pointmap|none (depth of the bags)|-|-|1|96
vggt|facebook/VGGT-1B|non-commercial|909 M|24|2048
vggt|facebook/VGGT-1B-Commercial|VGGT licence: commercial, not military; on request|909 M|24|2048
da3|depth-anything/DA3-SMALL|Apache-2.0|21 M|12|768
da3|depth-anything/DA3-BASE|Apache-2.0|86 M|12|1536
da3|depth-anything/DA3-LARGE|CC BY-NC 4.0: non-commercial|303 M|24|2048
hf|depth-anything/Depth-Anything-V2-Small-hf|Apache-2.0|22 M of 25 M|12|384
hf|facebook/dinov2-base|Apache-2.0|87 M|12|768
hf|facebook/dinov2-with-registers-large|Apache-2.0|304 M|24|1024
hf|google/siglip-so400m-patch14-384|Apache-2.0|428 M|27|1152
mean, random, rgb|none: controls without geometry|-|-|as the teacher|as the teacher
"""
_SCALE = 3  # of the images beside the features


@dataclass(frozen=True)
class Arguments:
    """Show the features of a teacher for one frame: three principal directions as colours.

    Patches of one surface should have one colour, whatever its texture, and borders between colours
    should follow the depth of the scene. Without options it lists the teachers.

    $ python3 -m sf_training teacher --data out/demos --teacher hf --teacher-weights DINOV2
    """

    teacher: Literal["list", "vggt", "da3", "hf"] = "list"
    """list prints the table of teachers."""
    teacher_weights: str = ""
    """A file, a directory or a hub id."""
    data: Path | None = None
    """An episode, or a directory of episodes, of which the first is taken."""
    frame: int = 0
    """Index of the frame in the episode."""
    teacher_layer: int = -1
    """Layer from 0, or from the end."""
    teacher_size: int = 0
    """Longer side of its input images [pixels]; 0: as it was trained."""
    out: Path = Path("teacher.png")
    """Image to write: the cameras' images above, the features below."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments, console = parse(Arguments, argv, "teacher"), Console()
    if arguments.teacher == "list":
        print(teacher_table())
        return 0
    try:
        for line in show(arguments):
            console.print(line, highlight=False, soft_wrap=True)
    except (BagError, ContractError, TeacherError, OSError, ValueError) as error:
        sys.exit(f"teacher: {error}")
    return 0


def teacher_table() -> str:
    """Return the teachers with licence, size, layers and channels, one line each."""
    rows = [line.split("|") for line in TEACHERS.splitlines()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def show(arguments: Arguments) -> list[str]:
    """Write the image; return lines about it.

    Raises:
        TeacherError: the weights cannot be used.
        BagError: there is no such frame.
    """
    if not arguments.teacher_weights or arguments.data is None:
        raise TeacherError("--teacher-weights and --data: give both")
    assert arguments.teacher != "list"  # main() answers it
    images = frame_images(arguments.data, arguments.frame)
    teacher = open_teacher(
        arguments.teacher,
        arguments.teacher_weights,
        (arguments.teacher_layer,),
        size=arguments.teacher_size,
    )
    features = teacher.features(torch.from_numpy(images).float()[None] / 255)[0][0]
    if not torch.isfinite(features).all():
        raise TeacherError(f"{arguments.teacher_weights}: its features are not finite")
    colours, share = principal_colours(features.cpu().numpy())
    write_view(arguments.out, images.transpose(0, 2, 3, 1), colours)
    rows, columns, channels = features.shape[1:]
    return [
        f"{teacher.description}; licence of its weights: {teacher.licence}",
        (
            f"layer {arguments.teacher_layer}: {len(images)} views of {rows}x{columns} patches,"
            f" {channels} channels; the three colours explain {share:.0%} of their variance"
        ),
        f"image: {arguments.out}",
    ]


def frame_images(data: Path, frame: int) -> np.ndarray:
    """Return the images (V, 3, H, W) uint8 of a frame, all in the shape of the first camera.

    Raises:
        BagError: there is no episode or no such frame.
    """
    reader = EpisodeReader(find_episodes(data)[0])
    topics = {absolute(camera.topic): camera.name for camera in reader.contract.cameras}
    found = {
        topics[topic]: image
        for topic, _, image in reader.frames({topic: [frame] for topic in topics})
    }
    missing = [name for name in reader.contract.camera_names if name not in found]
    if missing:
        raise BagError(f"{reader.file}: camera {missing[0]} has no frame {frame}; lower --frame")
    names = reader.contract.camera_names
    return prepare(found, names, found[names[0]].shape[:2], "letterbox")


def principal_colours(features: np.ndarray) -> tuple[np.ndarray, float]:
    """Return colours (V, gh, gw, 3) of features (V, gh, gw, C), and their share of the variance.

    The directions are principal components over all views, so one colour means one feature in all
    views.
    """
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(0)
    values, vectors = np.linalg.eigh(flat.T @ flat)
    found = flat @ vectors[:, ::-1][:, :3]
    low, high = np.quantile(found, (0.02, 0.98), axis=0)
    found = np.clip((found - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    share = float(values[::-1][:3].sum() / max(values.sum(), 1e-12))
    return found.reshape(*features.shape[:-1], 3).astype(np.float32), share


def write_view(path: Path, images: np.ndarray, colours: np.ndarray) -> None:
    """Write images (V, H, W, 3) uint8 above their colours (V, gh, gw, 3) as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    height, width = images.shape[1] * _SCALE, images.shape[2] * _SCALE
    above = [cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in images]
    below = [
        cv2.resize((255 * each).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        for each in colours
    ]
    image = np.concatenate([np.concatenate(above, 1), np.concatenate(below, 1)], 0)
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise OSError(f"{path}: the image cannot be written; give --out FILE.png")


if __name__ == "__main__":
    sys.exit(main())
