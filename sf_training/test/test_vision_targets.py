"""Tests of vision models as teachers: features, cached targets, controls, errors."""

import errno
import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from seeded_weights import vggt_weights

from sf_training.data import record_file
from sf_training.spatial_forcing.alignment import AlignmentConfig, prepare_target
from sf_training.spatial_forcing.hf_teacher import HfTeacher
from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.vision_targets import open_teacher, vision_targets

GRID, WIDTH, BLOCKS = 3, 32, 3
CONFIG = AlignmentConfig()
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
VISION = SIZES | {"image_size": 56, "patch_size": 14, "intermediate_size": 64}


def dinov2() -> transformers.PreTrainedModel:
    return transformers.Dinov2Model(
        transformers.Dinov2Config(image_size=56, patch_size=14, **SIZES)
    )


def dinov2_with_registers() -> transformers.PreTrainedModel:
    config = transformers.Dinov2WithRegistersConfig(
        image_size=56, patch_size=14, num_register_tokens=4, **SIZES
    )
    return transformers.Dinov2WithRegistersModel(config)


def depth_anything() -> transformers.PreTrainedModel:
    stages = [f"stage{number}" for number in (1, 1, 2, 3)]
    backbone = transformers.Dinov2Config(
        image_size=56,
        patch_size=14,
        out_features=stages[1:],
        reshape_hidden_states=False,
        apply_layernorm=True,
        **SIZES,
    )
    sizes = {
        "reassemble_hidden_size": WIDTH,
        "reassemble_factors": [4, 2, 1],
        "neck_hidden_sizes": [8, 16, 32],
    }
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=14, fusion_hidden_size=8, head_hidden_size=8, **sizes
    )
    return transformers.DepthAnythingForDepthEstimation(config)


def siglip() -> transformers.PreTrainedModel:
    text = SIZES | {"intermediate_size": 64, "vocab_size": 50, "max_position_embeddings": 8}
    return transformers.SiglipModel(
        transformers.SiglipConfig(
            vision_config=VISION, text_config=text | {"bos_token_id": 1, "eos_token_id": 2}
        )
    )


@pytest.fixture(
    scope="module",
    params=[dinov2, dinov2_with_registers, depth_anything, siglip],
    ids=lambda build: build.__name__,
)
def saved(request, tmp_path_factory):
    """Return a tiny random model and the directory where it is saved."""
    torch.manual_seed(0)
    model = request.param().eval()
    folder = tmp_path_factory.mktemp(request.param.__name__)
    model.save_pretrained(folder)
    return model, folder


def random_images(frames: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 2, 3, 48, 48), dtype=np.uint8)


@pytest.fixture
def vggt(tmp_path):
    """Return the tiny VGGT with its last two layers."""
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    return open_teacher("vggt", str(tmp_path), (-1,), size=56)


class Counting:
    """A teacher that counts its frames and may fail after some."""

    def __init__(self, teacher, fail_after: int = 10**9) -> None:
        self.teacher, self.seen, self.fail_after = teacher, 0, fail_after

    def __getattr__(self, name):
        return getattr(self.teacher, name)

    def features(self, images, present=None):
        if self.seen >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        return self.teacher.features(images, present)


