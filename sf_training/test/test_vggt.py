"""Tests of the VGGT aggregator: reference values, official keys, lazy layers, bad weights."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from seeded_weights import TINY_VGGT, seeded_images, vggt_weights

from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.spatial_forcing import weights
from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.vggt import VggtAggregator, VggtConfig
from sf_training.spatial_forcing.vggt_teacher import VggtTeacher, load_aggregator
from sf_training.spatial_forcing.weights import open_weights

SHAPES = {"square": (2, 3, 3, 56, 56), "wide": (1, 2, 3, 42, 70)}
# Reference values of upstream's aggregator (facebookresearch/vggt 44b3afb) with these weights and #
# images: norm of a layer's patch features, then four single values: [view 0, patch 0, channel 0], #
# [view 1, patch 5, last], [last view, last patch, width], [last, 7, last].
UPSTREAM = {
    ("square", 0): (96.979332, 1.185621, -0.062666, -0.752547, 2.1406),
    ("square", 1): (103.891434, 0.745911, 0.104557, -0.39265, 1.643791),
    ("square", 2): (111.944061, 0.868825, -0.046377, -0.320527, 1.398146),
    ("wide", 0): (55.370815, -0.369183, 1.477204, 1.440185, 0.075707),
    ("wide", 1): (60.226044, -0.052157, 1.651813, 2.026905, -0.68289),
    ("wide", 2): (64.999092, 0.278821, 1.143595, 3.328655, -1.137259),
}


@pytest.fixture
def directory(tmp_path):
    """Write the tiny aggregator with an unused head, as in the official checkpoint."""
    save_file(
        vggt_weights() | {"camera_head.token": torch.zeros(3)}, tmp_path / "model.safetensors"
    )
    return tmp_path


def teacher(source, *layers, size=56, **options) -> VggtTeacher:
    return VggtTeacher(open_weights(source), layers or (-1,), size, **options)


@pytest.mark.parametrize("name", SHAPES)
def test_features_equal_upstream(directory, name):
    found = load_aggregator(open_weights(directory), (0, 1, 2))(seeded_images(100, *SHAPES[name]))
    for layer, features in enumerate(found):
        patches = features.flatten(2, 3)
        wide = TINY_VGGT.width
        values = (
            patches.norm(),
            patches[0, 0, 0, 0],
            patches[0, 1, 5, wide - 1],
            patches[-1, -1, -1, wide],
            patches[-1, -1, 7, -1],
        )
        assert [float(value) for value in values] == pytest.approx(
            UPSTREAM[name, layer], rel=1e-4, abs=1e-5
        )


def test_layers_have_the_requested_order_and_deeper_blocks_are_dropped(directory):
    images = seeded_images(100, *SHAPES["square"])
    full = load_aggregator(open_weights(directory), (0, 1, 2))
    some = load_aggregator(open_weights(directory), (1, 0))
    every, found = full(images), some(images)
    assert torch.equal(found[0], every[1])
    assert torch.equal(found[1], every[0])
    assert len(some.frame_blocks) == len(some.global_blocks) == 2
    assert torch.equal(load_aggregator(open_weights(directory), (-2,))(images)[0], every[1])


@settings(max_examples=10, deadline=None)
@given(order=st.permutations([1, 2, 3]), seed=st.integers(0, 99))
def test_the_first_view_is_the_reference_and_the_order_of_others_is_free(order, seed):
    network = VggtAggregator(TINY_VGGT)
    weights = vggt_weights(prefix="")
    weights.pop("patch_embed.mask_token")
    network.load_state_dict(weights)
    images = seeded_images(seed, 1, 4, 3, 28, 28)
    with torch.no_grad():
        (features,), (reordered,) = network(images), network(images[:, [0, *order]])
        (swapped,) = network(images[:, [1, 0, 2, 3]])
    torch.testing.assert_close(reordered, features[:, [0, *order]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(swapped[:, 1], features[:, 0], atol=1e-2)


def test_sizes_are_derived_from_the_official_shapes():
    with torch.device("meta"):
        official = VggtAggregator(VggtConfig())
    shapes = {name: tuple(value.shape) for name, value in official.state_dict().items()}
    assert VggtConfig.from_shapes(shapes) == VggtConfig()
    assert (
        sum(parameter.numel() for parameter in official.parameters()) == 909_112_320 - 1024
    )  # without the unused mask token
    assert shapes["frame_blocks.23.attn.q_norm.weight"] == (64,)
    assert shapes["patch_embed.pos_embed"] == (1, 1370, 1024)


def test_weights_load_from_every_supported_source(directory, tmp_path):
    images = seeded_images(100, 1, 2, 3, 56, 56)
    (expected,) = teacher(directory).features(images)
    torch.save(vggt_weights(), tmp_path / "whole.pt")
    torch.save({"model": vggt_weights(), "epoch": 3}, tmp_path / "trained.pt")
    save_file(vggt_weights(prefix=""), tmp_path / "aggregator.safetensors")
    for source in ("model.safetensors", "whole.pt", "trained.pt", "aggregator.safetensors"):
        assert torch.equal(teacher(tmp_path / source).features(images)[0], expected)


def test_a_hub_id_reads_the_local_cache_or_names_it(tmp_path):
    snapshot = tmp_path / "hub/models--someone--vggt/snapshots/abc"
    snapshot.mkdir(parents=True)
    save_file(vggt_weights(), snapshot / "model.safetensors")
    (snapshot / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    program = (
        "import sys; from sf_training.spatial_forcing.weights import open_weights\n"
        "for source in sys.argv[1:]:\n"
        "    try: print(open_weights(source).licence)\n"
        "    except ValueError as error: print(error)"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "-c", program, "someone/vggt", "facebook/VGGT-1B"]
    lines = subprocess.run(
        run, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    ).stdout.splitlines()
    assert lines[0] == "cc-by-nc-4.0"
    assert (
        "facebook/VGGT-1B: no such path, the hub cannot be reached and nothing is cached; download"
        " it elsewhere" in lines[1]
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            errors.GatedRepoError,
            (
                r"gated; accept its licence at https://huggingface.co/facebook/VGGT-1B, then `hf"
                r" auth login`"
            ),
        ),
        (errors.RepositoryNotFoundError, "neither a local path nor a repository of the hub"),
        (errors.RemoteEntryNotFoundError, "holds none of model.safetensors"),
        (errors.HfHubHTTPError, r"the hub does not answer \(503"),
    ],
)
def test_errors_of_the_hub_give_one_sentence(monkeypatch, error, message):
    def refuse(*_, **__):
        raise error("503 from the hub", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr(weights, "_answers", lambda endpoint: True)
    with pytest.raises(TeacherError, match="facebook/VGGT-1B: " + message):
        open_weights("facebook/VGGT-1B")


def test_without_a_network_the_hub_is_asked_once_and_not_for_a_minute(monkeypatch, tmp_path):
    asked = []

    def download(repository, name, *, local_files_only):
        asked.append(local_files_only)
        raise errors.LocalEntryNotFoundError("not in the cache")

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(TeacherError, match="the hub cannot be reached and nothing is cached"):
        open_weights("facebook/VGGT-1B")
    assert asked and all(asked)


def test_the_licence_is_read_from_beside_the_weights(directory):
    assert "ask where they came from" in teacher(directory).licence
    (directory / "LICENSE.txt").write_text("\nVGGT License\nv1\n")
    assert teacher(directory).licence.startswith("VGGT License (")
    (directory / "README.md").write_text(
        "---\nlicense: other\nlicense_name: vggt-license\n---\n# VGGT\n"
    )
    assert teacher(directory).licence == "other, vggt-license"


def changed(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return the tiny weights with changes.

    None removes a weight; ``__`` in a name means a dot.
    """
    weights = vggt_weights()
    for name, value in tensors.items():
        weights.pop("aggregator." + name.replace("__", "."), None)
        if value is not None:
            weights["aggregator." + name.replace("__", ".")] = value
    return weights


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            changed(frame_blocks__1__attn__qkv__weight=None),
            "1 tensors of the aggregator are missing, aggregator.frame_blocks.1.attn.qkv",
        ),
        (changed(camera_token=None), "not a VGGT checkpoint: no aggregator.camera_token among its"),
        (
            changed(register_token=None),
            "tensor aggregator.register_token is missing; download the weights again",
        ),
        (
            changed(frame_blocks__1__mlp__fc1__bias=torch.zeros(5)),
            "aggregator.frame_blocks.1.mlp.fc1.bias is 5, the other tensors need 128",
        ),
        (
            changed(scale_head=torch.zeros(1)),
            "another architecture than VGGT: 1 unknown tensors, aggregator.scale_head among them",
        ),
        (
            changed(patch_embed__pos_embed=torch.zeros(1, 13, 32)),
            "holds 12 positions, which is not a square",
        ),
        ({"weight": torch.zeros(2)}, "not a VGGT checkpoint"),
    ],
)
def test_weights_of_another_model_are_named(tmp_path, weights, message):
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(TeacherError, match=message):
        teacher(tmp_path)


