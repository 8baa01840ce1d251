"""Compact forms of the feature cache: what they cost in angle and in room, resumed, and read while
training.
"""

import os
from collections.abc import Callable
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

from sf_training.spatial_forcing import feature_cache
from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.cache_format import FORMATS, CosineError, decode, encode
from sf_training.spatial_forcing.feature_cache import FeatureCache
from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.vggt_teacher import VggtTeacher
from sf_training.spatial_forcing.vision_targets import open_teacher, vision_targets
from sf_training.spatial_forcing.weights import open_weights
from sf_training.training.settings import Settings, TrainingError

FRAMES, SHAPE = 6, (6, 2, 3, 3, 64)
WORST = {"float16": 1e-6, "bfloat16": 2e-5, "int8": 1e-3}  # of unit normal tokens of 64 channels


def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def interrupt() -> None:
    raise KeyboardInterrupt


def fill(
    cache: FeatureCache, values: np.ndarray, stop: int = 99, end: Callable[[], object] = interrupt
) -> list[slice]:
    """The parts that were asked for."""
    asked = []

    def compute(part):
        if part.start >= stop:
            end()
        asked.append(part)
        return [(values[part], np.linalg.norm(values[part].astype(np.float64), axis=-1))]

    cache.fill(compute, 1, lambda _: None)
    return asked


@pytest.mark.parametrize("form", FORMATS)
def test_a_form_keeps_the_angles_and_says_how_well(form, tmp_path):
    values = features()
    cache = FeatureCache(tmp_path, {"teacher": "any"}, SHAPE, 1, form)
    fill(cache, values)
    (layer,) = cache.load()
    assert layer.shape == SHAPE and len(layer) == FRAMES
    lost = 1 - cosines(layer[:], values)
    assert lost.max() < WORST[form]
    assert cache.error.tokens == lost.size
    assert cache.error.mean == pytest.approx(lost.mean(), rel=1e-3, abs=1e-12)
    assert cache.error.most == pytest.approx(lost.max(), rel=1e-3, abs=1e-12)
    opened = FeatureCache(tmp_path, {"teacher": "any"}, SHAPE, 1, form)
    assert (opened.done, opened.error) == (FRAMES, cache.error)
    np.testing.assert_array_equal(opened.load()[0][np.array([4, 1])], layer[:][[4, 1]])


def test_int8_takes_about_half_of_the_room(tmp_path):
    sizes = {}
    for form in FORMATS:
        cache = FeatureCache(tmp_path, {}, SHAPE, 1, form)
        fill(cache, features())
        sizes[form] = sum(path.stat().st_size for path in cache.folder.glob("*.npy"))
        assert sizes[form] - cache.nbytes < 300  # headers
    assert sizes["bfloat16"] == sizes["float16"]
    assert sizes["int8"] < 0.55 * sizes["float16"]


def test_forms_do_not_read_each_others_caches(tmp_path):
    for form in FORMATS:
        cache = FeatureCache(tmp_path, {}, SHAPE, 1, form)
        assert cache.done == 0
        fill(cache, features())
    assert len(list(tmp_path.glob("features-*"))) == len(FORMATS)


@pytest.mark.parametrize("form", FORMATS)
def test_a_resumed_cache_is_the_same_and_so_is_its_error(form, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "_SAVE_EVERY", 2)
    whole = FeatureCache(None, {}, SHAPE, 1, form)
    fill(whole, features())
    child = os.fork()
    if not child:
        fill(
            FeatureCache(tmp_path, {}, SHAPE, 1, form), features(), stop=5, end=lambda: os._exit(9)
        )
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    again = FeatureCache(tmp_path, {}, SHAPE, 1, form)
    assert again.done == 4  # the fifth frame was not saved yet, and its error does not count twice
    assert [part.start for part in fill(again, features())] == [4, 5]
    np.testing.assert_array_equal(again.load()[0][:], whole.load()[0][:])
    assert again.error.tokens == whole.error.tokens
    assert again.error.mean == pytest.approx(whole.error.mean)