def test_features_are_the_patch_tokens_of_each_block(saved):
    model, folder = saved
    vision = getattr(model, "backbone", getattr(model, "vision_model", model))
    blocks = next(
        module
        for module in vision.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == BLOCKS
    )
    left = {}
    for number, block in enumerate(blocks):
        block.register_forward_hook(
            lambda _module, _arguments, output, number=number: left.__setitem__(number, output)
        )
    colour = (0.5, 0.5) if "siglip" in type(model).__name__.lower() else None
    mean = torch.tensor([0.5] * 3 if colour else [0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.5] * 3 if colour else [0.229, 0.224, 0.225]).view(3, 1, 1)
    images = torch.rand(2, 2, 3, 56, 56)
    with torch.no_grad():
        vision(pixel_values=((images - mean) / std).flatten(0, 1))
    raw = [
        (output if isinstance(output, torch.Tensor) else output[0])[:, -16:].view(2, 2, 4, 4, WIDTH)
        for output in left.values()
    ]
    norm = next(
        module
        for name, module in vision.named_modules()
        if name.endswith(("layernorm", "post_layernorm"))
    )
    first, last = HfTeacher(folder, (0, -1)).features(images)
    torch.testing.assert_close(first, raw[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, norm(raw[-1]).detach(), rtol=1e-4, atol=1e-5)
    assert not last.requires_grad


def test_a_model_has_a_name_and_accepts_other_image_sizes(saved):
    _, folder = saved
    teacher = HfTeacher(folder, size=84)
    assert "3 layers of width 32" in teacher.description
    assert teacher.features(torch.rand(1, 2, 3, 48, 48))[0].shape == (1, 2, 6, 6, WIDTH)
    present = torch.tensor([[True, False]])
    assert torch.count_nonzero(teacher.features(torch.rand(1, 2, 3, 48, 48), present)[0][:, 1]) == 0


def test_the_color_normalisation_is_read_from_the_models_file(saved, tmp_path):
    _, folder = saved
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    images = torch.rand(1, 1, 3, 56, 56)
    before = HfTeacher(copy).features(images)[0]
    (copy / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1] * 3, "image_std": [0.7] * 3})
    )
    assert not torch.allclose(HfTeacher(copy).features(images)[0], before)


