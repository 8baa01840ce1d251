"""What a run's visual tokens are aligned with: made here for `train` and for `cache`, so that both
use the same features.
"""

from __future__ import annotations

from rich.console import Console

from sf_policy_node.contract import Contract
from sf_policy_node.vla.preprocessing import picture_area
from sf_training.data.cache_folder import cache_folder
from sf_training.progress import status
from sf_training.spatial_forcing.teachers import build_targets
from sf_training.spatial_forcing.vision_targets import Targets, open_teacher, vision_targets
from sf_training.training.settings import Settings
from sf_training.training.students import Student
from sf_training.training.training_set import TrainingSet


def alignment_targets(
    settings: Settings, data: TrainingSet, student: Student, contract: Contract, console: Console
) -> Targets | None:
    """Targets of all frames, or None without a teacher; those of a vision model are kept beside the
    data.

    Args:
        contract: of the data.

    Raises:
        TeacherError: the teacher cannot be opened, or its features cannot be kept.
    """
    if settings.teacher == "none":
        return None
    grid = student.model.visual_places().grid
    if not settings.uses_vision_teacher:
        name = settings.teacher if settings.control == "none" else settings.control
        patch = tuple(
            side // count for side, count in zip(data.images.shape[-2:], grid, strict=True)
        )
        with status(console, f"teacher features ({name})"):
            return Targets(
                (build_targets(name, data.images, data.depth, list(data.views or ()), patch),)
            )
    teacher = open_teacher(
        settings.teacher,
        settings.teacher_weights,
        settings.alignment.target_layers,
        size=settings.teacher_size,
        device=settings.teacher_device,
        dtype=settings.teacher_dtype,
    )
    console.print(
        f"teacher: {teacher.description}\nlicence of its weights: {teacher.licence}",
        highlight=False,
        soft_wrap=True,
    )
    cameras = [(camera.height, camera.width) for camera in contract.cameras]
    area = picture_area(cameras, student.image_size, student.model.config.fit)
    options = {
        "area": area,
        "channels": settings.channels,
        "control": settings.control,
        "digest": data.digest or None,
        "console": console,
    }
    if settings.cache_format == "none":
        return vision_targets(teacher, data.images, grid, settings.alignment, live=True, **options)
    options |= {"form": settings.cache_format, "cache": cache_folder(settings.data[0])}
    targets = vision_targets(teacher, data.images, grid, settings.alignment, **options)
    if targets.folder:
        kept = f"{targets.layers[0].shape[-1]} of {teacher.feature_size} channels kept"
        cosine = (
            f"mean cosine with the whole targets {targets.cosine:.6g}, lowest"
            f" {targets.lowest_cosine:.6g}"
        )
        console.print(
            f"{kept}: {cosine}; {settings.cache_format}, {targets.nbytes / 1e6:.1f} MB",
            highlight=False,
            soft_wrap=True,
        )
    return targets
