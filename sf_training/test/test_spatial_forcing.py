"""Tests of the alignment loss, its targets and its controls."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_training.spatial_forcing import teachers
from sf_training.spatial_forcing.alignment import (
    Projector,
    alignment_loss,
    position_embedding,
    prepare_target,
)
from sf_training.spatial_forcing.teachers import (
    FEATURE_SIZE,
    TeacherError,
    View,
    build_targets,
    points_from_depth,
    rgb_features,
)

PATCH = 16
SIDE = 96


def camera(frames: int, height: float = 1.0) -> View:
    """Return a camera that looks straight down from ``height``."""
    intrinsics = np.tile(
        np.array([[SIDE, 0.0, SIDE / 2], [0.0, SIDE, SIDE / 2], [0.0, 0.0, 1.0]]), (frames, 1, 1)
    )
    rotation = np.tile(np.diag([1.0, -1.0, -1.0]), (frames, 1, 1))
    return View(intrinsics, rotation, np.tile([0.0, 0.0, height], (frames, 1)))


def data(frames: int = 4) -> tuple[np.ndarray, np.ndarray, list[View]]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (frames, 2, 3, SIDE, SIDE), dtype=np.uint8)
    depth = rng.uniform(0.3, 1.2, (frames, 2, SIDE, SIDE)).astype(np.float32)
    return images, depth, [camera(frames), camera(frames, 0.8)]


def test_loss_is_zero_for_parallel_and_two_for_opposite_tokens():
    target = torch.randn(2, 5, 8)
    assert alignment_loss(3.0 * target, target).item() == pytest.approx(0.0, abs=1e-6)
    assert alignment_loss(-target, target).item() == pytest.approx(2.0, abs=1e-6)


def test_the_gradient_equals_that_of_minus_cosine_without_a_teacher_gradient():
    student, target = (
        torch.randn(2, 5, 8, requires_grad=True),
        torch.randn(2, 5, 8, requires_grad=True),
    )
    (ours,) = torch.autograd.grad(alignment_loss(student, target), student)
    (minus_cosine,) = torch.autograd.grad(
        -torch.nn.functional.cosine_similarity(student, target.detach(), dim=-1).mean(), student
    )
    torch.testing.assert_close(ours, minus_cosine)
    assert torch.autograd.grad(alignment_loss(student, target), target, allow_unused=True) == (
        None,
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 4), tokens=st.integers(1, 6))
def test_masked_tokens_are_ignored_and_an_empty_sample_gives_zero(seed, batch, tokens):
    generator = torch.Generator().manual_seed(seed)
    student, target = (torch.randn(batch, tokens, 8, generator=generator) for _ in range(2))
    mask = torch.rand(batch, tokens, generator=generator) > 0.5
    loss = alignment_loss(student, target, mask)
    changed = torch.where(
        mask[..., None], student, torch.randn(batch, tokens, 8, generator=generator)
    )
    torch.testing.assert_close(alignment_loss(changed, target, mask), loss)
    empty = alignment_loss(student.requires_grad_(), target, torch.zeros_like(mask))
    empty.backward()
    assert empty.item() == 0.0
    assert torch.isfinite(student.grad).all()


def test_position_embedding_matches_hand_computed_values():
    code = position_embedding(2, 3, 8)
    # Two columns of one octave pair: frequencies 1 and 100^(-1/2); the middle column lies at x = 0.
    x, y = (2 / 3) / 2**0.5, (1 / 2) / 2**0.5
    expected = [
        np.sin(x),
        np.sin(0.1 * x),
        np.cos(x),
        np.cos(0.1 * x),
        np.sin(y),
        np.sin(0.1 * y),
        np.cos(y),
        np.cos(0.1 * y),
    ]
    np.testing.assert_allclose(code[1, 2].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(code[0, 1, :4].numpy(), [0, 0, 1, 1], atol=1e-6)


def test_target_resizing_keeps_corners_and_adds_the_position_first():
    features = torch.randn(1, 2, 5, 5, 8)
    target = prepare_target(features, 3, 0.1).view(1, 2, 3, 3, 8)
    full = features + 0.1 * position_embedding(5, 5, 8)
    torch.testing.assert_close(target[:, :, ::2, ::2], full[:, :, ::4, ::4])


def test_the_projector_is_initialized_as_in_the_paper():
    projector = Projector(12, 8)
    assert torch.count_nonzero(projector.hidden.bias) == 0
    assert projector.hidden.weight.abs().max() <= (6 / (12 + 8)) ** 0.5
    assert projector(torch.randn(2, 7, 12)).shape == (2, 7, 8)


def test_points_equal_the_depth_seen_by_the_camera():
    depth = np.full((1, SIDE, SIDE), 1.0, np.float32)
    points = points_from_depth(depth, camera(1))
    np.testing.assert_allclose(points[..., 2], 0.0, atol=1e-6)
    np.testing.assert_allclose(
        points[0, 0, 0, :2], [-0.5 + 0.5 / SIDE, 0.5 - 0.5 / SIDE], atol=1e-6
    )


def test_pointmap_targets_depend_on_depth_not_color():
    images, depth, views = data()
    targets = build_targets("pointmap", images, depth, views, PATCH)
    assert targets.shape == (4, 2, 6, 6, FEATURE_SIZE)
    np.testing.assert_array_equal(
        targets, build_targets("pointmap", 255 - images, depth, views, PATCH)
    )
    assert not np.array_equal(
        targets, build_targets("pointmap", images, depth[::-1].copy(), views, PATCH)
    )


def test_patch_sizes_may_be_odd_and_not_divide_the_image():
    colours = np.zeros((1, 3, 23, 15), np.uint8)
    colours[:, :, 14:] = 255
    found = rgb_features(colours, (7, 7))
    assert found.shape == (1, 3, 2, FEATURE_SIZE)
    np.testing.assert_allclose(found[0, 0], found[0, 0, :1].repeat(2, 0), atol=1e-6)
    assert not np.allclose(found[0, 2], found[0, 0])
    even = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    one = rgb_features(even[..., :4, 4:], 4)[0, 0, 0]
    np.testing.assert_allclose(
        rgb_features(even, 4)[0, 0, 1], one, atol=1e-6
    )  # a patch depends only on its own pixels


def test_rgb_targets_depend_on_color_not_geometry():
    images, depth, views = data()
    targets = build_targets("rgb", images, depth, views, PATCH)
    np.testing.assert_array_equal(
        targets, build_targets("rgb", images, depth * 0.5, views[::-1], PATCH)
    )
    assert not np.array_equal(targets, build_targets("rgb", 255 - images, depth, views, PATCH))


@pytest.mark.parametrize("teacher", ["mean", "random"])
def test_mean_and_random_targets_are_the_same_for_every_frame(teacher):
    targets = build_targets(teacher, *data(), PATCH)
    np.testing.assert_array_equal(targets, np.broadcast_to(targets[:1], targets.shape))
    assert np.unique(targets[0].reshape(-1, FEATURE_SIZE), axis=0).shape[0] == 2 * 36


def test_mean_is_the_average_of_the_pointmap():
    pointmap, mean = (
        build_targets(teacher, *data(), PATCH).astype(np.float32)
        for teacher in ("pointmap", "mean")
    )
    np.testing.assert_allclose(mean[0], pointmap.mean(0), atol=2e-3)


def test_targets_are_standardised():
    for teacher in ("pointmap", "rgb"):
        flat = build_targets(teacher, *data(), PATCH).reshape(-1, FEATURE_SIZE).astype(np.float32)
        np.testing.assert_allclose(flat.mean(0), 0.0, atol=5e-3)
        np.testing.assert_allclose(flat.std(0), 1.0, atol=2e-2)


@pytest.mark.parametrize("teacher", ["pointmap", "rgb"])
def test_targets_that_do_not_fit_into_memory_are_refused(teacher, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100_000))
    with pytest.raises(
        TeacherError,
        match=(
            rf"teacher {teacher}: its targets for 4 frames take 0.0 GB of memory, .*; take fewer"
            r" episodes"
        ),
    ):
        build_targets(teacher, *data(), PATCH)


@pytest.mark.parametrize("part", [1, 3, 512])
def test_targets_do_not_depend_on_the_batch_size(part, monkeypatch):
    full = build_targets("pointmap", *data(), PATCH)
    monkeypatch.setattr(teachers, "_FRAMES_AT_ONCE", part)
    np.testing.assert_allclose(
        build_targets("pointmap", *data(), PATCH).astype(np.float32),
        full.astype(np.float32),
        atol=2e-3,
    )


def test_a_teacher_without_depth_names_the_cure():
    images, _, views = data()
    with pytest.raises(TeacherError, match="no depth; record depth, or take teacher none or rgb"):
        build_targets("pointmap", images, None, views, PATCH)
