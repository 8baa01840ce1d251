"""Tests of compact feature caches: angular error, size, resuming, reading while training."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save_file
from seeded_weights import vggt_weights

from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.cache_format import FORMATS, cosine_errors, decode, encode
from sf_training.spatial_forcing.feature_cache import FeatureCache, locked_folder
from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.vggt_teacher import VggtTeacher
from sf_training.spatial_forcing.vision_targets import open_teacher, vision_targets
from sf_training.spatial_forcing.weights import open_weights
from sf_training.training.settings import Settings, TrainingError

FRAMES, SHAPE = 6, (6, 2, 3, 3, 64)
WORST = {
    "float16": 1e-6,
    "bfloat16": 2e-5,
    "int8": 1e-3,
}  # error of unit normal tokens of 64 channels


def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def opened(folder: Path | None, form: str = "float16", episodes=(("a", FRAMES),)) -> FeatureCache:
    return FeatureCache(folder, episodes, SHAPE[1:], 1, form)


def fill(cache: FeatureCache, values: np.ndarray, stop: int = 99) -> list[int]:
    """Compute missing features, one frame at a time; return the computed frames."""
    asked = []

    def compute(frames):
        if frames[0] >= stop:
            raise KeyboardInterrupt
        asked.extend(frames.tolist())
        return [(values[frames], np.linalg.norm(values[frames].astype(np.float64), axis=-1))]

    missing = cache.check(lambda _: None)
    cache.fill(missing, compute, 1, lambda _: None)
    return asked


@pytest.mark.parametrize("folder", ["memory", "disk"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_format_keeps_the_angles_and_reports_its_error(form, folder, tmp_path):
    values = features()
    cache = opened(tmp_path if folder == "disk" else None, form)
    fill(cache, values)
    (layer,) = cache.load()
    assert layer.shape == SHAPE and len(layer) == FRAMES
    lost = 1 - cosines(layer[:], values)
    assert lost.max() < WORST[form]
    assert cache.mean_error == pytest.approx(lost.mean(), rel=1e-3, abs=1e-12)
    assert cache.largest_error == pytest.approx(lost.max(), rel=1e-3, abs=1e-12)
    np.testing.assert_array_equal(layer[np.array([4, 1])], layer[:][[4, 1]])
    np.testing.assert_array_equal(layer[3], layer[:][3])
    if folder == "disk":
        again = opened(tmp_path, form)
        assert fill(again, values) == []
        assert (again.mean_error, again.largest_error) == (cache.mean_error, cache.largest_error)
        np.testing.assert_array_equal(again.load()[0][:], layer[:])


def test_int8_takes_about_half_of_the_space(tmp_path):
    sizes = {}
    for form in FORMATS:
        (tmp_path / form).mkdir()
        cache = opened(tmp_path / form, form)
        fill(cache, features())
        sizes[form] = sum(path.stat().st_size for path in (tmp_path / form).iterdir())
        assert sizes[form] - cache.nbytes == 4 * FRAMES  # checksums
    assert sizes["bfloat16"] == sizes["float16"]
    assert sizes["int8"] < 0.55 * sizes["float16"]


def test_each_format_and_teacher_has_a_described_folder(tmp_path):
    names = []
    for key in ({"teacher": "a"}, {"teacher": "b"}, {"teacher": "a", "format": "int8"}):
        with locked_folder(tmp_path, key) as folder:
            assert json.loads((folder / "key.json").read_text()) == key
            names.append(folder.name)
    assert len(set(names)) == 3


@pytest.mark.parametrize("form", FORMATS)
def test_an_interrupted_computation_continues_at_the_next_frame(form, tmp_path):
    complete = opened(None, form)
    fill(complete, features())
    with pytest.raises(KeyboardInterrupt):
        fill(opened(tmp_path, form), features(), stop=4)
    again = opened(tmp_path, form)
    assert fill(again, features()) == [4, 5]
    np.testing.assert_array_equal(again.load()[0][:], complete.load()[0][:])
    assert again.mean_error == pytest.approx(complete.mean_error)


def test_another_episode_costs_only_its_own_frames(tmp_path):
    values = np.random.default_rng(1).normal(size=(9, *SHAPE[1:])).astype(np.float32)
    fill(opened(tmp_path, episodes=[("a", 2), ("b", 3)]), values)
    order = [5, 6, 7, 8, 0, 1, 2, 3, 4]  # the new episode comes first
    more = opened(tmp_path, episodes=[("new", 4), ("a", 2), ("b", 3)])
    assert fill(more, values[order]) == [0, 1, 2, 3]
    found = more.load()[0]
    np.testing.assert_array_equal(found[:], values[order].astype(np.float16))
    np.testing.assert_array_equal(found[np.array([8, 3, 4])], found[:][[8, 3, 4]])
    assert fill(opened(tmp_path, episodes=[("b", 3)]), values) == []


def test_only_a_damaged_episode_is_recomputed(tmp_path):
    values, episodes = features(), [("a", 2), ("b", 4)]
    fill(opened(tmp_path, episodes=episodes), values)
    file = tmp_path / "b.features"
    content = bytearray(file.read_bytes())
    content[len(content) // 4 + 10] ^= 1  # one bit in the second of its four frames
    file.write_bytes(content)
    cache = opened(tmp_path, episodes=episodes)
    assert fill(cache, values) == [3]
    np.testing.assert_array_equal(cache.load()[0][:], values.astype(np.float16))
    for lost in (1, 100):
        file.write_bytes(file.read_bytes()[:-lost])
        assert fill(opened(tmp_path, episodes=episodes), values) == [2, 3, 4, 5]
    (tmp_path / "a.features").unlink()
    assert fill(opened(tmp_path, episodes=episodes), values) == [0, 1]


def test_damage_during_training_gives_one_sentence(tmp_path):
    cache = opened(tmp_path)
    fill(cache, features())
    (tmp_path / "a.features").unlink()
    with pytest.raises(
        TeacherError, match="cached features of 2 frames were removed or cut off; start again"
    ):
        cache.load()[0][np.array([1, 3])]


def test_equal_episodes_are_computed_once(tmp_path):
    values = np.tile(features()[:3], (2, 1, 1, 1, 1))
    for folder in (None, tmp_path):
        cache = opened(folder, episodes=[("a", 3), ("a", 3)])
        assert fill(cache, values) == [0, 1, 2]
        np.testing.assert_array_equal(cache.load()[0][:], values.astype(np.float16))


def test_concurrent_runs_compute_the_channels_once(tmp_path):
    """Otherwise both would fill one cache with different bases."""
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (20, 2, 3, 48, 48), dtype=np.uint8)
    seen = []
    teacher = open_teacher("vggt", str(tmp_path), (-1,), size=56)
    features = teacher.features
    teacher.features = lambda pixels, present=None: seen.append(len(pixels)) or features(pixels)

    def run(_):
        return vision_targets(
            teacher, images, 3, AlignmentConfig(), channels=16, cache=tmp_path / "cache"
        ).layers[0][:]

    with ThreadPoolExecutor(2) as pool:
        fitted = list(pool.map(run, range(2)))
    np.testing.assert_array_equal(*fitted)
    assert sum(seen) == 2 * 20  # once for the channels, once for the features


@settings(max_examples=100, deadline=None)
@given(
    values=arrays.arrays(np.float32, (3, 8), elements=st.floats(-100, 100, width=32)),
    form=st.sampled_from(FORMATS),
)
def test_the_error_of_a_value_is_at_most_one_step(values, form):
    found = decode(encode(values, form), form)
    step = {
        "float16": np.maximum(np.abs(values) * 2**-11, 2**-25),
        "bfloat16": np.abs(values) * 2**-8 + 1e-38,
        "int8": (
            np.abs(values).max(-1, keepdims=True) / 127 * 0.57 + 1e-5
        ),  # half a step, and what the scale itself is rounded by
    }[form]
    assert (np.abs(found - values) <= step).all()


def test_bfloat16_rounds_as_torch_does():
    values = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32) * 10.0 ** np.arange(
        -25, 25
    )[:, None].astype(np.float32)
    np.testing.assert_array_equal(
        decode(encode(values, "bfloat16"), "bfloat16"),
        torch.from_numpy(values).bfloat16().float().numpy(),
    )


def test_a_token_of_zeros_is_exact():
    values = np.zeros((2, 8), np.float32)
    for form in FORMATS:
        stored = decode(encode(values, form), form)
        assert not cosine_errors(values, stored, np.linalg.norm(values, axis=-1)).any()


def test_the_error_of_channels_and_format_is_relative_to_full_targets(tmp_path):
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    teacher = open_teacher("vggt", str(tmp_path), (-1,), size=56)
    images = np.random.default_rng(0).integers(0, 256, (20, 2, 3, 48, 48), dtype=np.uint8)
    config = AlignmentConfig()

    def targets(**options):
        return vision_targets(teacher, images, 3, config, cache=tmp_path / "cache", **options)

    full, int8, few, both = (
        targets(),
        targets(form="int8"),
        targets(channels=16),
        targets(channels=16, form="int8"),
    )
    assert int8.cosine == pytest.approx(
        cosines(int8.layers[0][:], full.layers[0][:]).mean(), abs=1e-5
    )
    assert full.cosine > int8.cosine > few.cosine > both.cosine > 0.9
    assert (
        min(each.lowest_cosine for each in (full, int8, few, both))
        == both.lowest_cosine
        < both.cosine
    )
    assert both.nbytes < int8.nbytes / 3 < full.nbytes / 5
    np.testing.assert_array_equal(
        targets(form="int8").layers[0][np.array([3, 0])], int8.layers[0][:][[3, 0]]
    )
    (mean,) = targets(form="int8", control="mean").layers
    np.testing.assert_allclose(mean[0], full.layers[0][:].mean(0, dtype=np.float64), atol=5e-3)


def test_images_are_read_in_batches_and_keyed_by_their_digest(tmp_path):
    """Images decoded from bags are read by indices and have their own digest."""
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    teacher = open_teacher("vggt", str(tmp_path), (-1,), size=56)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 3, 28, 56), dtype=np.uint8)

    class Bags:
        shape = pixels.shape
        read = 0

        def __len__(self):
            return len(pixels)

        def __getitem__(self, frames):
            assert isinstance(frames, np.ndarray)
            self.read += len(frames)
            return pixels[frames]

    bags = Bags()
    options = {"cache": tmp_path / "cache", "episodes": [("one", 2), ("other", 3)]}
    (layer,) = vision_targets(teacher, bags, (1, 2), AlignmentConfig(), **options).layers
    assert layer.shape == (5, 1, 1, 2, 64)
    assert bags.read == 5
    vision_targets(teacher, bags, (1, 2), AlignmentConfig(), **options)
    assert bags.read == 5
    for control in ("rgb", "mean", "random"):
        (layer,) = vision_targets(
            teacher, bags, (1, 2), AlignmentConfig(), control=control, **options
        ).layers
        assert layer.shape == (5, 1, 1, 2, 64)


def test_live_targets_equal_cached_ones_with_one_teacher_pass(tmp_path):
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    config = AlignmentConfig(layers=(1, 2), teacher_layers=(0, -1))
    teacher = open_teacher("vggt", str(tmp_path), config.teacher_layers, size=56)
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 3, 48, 48), dtype=np.uint8)
    ran = []
    features = teacher.features
    teacher.features = lambda images, present=None: ran.append(len(images)) or features(images)
    for channels in (0, 16):
        live = vision_targets(teacher, images, 3, config, channels=channels, live=True).layers
        ran.clear()
        frames = np.array([4, 0, 4])
        found = [layer[frames] for layer in live]
        assert ran == [3]
        cached = vision_targets(teacher, images, 3, config, channels=channels).layers
        for one, other in zip(found, cached, strict=True):
            assert one.shape == (3, *other.shape[1:])
            np.testing.assert_allclose(one, other[frames], atol=2e-3)
    with pytest.raises(
        TeacherError,
        match=(
            "control mean: the average is over all frames, so their features must be stored; take a"
            " cache"
        ),
    ):
        vision_targets(teacher, images, 3, config, control="mean", live=True)


def test_cached_features_need_no_weights_in_memory(tmp_path):
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 3, 28, 28), dtype=np.uint8)

    def targets():
        weights = open_weights(tmp_path)
        read = []
        counting = replace(weights, _read=lambda name: read.append(name) or weights[name])
        vision_targets(
            VggtTeacher(counting, size=56), images, 2, AlignmentConfig(), cache=tmp_path / "cache"
        )
        return len(read)

    assert targets() > 50
    assert targets() == 0


def test_a_cache_format_without_a_cache_is_refused():
    with pytest.raises(
        TrainingError,
        match="--cache-format int8: teacher pointmap has no cache; it is for vggt, da3 and hf",
    ):
        Settings(data=Path("data"), out=Path("out"), cache_format="int8")
    Settings(
        data=Path("data"),
        out=Path("out"),
        teacher="vggt",
        teacher_weights="somewhere",
        cache_format="int8",
    )