def test_a_missing_layer_is_named(directory):
    with pytest.raises(TeacherError, match="layer 24: this aggregator has 3 layers, -3 to 2"):
        teacher(directory, 24)


def test_files_that_are_not_weights_are_named(directory, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.system, ("true",))

    torch.save({"aggregator.camera_token": Trap()}, tmp_path / "trap.pt")
    (tmp_path / "text.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    (tmp_path / "text.pt").write_text("version https://git-lfs.github.com/spec/v1")
    (tmp_path / "empty").mkdir()
    for source, message in {
        "trap.pt": "holds pickled objects, which are not loaded",
        "text.safetensors": "not a readable safetensors file",
        "text.pt": "text.pt: ",
        "empty": "no model.safetensors, model.safetensors.index.json, model.pt in this directory",
        "nothing": "no such file or directory, and not a hub id such as facebook/VGGT-1B",
    }.items():
        with pytest.raises(TeacherError, match=message):
            open_weights(tmp_path / source)


def test_a_missing_camera_is_excluded_and_its_features_are_zero(directory):
    vggt = teacher(directory, 1, 2)
    images = seeded_images(7, 4, 3, 3, 56, 56)
    present = torch.tensor(
        [[True, True, True], [True, False, True], [False, False, False], [True, False, True]]
    )
    for found, full, two in zip(
        vggt.features(images, present),
        vggt.features(images),
        vggt.features(images[:, [0, 2]]),
        strict=True,
    ):
        torch.testing.assert_close(found[0], full[0])
        torch.testing.assert_close(found[1, [0, 2]], two[1])
        torch.testing.assert_close(found[3, [0, 2]], two[3])
        assert torch.count_nonzero(found[1, 1]) == torch.count_nonzero(found[2]) == 0


def test_images_of_any_size_are_resized_to_whole_patches(directory):
    assert teacher(directory).features(torch.rand(1, 2, 3, 48, 96))[0].shape == (1, 2, 2, 4, 64)
    with pytest.raises(
        ValueError, match="images are 3x48x50, wanted 3 channels and multiples of 14 pixels"
    ):
        teacher(directory).network(torch.rand(1, 2, 3, 48, 50))


def test_bfloat16_is_close_and_features_have_no_gradient(directory):
    images = seeded_images(3, 2, 2, 3, 56, 56).requires_grad_()
    (exact,), (rounded,) = (
        teacher(directory).features(images),
        teacher(directory, dtype=torch.bfloat16).features(images),
    )
    assert rounded.dtype == torch.float32
    assert not exact.requires_grad
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=-1).min() > 0.999


def test_incompatible_sizes_are_refused():
    with pytest.raises(ValueError, match="width 36 must be a multiple of head_size 8"):
        replace(TINY_VGGT, width=36)