@pytest.mark.parametrize("changed", ["preprocessor_config.json", "config.json", "a shard"])
def test_a_cache_is_rebuilt_when_a_file_of_the_model_changes(changed, tmp_path):
    torch.manual_seed(0)
    dinov2().eval().save_pretrained(tmp_path, max_shard_size="30KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1

    def frames_seen() -> int:
        teacher = Counting(HfTeacher(tmp_path))
        vision_targets(teacher, random_images(), GRID, CONFIG, cache=tmp_path / "cache")
        return teacher.seen

    assert [frames_seen(), frames_seen()] == [5, 0]
    if changed == "a shard":
        save_file(
            {name: value + 0.1 for name, value in load_file(shards[-1]).items()},
            shards[-1],
            metadata={"format": "pt"},
        )
    elif changed == "config.json":
        config = json.loads((tmp_path / changed).read_text())
        (tmp_path / changed).write_text(json.dumps(config | {"hidden_act": "relu"}))
    else:
        (tmp_path / changed).write_text(
            json.dumps({"image_mean": [0.1] * 3, "image_std": [0.7] * 3})
        )
    assert [frames_seen(), frames_seen()] == [5, 0]


def test_a_training_step_in_bfloat16_does_not_round_the_teacher(saved):
    teacher = HfTeacher(saved[1])
    images = torch.rand(1, 2, 3, 56, 56)
    with torch.autocast("cpu", torch.bfloat16):
        inside = teacher.features(images)[0]
    assert torch.equal(inside, teacher.features(images)[0])


def test_the_bars_of_a_letterbox_are_white_for_a_teacher(vggt, tmp_path):
    area = np.ones((2, 48, 48), bool)
    area[1, :, 40:] = False
    images = random_images()
    images[:, 1, :, :, 40:] = 127  # as prepared for the student
    seen = []
    features = vggt.features
    vggt.features = lambda pixels, present=None: seen.append(pixels.clone()) or features(pixels)
    (white,) = vision_targets(vggt, images, GRID, CONFIG, area=area, cache=tmp_path).layers
    (pixels,) = seen
    assert (pixels[:, 1, :, :, 40:] == 1.0).all()
    np.testing.assert_allclose(pixels[:, 0], images[:, 0] / 255, atol=1e-6)
    assert (images[:, 1, :, :, 40:] == 127).all()  # the student's images are unchanged
    (grey,) = vision_targets(vggt, images, GRID, CONFIG, cache=tmp_path).layers  # a separate cache
    assert not np.allclose(white[:], grey[:], atol=1e-3)


def test_bad_models_are_named(saved, tmp_path):
    _, folder = saved
    with pytest.raises(TeacherError, match="layer 9: this model has 3 layers, -3 to 2"):
        HfTeacher(folder, (9,))
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    lost = next(name for name in tensors if "fc1.weight" in name and "text" not in name)
    save_file(
        {name: value for name, value in tensors.items() if name != lost},
        copy / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(
        TeacherError,
        match=(
            r"1 tensors are missing or of another size, .*fc1.weight among them; download it again"
        ),
    ):
        HfTeacher(copy)
    (copy / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(
        TeacherError,
        match=(
            "a model of type vit; teacher hf takes dinov2, dinov2_with_registers, depth_anything,"
            " siglip"
        ),
    ):
        HfTeacher(copy)
    (copy / "config.json").unlink()
    with pytest.raises(TeacherError, match="no model of transformers"):
        HfTeacher(copy)
    with pytest.raises(TeacherError, match="no such file or directory, and not a hub id"):
        HfTeacher(tmp_path / "nothing")


def cosine(found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = found.astype(np.float64).reshape(expected.shape), expected.astype(np.float64)
    return float(
        (
            (found * expected).sum(-1)
            / np.linalg.norm(found, axis=-1)
            / np.linalg.norm(expected, axis=-1)
        ).min()
    )


def test_targets_are_the_positioned_and_resized_teacher_features(vggt, tmp_path):
    images = random_images()
    expected = prepare_target(
        vggt.features(torch.from_numpy(images) / 255)[0], GRID, CONFIG.position_scale
    ).numpy()
    for cache in (None, tmp_path / "cache"):
        targets = vision_targets(vggt, images, GRID, CONFIG, cache=cache)
        assert targets.prepared
        assert targets.layers[0].shape == (5, 2, GRID, GRID, 64)
        assert cosine(targets.layers[0][:], expected) > 0.99999
        np.testing.assert_allclose(
            np.square(targets.layers[0][:].astype(np.float32)).mean(-1), 1.0, atol=1e-2
        )


def test_targets_are_cached_until_an_input_changes(vggt, tmp_path):
    images = random_images()

    def frames_seen(images=images, config=CONFIG, grid=GRID) -> int:
        teacher = Counting(vggt)
        vision_targets(teacher, images, grid, config, cache=tmp_path / "cache")
        return teacher.seen

    assert [frames_seen(), frames_seen()] == [5, 0]
    assert frames_seen(images=random_images(seed=1)) == 5
    assert frames_seen(grid=4) == 5
    assert frames_seen(config=AlignmentConfig(position_scale=0.0)) == 5
    assert frames_seen() == 0


def test_an_interrupted_computation_resumes_from_the_saved_frames(vggt, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sf_training.spatial_forcing.vision_targets._PIXELS", 1
    )  # one frame at a time
    images = random_images()
    with pytest.raises(KeyboardInterrupt):
        vision_targets(Counting(vggt, fail_after=3), images, GRID, CONFIG, cache=tmp_path / "cache")
    rest = Counting(vggt)
    targets = vision_targets(rest, images, GRID, CONFIG, cache=tmp_path / "cache")
    assert rest.seen == 2
    np.testing.assert_array_equal(
        targets.layers[0][:], vision_targets(vggt, images, GRID, CONFIG).layers[0][:]
    )


def test_a_damaged_basis_is_recomputed_with_its_features(vggt, tmp_path):
    teacher, images = Counting(vggt), random_images()
    options = {"channels": 16, "cache": tmp_path}
    before = vision_targets(teacher, images, GRID, CONFIG, **options).layers[0][:]
    (basis,) = tmp_path.glob("features-*/basis.npz")
    basis.write_bytes(basis.read_bytes()[:100])
    after = vision_targets(teacher, images, GRID, CONFIG, **options).layers[0][:]
    np.testing.assert_array_equal(before, after)
    with np.load(basis) as saved:
        turned = {name: -saved[name] if name == "layer_0" else saved[name] for name in saved.files}
    np.savez(basis, **turned)
    teacher.seen = 0
    other = vision_targets(teacher, images, GRID, CONFIG, **options).layers[0][:]
    assert teacher.seen == len(images)  # features of different bases are not mixed
    np.testing.assert_array_equal(other, -before)


def test_a_full_disk_gives_one_sentence(vggt, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record_file.os, "pwrite", full)
    with pytest.raises(
        TeacherError, match=r"features cannot be saved \(No space left on device\); free disk space"
    ):
        vision_targets(vggt, random_images(), GRID, CONFIG, cache=tmp_path)


def test_non_finite_features_are_refused(vggt):
    with torch.no_grad():
        vggt.network.camera_token.fill_(float("nan"))
    with pytest.raises(
        TeacherError, match="a feature is not finite; take float32, or check the weights"
    ):
        vision_targets(vggt, random_images(), GRID, CONFIG)


def test_several_layers_are_cached_side_by_side(tmp_path):
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    config = AlignmentConfig(layers=(1, 2), teacher_layers=(0, -1))
    teacher = open_teacher("vggt", str(tmp_path), config.teacher_layers, size=56)
    first, last = vision_targets(
        teacher, random_images(), GRID, config, cache=tmp_path / "cache"
    ).layers
    assert first.shape == last.shape
    assert not np.array_equal(first[:], last[:])


def test_fewer_channels_keep_the_angles_and_report_the_loss(vggt, tmp_path):
    images = random_images(frames=40)
    (complete,) = vision_targets(vggt, images, GRID, CONFIG).layers
    teacher = Counting(vggt)
    few = vision_targets(teacher, images, GRID, CONFIG, channels=16, cache=tmp_path)
    assert few.layers[0].shape == (40, 2, GRID, GRID, 16)
    assert teacher.seen == 2 * 40  # once for the channels, once for the features
    complete, kept = (
        layer[:].reshape(-1, layer.shape[-1]).astype(np.float32)
        for layer in (complete, few.layers[0])
    )
    left = np.linalg.norm(kept, axis=1) / np.linalg.norm(complete, axis=1)
    assert 0.9 < few.cosine < 1.0
    assert left.mean() == pytest.approx(few.cosine, abs=0.02)
    normed = [
        layer / np.linalg.norm(layer, axis=1, keepdims=True)
        for layer in (complete[::20], kept[::20])
    ]
    assert np.abs(normed[0] @ normed[0].T - normed[1] @ normed[1].T).max() < 0.2
    again = vision_targets(teacher, images, GRID, CONFIG, channels=16, cache=tmp_path)
    assert (teacher.seen, again.cosine) == (2 * 40, few.cosine)
    assert vision_targets(vggt, images, GRID, CONFIG, channels=4).cosine < few.cosine
    assert (
        vision_targets(vggt, images, GRID, CONFIG, channels=16, control="random")
        .layers[0]
        .shape[-1]
        == 16
    )


@pytest.mark.parametrize("control", ["mean", "random"])
def test_controls_mean_and_random_are_the_same_for_every_frame(vggt, control):
    (layer,) = vision_targets(vggt, random_images(), GRID, CONFIG, control=control).layers
    assert layer.shape == (5, 2, GRID, GRID, 64)
    np.testing.assert_array_equal(layer, np.broadcast_to(layer[:1], layer.shape))
    if control == "mean":
        (complete,) = vision_targets(vggt, random_images(), GRID, CONFIG).layers
        np.testing.assert_allclose(layer[0], complete[:].mean(0, dtype=np.float64), atol=2e-3)


@pytest.mark.parametrize("control", ["random", "rgb"])
def test_controls_random_and_rgb_never_call_the_teacher(vggt, control, tmp_path):
    teacher = Counting(vggt, fail_after=0)
    images = random_images()
    (layer,) = vision_targets(teacher, images, GRID, CONFIG, control=control, cache=tmp_path).layers
    assert layer.shape == (5, 2, GRID, GRID, 64)
    (changed,) = vision_targets(
        teacher, 255 - images, GRID, CONFIG, control=control, cache=tmp_path
    ).layers
    assert np.array_equal(layer[:], changed[:]) == (control == "random")
