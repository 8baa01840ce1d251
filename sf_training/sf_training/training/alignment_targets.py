"""Alignment targets of a run; `train` and `cache` call it, so both use the same features."""

from __future__ import annotations

from functools import partial
from typing import Literal, cast

import numpy as np
from rich.console import Console

from sf_policy_node.contract import Contract
from sf_policy_node.vla.preprocessing import image_area
from sf_training.data.cache_folder import cache_folder
from sf_training.progress import status
from sf_training.spatial_forcing.teachers import TeacherName, build_targets
from sf_training.spatial_forcing.vision import Teacher
from sf_training.spatial_forcing.vision_targets import Targets, open_teacher, vision_targets
from sf_training.training.settings import Settings
from sf_training.training.students import Student
from sf_training.training.training_set import TrainingSet


def alignment_targets(
    settings: Settings, data: TrainingSet, student: Student, contract: Contract, console: Console
) -> Targets | None:
    """Return the targets of all frames; None without a teacher.

    Features of a vision teacher are cached beside the data.

    Args:
        settings: resolved.
        contract: of the data.

    Raises:
        TeacherError: the teacher cannot be opened, or its features cannot be saved.
    """
    if settings.teacher == "none":
        return None
    grid = student.model.visual_layout().grid
    if not settings.uses_vision_teacher:
        name = settings.teacher if settings.control == "none" else settings.control
        with status(console, f"teacher features ({name})"):
            return Targets((patch_targets(name, data, grid),))
    teacher = vision_teacher(settings, settings.alignment.target_layers)
    console.print(
        f"teacher: {teacher.description}\nlicence of its weights: {teacher.licence}",
        highlight=False,
        soft_wrap=True,
    )
    cameras = [(camera.height, camera.width) for camera in contract.cameras]
    area = image_area(cameras, student.image_size, student.model.config.fit)
    compute = partial(
        vision_targets,
        teacher,
        data.images,
        grid,
        settings.alignment,
        area=area,
        channels=settings.channels,
        control=settings.control,
        episodes=[(each.image_digest, each.frames) for each in data.sources] or None,
        present=data.present,
        console=console,
    )
    if settings.cache_format == "none":
        return compute(live=True)
    targets = compute(form=settings.cache_format, cache=cache_folder(settings.data[0]))
    if targets.folder:
        saved = f"{targets.layers[0].shape[-1]} of {teacher.feature_size} channels saved"
        cosine = (
            f"mean cosine with the full targets {targets.cosine:.6g}, lowest"
            f" {targets.lowest_cosine:.6g}"
        )
        console.print(
            f"{saved}: {cosine}; {settings.cache_format}, {targets.nbytes / 1e6:.1f} MB",
            highlight=False,
            soft_wrap=True,
        )
    return targets


def vision_teacher(settings: Settings, layers: tuple[int, ...]) -> Teacher:
    """Open the vision teacher that the settings name.

    Args:
        layers: of the teacher, from 0 or from the end.

    Raises:
        TeacherError: the weights are missing or of another architecture, or there is no such layer.
    """
    return open_teacher(
        cast(Literal["vggt", "da3", "hf"], settings.teacher),
        settings.teacher_weights,
        layers,
        size=settings.teacher_size,
        device=settings.teacher_device,
        dtype=settings.teacher_dtype,
    )


def patch_targets(name: TeacherName, data: TrainingSet, grid: tuple[int, int]) -> np.ndarray:
    """Return the targets (F, V, rows, columns, C) of ``pointmap`` or one of its controls.

    Args:
        grid: rows and columns of the student's visual tokens of one camera.

    Raises:
        TeacherError: the data hold no depth, or the targets do not fit into memory.
    """
    sides = zip(data.images.shape[-2:], grid, strict=True)
    patch = tuple(side // count for side, count in sides)
    return build_targets(name, data.images, data.depth, list(data.views or ()), patch, data.present)
