"""Alignment targets of a training set, as the settings ask for: what ``train`` uses and ``cache`` computes beforehand."""

from __future__ import annotations

from rich.console import Console

from sf_policy_node.vla.backbones.places import VisualPlaces
from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.teachers import build_targets
from sf_training.spatial_forcing.vision_targets import Targets, open_teacher, vision_targets
from sf_training.training.settings import Settings
from sf_training.training.training_set import TrainingSet


def alignment_targets(
    settings: Settings, config: AlignmentConfig, places: VisualPlaces, data: TrainingSet, console: Console
) -> Targets | None:
    """Targets of all frames; those of a vision model are kept beside the data. None without a teacher.

    Args:
        places: the student's visual tokens.

    Raises:
        TeacherError: weights are missing or do not fit, or the data lack what the teacher needs.
    """
    if settings.teacher == "none":
        return None
    if not settings.uses_vision_teacher:
        name = settings.teacher if settings.control == "none" else settings.control
        patch = tuple(side // count for side, count in zip(data.images.shape[-2:], places.grid, strict=True))
        with console.status(f"teacher features ({name})"):
            return Targets((build_targets(name, data.images, data.depth, list(data.views or ()), patch),))
    teacher = open_teacher(
        settings.teacher,
        settings.teacher_weights,
        config.teacher_layers,
        size=settings.teacher_size,
        device=settings.teacher_device,
        dtype=settings.teacher_dtype,
    )
    console.print(f"teacher: {teacher.description}\nlicence of its weights: {teacher.licence}", highlight=False, soft_wrap=True)
    targets = vision_targets(
        teacher,
        data.images,
        places.grid,
        config,
        channels=settings.channels,
        form=settings.teacher_form,
        control=settings.control,
        digest=data.digest or None,
        cache=settings.data / ".cache",
        live=settings.teacher_live,
        console=console,
    )
    if targets.cosine < 1:
        kept = f"{targets.layers[0].shape[-1]} of {teacher.feature_size} channels kept"
        console.print(f"{kept}: mean cosine with the whole targets {targets.cosine:.4f}", highlight=False, soft_wrap=True)
    return targets
