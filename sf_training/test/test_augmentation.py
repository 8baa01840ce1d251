"""Tests of augmentation: colors, crops, the teacher's crop, and draws independent of batching."""

import colorsys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from training_process import make_run

from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.vision_targets import vision_targets
from sf_training.training.batches.augmentation import Augmentation
from sf_training.training.settings import Settings, TrainingError

MIDDLE = 0.5  # a draw that changes only the position of the crop
RNG = np.random.default_rng(0)


def draws(frames=1, views=2, **changes) -> torch.Tensor:
    names = ("down", "across", "rotation", "brightness", "contrast", "saturation", "hue")
    found = torch.full((frames, views, len(names)), MIDDLE)
    for name, value in changes.items():
        found[..., names.index(name)] = value
    return found


def random_images(frames=1, views=2, side=12) -> torch.Tensor:
    return torch.from_numpy(RNG.integers(0, 256, (frames, views, 3, side, side), dtype=np.uint8))


def make(name: str, cameras=("scene", "wrist")) -> Augmentation:
    return Augmentation(name, 3, cameras)


@pytest.mark.parametrize("name", ["openvla_colour", "openpi_colour"])
def test_draws_in_the_middle_change_nothing(name):
    images = random_images()
    for changed in make(name).apply(images, draws()):
        assert torch.allclose(changed, images.float(), atol=2e-3)


def test_hue_and_saturation_equal_colorsys():
    images = random_images(side=4)
    student, teacher = make("openvla_colour").apply(images, draws(saturation=0.9, hue=0.1))
    factor, shift = 1 + 0.2 * 0.8, -0.05 * 0.8
    for position in np.ndindex(1, 2, 4, 4):
        frame, view, row, column = position
        hue, saturation, value = colorsys.rgb_to_hsv(
            *(images[frame, view, :, row, column].double() / 255).tolist()
        )
        expected = colorsys.hsv_to_rgb((hue + shift) % 1.0, min(1.0, saturation * factor), value)
        assert (student[frame, view, :, row, column] / 255).tolist() == pytest.approx(
            expected, abs=1e-5
        )
    assert torch.equal(student, teacher)  # OpenVLA's teacher sees the augmented colors too


def test_brightness_and_contrast_of_openvla_and_of_openpi():
    images = random_images()
    values = images.double() / 255
    found = make("openvla_colour").apply(images, draws(brightness=0.75, contrast=1.0))[0]
    bright = (values + 0.1).clamp(0, 1)
    mean = bright.mean((-2, -1), keepdim=True)
    assert torch.allclose(
        found.double() / 255, ((bright - mean) * 1.2 + mean).clamp(0, 1), atol=1e-5
    )
    student, teacher = make("openpi_colour").apply(
        images, draws(brightness=0.0, contrast=1.0, saturation=1.0)
    )
    dark = values * 0.7
    mean = dark.mean((-3, -2, -1), keepdim=True)
    dark = (dark - mean) * 1.4 + mean
    grey = dark.mean(-3, keepdim=True)
    assert torch.allclose(
        student.double() / 255, (grey + (dark - grey) * 1.5).clamp(0, 1), atol=1e-5
    )
    assert torch.allclose(
        teacher, images.float(), atol=1e-3
    )  # openpi's teacher sees the original colors


@pytest.mark.parametrize(("down", "across"), [(0.0, 0.0), (0.999, 0.0), (0.5, 0.999)])
def test_openvlas_crop_is_ninety_percent_of_the_area_at_any_position(down, across):
    ramp = torch.arange(31.0)
    images = torch.stack([ramp[:, None].expand(31, 31), ramp.expand(31, 31), torch.zeros(31, 31)])[
        None, None
    ].to(torch.uint8)
    found = make("openvla", ("scene",)).apply(images, draws(views=1, down=down, across=across))[1][
        0, 0
    ]
    side = 0.9**0.5
    begin = [position * (1 - side) * 30 for position in (down, across)]
    assert found[0, :, 5].tolist() == pytest.approx(
        [begin[0] + i * side for i in range(31)], abs=2e-3
    )
    assert found[1, 5].tolist() == pytest.approx([begin[1] + i * side for i in range(31)], abs=2e-3)


