"""Tests of Depth Anything 3 as a teacher: reference values, names and shapes, missing cameras."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from seeded_weights import da3_weights, seeded

from sf_training.spatial_forcing.depth_anything3 import (
    DepthAnything3,
    DepthAnything3Config,
    DepthAnything3Teacher,
)
from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.weights import open_weights

PREFIX = "model.backbone.pretrained."
# depth-anything-3 0.1.1 (DinoVisionTransformer) on these weights and images: layers 1, 2 and 5.
GOLDEN = [
    [9.34695, 0.33144, -0.89891, 2.49328, -0.52309],
    [9.70744, 0.35984, -0.86465, 2.93971, -0.59742],
    [7.5279, 0.21681, -0.81175, -0.32015, -0.89736],
]


@pytest.fixture
def folder(tmp_path):
    tensors = da3_weights() | {"model.head.projects.0.weight": torch.zeros(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_features_equal_the_authors():
    network = DepthAnything3(
        DepthAnything3Config(width=32, blocks=6, alternating=2, grid=4, patch=14, head_size=8)
    ).eval()
    network.load_state_dict(
        {name.removeprefix(PREFIX): value for name, value in da3_weights().items()}
    )
    with torch.no_grad():
        found = network(seeded(7, 1, 2, 3, 70, 56), (1, 2, 5))
    for features, golden in zip(found, GOLDEN, strict=True):
        assert features.shape == (1, 2, 5, 4, 64)
        np.testing.assert_allclose(
            features.flatten(2, 3).flatten()[[0, 33, 700, 1500, 2559]], golden, atol=3e-5
        )


@pytest.mark.parametrize(("width", "count"), [(384, 22.1e6), (768, 86.6e6)])
def test_sizes_of_the_released_models(width, count):
    config = DepthAnything3Config(width=width, blocks=12, alternating=4, grid=37, patch=14)
    with torch.device("meta"):
        network = DepthAnything3(config)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert DepthAnything3Config.from_shapes(shapes) == config
    assert sum(each.numel() for each in network.parameters()) == pytest.approx(count, rel=0.01)


def test_a_missing_camera_is_excluded(folder):
    teacher = DepthAnything3Teacher(open_weights(folder), (2, -1), size=56)
    assert teacher.feature_size == 64 and "6 layers of width 32" in teacher.description
    images = torch.rand(2, 2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    both = teacher.features(images)
    present = torch.tensor([[True, True], [False, True]])
    some = teacher.features(images, present)
    for full, part in zip(both, some, strict=True):
        torch.testing.assert_close(part[0], full[0])
        assert not part[1, 0].any()
    alone = teacher.features(images[1:, 1:])
    torch.testing.assert_close(some[-1][1, 1], alone[-1][0, 0])
    assert (some[-1][1, 1] - both[-1][1, 1]).abs().max() > 1e-3  # the other view has features


def test_other_weights_give_one_sentence(folder, tmp_path):
    def refuse(alter, message):
        tensors = load_file(folder / "model.safetensors")
        alter(tensors)
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        save_file(tensors, other / "model.safetensors")
        with pytest.raises(TeacherError, match=message):
            DepthAnything3Teacher(open_weights(other))

    refuse(lambda t: t.pop(f"{PREFIX}blocks.3.ls1.gamma"), "1 tensors are missing, unknown")
    refuse(lambda t: t.pop(f"{PREFIX}cls_token"), "not a Depth Anything 3 checkpoint")
    refuse(lambda t: t.pop(f"{PREFIX}pos_embed"), "pos_embed is missing")
    refuse(lambda t: t.update({f"{PREFIX}extra": torch.zeros(1)}), "extra among them")
    with pytest.raises(TeacherError, match="layer 6: this model has 6 layers"):
        DepthAnything3Teacher(open_weights(folder), (6,))