def test_what_is_interrupted_keeps_every_frame_that_was_computed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fill(FeatureCache(tmp_path, {}, SHAPE, 1, "int8"), features(), stop=5)
    again = FeatureCache(tmp_path, {}, SHAPE, 1, "int8")
    assert (again.done, again.error.tokens) == (5, 5 * 2 * 3 * 3)
    assert [part.start for part in fill(again, features())] == [5]


def test_slow_frames_are_saved_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "_SAVE_AFTER_S", 0.0)
    seen = []
    fill(
        FeatureCache(tmp_path, {}, SHAPE, 1),
        features(),
        stop=5,
        end=lambda: seen.append(FeatureCache(tmp_path, {}, SHAPE, 1).done),
    )
    assert seen == [5]


def test_runs_that_start_together_find_the_channels_once(tmp_path):
    """Both would else fill one cache with different bases."""
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
    assert sum(seen) == 2 * 20  # once to find the channels, once for all


def test_a_missing_file_of_scales_is_told(tmp_path):
    cache = FeatureCache(tmp_path, {}, SHAPE, 1, "int8")
    fill(cache, features())
    (cache.folder / "layer_0_scale.npy").unlink()
    with pytest.raises(
        TeacherError,
        match=r"cached features cannot be read .*layer_0_scale.npy.*; delete this folder",
    ):
        _ = FeatureCache(tmp_path, {}, SHAPE, 1, "int8").done


@settings(max_examples=100, deadline=None)
@given(
    values=arrays.arrays(np.float32, (3, 8), elements=st.floats(-100, 100, width=32)),
    form=st.sampled_from(FORMATS),
)
def test_no_value_is_further_off_than_a_step(values, form):
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


def test_a_token_of_zeros_loses_nothing():
    values = np.zeros((2, 8), np.float32)
    error = CosineError()
    for form in FORMATS:
        error.add(values, decode(encode(values, form), form), np.linalg.norm(values, axis=-1))
    assert (error.mean, error.most, error.tokens) == (0.0, 0.0, 6)


def test_channels_and_form_together_are_measured_against_the_whole_targets(tmp_path):
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    teacher = open_teacher("vggt", str(tmp_path), (-1,), size=56)
    images = np.random.default_rng(0).integers(0, 256, (20, 2, 3, 48, 48), dtype=np.uint8)
    config = AlignmentConfig()

    def targets(**options):
        return vision_targets(teacher, images, 3, config, cache=tmp_path / "cache", **options)

    whole, int8, few, both = (
        targets(),
        targets(form="int8"),
        targets(channels=16),
        targets(channels=16, form="int8"),
    )
    assert int8.cosine == pytest.approx(
        cosines(int8.layers[0][:], whole.layers[0][:]).mean(), abs=1e-5
    )
    assert whole.cosine > int8.cosine > few.cosine > both.cosine > 0.9
    assert (
        min(each.lowest_cosine for each in (whole, int8, few, both))
        == both.lowest_cosine
        < both.cosine
    )
    assert both.nbytes < int8.nbytes / 3 < whole.nbytes / 5
    np.testing.assert_array_equal(
        targets(form="int8").layers[0][np.array([3, 0])], int8.layers[0][:][[3, 0]]
    )
    (mean,) = targets(form="int8", control="mean").layers
    np.testing.assert_allclose(mean[0], whole.layers[0].mean(0, dtype=np.float64), atol=5e-3)


def test_images_are_read_in_parts_and_their_digest_is_believed(tmp_path):
    """Data that are decoded from bags give frames by their indices and are known by a digest of
    their own.
    """
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
    options = {"cache": tmp_path / "cache", "digest": "the bags' checksums"}
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


def test_live_targets_are_those_of_the_cache_and_run_the_teacher_once_for_all_layers(tmp_path):
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


def test_a_format_without_a_cache_is_refused():
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