def test_openpis_crop_and_rotation_interpolate_and_skip_the_wrist():
    images = random_images(side=40)
    found = make("openpi").apply(images, draws(down=0.6, across=0.2, rotation=0.9))[1] / 255
    assert torch.allclose(found[:, 1], images[:, 1] / 255.0, atol=1e-5)
    scene = images[:, 0].float() / 255
    cut = scene[..., 1 : 1 + 38, 0:38]  # floor(0.6 * 3), floor(0.2 * 3)
    cut = functional.interpolate(cut, (40, 40), mode="bilinear", align_corners=False)
    angle = np.radians(4.0)
    y, x = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40), indexing="ij")
    grid = np.stack(
        [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], -1
    )
    expected = functional.grid_sample(
        cut.double(), torch.from_numpy(grid)[None], align_corners=False
    )
    assert torch.allclose(found[:, 0].double(), expected, atol=1e-4)


def test_draws_depend_only_on_seed_and_step():
    one = make("openvla")
    assert torch.equal(one.draw(5, 4), one.draw(5, 4)) and torch.equal(
        one.draw(5, 4)[:2], one.draw(5, 2)
    )
    assert not torch.equal(one.draw(5, 4), one.draw(6, 4)) and not torch.equal(
        one.draw(5, 4), Augmentation("openvla", 4, "ab").draw(5, 4)
    )
    assert one.draw(5, 4).std() > 0.2


@pytest.mark.parametrize("name", ["nano", "openvla_oft"])
def test_a_batch_in_parts_sees_the_same_images(name, tmp_path):
    losses = []
    for accumulate in (1, 2):
        run = make_run(
            name,
            tmp_path,
            4,
            augmentation="openvla_colour",
            accumulate=accumulate,
            teacher="none",
            read_ahead=0,
        )
        for _ in range(3):
            run.train_step()
        losses.append([action for action, _ in run._losses])
        run.close()
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    plain = make_run(name, tmp_path, 4, teacher="none", read_ahead=0)
    plain.train_step()
    assert plain._losses[0][0] != losses[0][0]
    plain.close()


class RecordingTeacher:
    """A teacher that records its images; its features are mean colors."""

    feature_size, pixels, layers, licence, description = 4, 32 * 32, (-1,), "", ""
    identity = "watching"

    def __init__(self) -> None:
        self.seen = []

    def features(
        self, images: torch.Tensor, present: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        self.seen.append(images)
        means = (
            functional.adaptive_avg_pool2d(images.flatten(0, 1), 4)
            .unflatten(0, images.shape[:2])
            .permute(0, 1, 3, 4, 2)
        )
        return [torch.cat([means, means[..., :1]], -1)]


def test_a_live_teacher_sees_the_crop_of_the_student():
    teacher, images = RecordingTeacher(), random_images(frames=3, side=32).numpy()
    targets = vision_targets(teacher, images, 4, AlignmentConfig(), live=True)
    student, seen = make("openvla").apply(
        torch.from_numpy(images[[2, 0]]), draws(frames=2, down=0.1, brightness=0.9)
    )
    (layer,) = targets.layers
    changed = layer.of(np.array([2, 0]), seen)
    assert torch.allclose(teacher.seen[-1], student / 255) and changed.shape == (2, 2, 4, 4, 4)
    count = len(teacher.seen)
    assert np.array_equal(layer.of(np.array([2, 0]), seen), changed) and len(teacher.seen) == count
    assert not np.allclose(layer[np.array([2, 0])], changed, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"augmentation": "openvla", "teacher": "pointmap"},
            "features of teacher pointmap are of full images; take --augmentation openvla_colour",
        ),
        (
            {"augmentation": "openpi", "teacher": "vggt", "teacher_weights": "w"},
            "the features are cached; give --cache-format none, or --augmentation openpi_colour",
        ),
    ],
)
def test_crops_without_targets_of_the_same_crop_are_refused(changes, message):
    with pytest.raises(TrainingError) as refusal:
        Settings(data=Path("d"), out=Path("o"), **changes)
    assert message in str(refusal.value)


def test_crops_that_would_shift_letterbox_bars_are_refused(tmp_path):
    with pytest.raises(
        TrainingError,
        match=r"crops would move the letterbox bars; give --student.fit stretch or crop",
    ):
        make_run("llava", tmp_path, 2, augmentation="openvla", teacher="none")
