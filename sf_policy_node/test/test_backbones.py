"""Tests of the adapter for image-text-to-text models, with eight tiny random families."""

import json
from pathlib import Path

import backbone_cases as cases
import numpy as np
import pytest
import torch
from backbone_cases import CONTRACT, JOINTS, SENTENCE, SIZES, batch, camera_images, hf, statistics

from sf_policy_node.motion.types import Join
from sf_policy_node.vla.backbones.hf import HfVla
from sf_policy_node.vla.backbones.pixels import flat_patches, pixels_of
from sf_policy_node.vla.backbones.pretrained import BackboneError
from sf_policy_node.vla.backbones.tiny import FAMILIES, tiny_config, tiny_tokenizer
from sf_policy_node.vla.backbones.words import WordsError
from sf_policy_node.vla.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from sf_policy_node.vla.policy import Policy
from sf_policy_node.vla.preprocessing import image_area, prepare

every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_a_saved_model_predicts_the_same_chunk(family, tmp_path):
    policy = Policy(hf(family), CONTRACT, statistics(), device="cpu")
    save_checkpoint(tmp_path / family, policy._model, CONTRACT, statistics(), {})
    loaded = Policy.load(tmp_path / family, contract=CONTRACT, device="cpu")
    expected = policy.predict(camera_images(), JOINTS, SENTENCE)
    assert expected.shape == (SIZES["horizon"], SIZES["action_size"])
    np.testing.assert_array_equal(loaded.predict(camera_images(), JOINTS, SENTENCE), expected)
    assert loaded.join is Join.BLEND
    # The chunk depends on images, text and state.
    assert not np.allclose(expected, loaded.predict(camera_images(1), JOINTS, SENTENCE), atol=1e-7)
    assert not np.allclose(
        expected, loaded.predict(camera_images(), JOINTS, "pick the blue cube"), atol=1e-7
    )
    assert not np.allclose(
        expected, loaded.predict(camera_images(), JOINTS + 0.1, SENTENCE), atol=1e-7
    )


@every_family
def test_visual_tokens_are_ordered_by_camera_and_row(family):
    """Each token depends most on the pixels of its own position."""
    model = hf(family)
    images, state, text = batch(model, 1)
    layout = model.visual_layout()
    rows, columns = layout.grid
    assert int(layout.mask.sum()) == layout.views * rows * columns
    images = images.float().requires_grad_(True)
    seen = []
    hook = layout.blocks[0].register_forward_pre_hook(
        lambda _m, positional, named: seen.append(
            positional[0] if positional else named["hidden_states"]
        ),
        with_kwargs=True,
    )
    model.context(images, state, text)
    hook.remove()
    assert seen[0].shape[1] == len(layout.mask)
    tokens = seen[0][0, layout.mask]
    height, width = model.config.image_size
    direction = torch.randn(tokens.shape[1], generator=torch.Generator().manual_seed(0))
    for number in {0, 1, columns, rows * columns - 1, rows * columns, len(tokens) - 1}:
        (gradient,) = torch.autograd.grad(tokens[number] @ direction, images, retain_graph=True)
        cells = (
            gradient[0]
            .square()
            .sum(1)
            .reshape(layout.views, rows, height // rows, columns, width // columns)
            .sum((2, 4))
        )
        assert int(cells.argmax()) == number


@every_family
def test_images_of_a_missing_camera_have_no_effect(family):
    model = hf(family)
    images, state, text = batch(model)
    for present in (torch.tensor([[True, False]] * 2), torch.tensor([[False, True]] * 2)):
        expected = model(images, state, text, present=present)
        other = torch.where(present[..., None, None, None], images, 255 - images)
        torch.testing.assert_close(model(other, state, text, present=present), expected)
        assert not torch.allclose(model(images, state, text), expected, atol=1e-6)
        assert all(
            parameter.grad is None or torch.isfinite(parameter.grad).all()
            for parameter in gradients(model, expected)
        )


def gradients(model, out: torch.Tensor):
    model.zero_grad()
    out.square().sum().backward()
    return model.parameters()


def test_samples_that_share_an_image_equal_separate_ones():
    model = hf("paligemma")
    images, state, text = batch(model, 3)
    rows = torch.tensor([0, 0, 1])
    torch.testing.assert_close(
        model(images[:2], state, text, rows=rows), model(images[rows], state, text)
    )


def test_a_flow_head_continues_the_last_chunk(tmp_path):
    save_checkpoint(tmp_path / "flow", hf("smolvlm", head="flow"), CONTRACT, statistics(), {})
    policy = Policy.load(tmp_path / "flow", contract=CONTRACT, device="cpu")
    assert policy.join is Join.RTC
    from sf_policy_node.session.continuation import Continuation

    rows = 0.1 * np.ones((6, SIZES["action_size"]))
    chunk = policy.predict(camera_images(), JOINTS, SENTENCE, continuation=Continuation(rows, 3))
    np.testing.assert_allclose(chunk[:3], rows[:3], atol=1e-5)


def test_patches_and_normalisation_equal_the_models_processor():
    processing = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    model = hf("qwen2_5_vl")
    frame = np.random.default_rng(0).integers(0, 256, (56, 112, 3), dtype=np.uint8)
    theirs = processing.Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, temporal_patch_size=2, do_resize=False
    )
    expected = torch.as_tensor(np.asarray(theirs(frame, return_tensors="np")["pixel_values"]))
    tensor = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255.0
    torch.testing.assert_close(
        flat_patches((tensor - model._mean) / model._std, 14, 2, 2),
        expected.float(),
        atol=1e-5,
        rtol=1e-5,
    )


def test_a_letterbox_keeps_the_shape_and_a_stretch_fills():
    image = np.full((120, 160, 3), 200, np.uint8)
    boxed = prepare({"scene": image}, ["scene"], (64, 64), "letterbox")[0]
    area = image_area([(120, 160)], (64, 64), "letterbox")[0]
    assert area.sum() == 48 * 64 and area[8:56].all()
    assert (boxed[:, area] == 200).all() and (boxed[:, ~area] == 0).all()
    assert (prepare({"scene": image}, ["scene"], (64, 64), "stretch") == 200).all()
    assert image_area([(120, 160)], (64, 64), "stretch").all()


def pretrained_folder(folder: Path, family: str = "smolvlm") -> Path:
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(tiny_config(family)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_pretrained_weights_and_statistics_come_from_a_local_directory(tmp_path):
    folder = pretrained_folder(tmp_path / "vlm")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]})
    )
    first, second = (
        HfVla.from_pretrained(folder, **SIZES),
        HfVla.from_pretrained(folder, dtype="bfloat16", **SIZES),
    )
    assert first.config.mean == (0.4, 0.4, 0.4)
    one, other = (next(model.backbone.vision_model.parameters()) for model in (first, second))
    assert other.dtype is torch.bfloat16
    torch.testing.assert_close(one.bfloat16(), other)
    assert torch.isfinite(second(*batch(second))).all()


def another_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 5
    (folder / "config.json").write_text(json.dumps(config))


def another_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 96
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            "no config.json; give the local directory",
        ),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            r"no \*.safetensors; copy the weights",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"0" * 50),
            "cannot be loaded .*; copy it again",
        ),
        (another_architecture, r"weights \d+ missing \(first .*it belongs to another architecture"),
        (
            another_width,
            r"weights \d+ of another size \(first .*it belongs to another architecture",
        ),
    ],
)
def test_incompatible_pretrained_weights_give_one_sentence(tmp_path, damage, message):
    folder = pretrained_folder(tmp_path / "vlm")
    damage(folder)
    with pytest.raises((BackboneError, WordsError), match=message) as error:
        HfVla.from_pretrained(folder, **SIZES)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(tmp_path / "tiny", hf("llava"), CONTRACT, statistics(), {})
    return tmp_path / "tiny"


def edit(name: str, value):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        if name == "model":
            config["model"] = value
        else:
            config["sizes"]["backbone"][name] = value
        (folder / "config.json").write_text(json.dumps(config))

    return change


def weights_of(model):
    return lambda folder: save_file_of(model, folder)


def save_file_of(model, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in model().state_dict().items()},
        folder / "model.safetensors",
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (
            weights_of(lambda: hf("smolvlm")),
            "another architecture .*weights missing, first .*weights unknown, first",
        ),
        (
            weights_of(lambda: hf("llava", head_width=64)),
            "another architecture .*with a size mismatch, first",
        ),
        (edit("model", "nano"), "damaged or of another architecture"),
        (edit("model", "pi0"), "damaged or of another architecture"),
        (edit("model_type", "llama9000"), "transformers does not know a model of type 'llama9000'"),
        (
            lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
            "holds no tokenizer",
        ),
    ],
)
def test_an_incompatible_checkpoint_gives_one_sentence(saved, damage, message):
    damage(saved)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(saved)
    assert "\n" not in str(error.value)
    assert str(saved) in str(error.value)


def test_an_instruction_that_is_too_long_is_named():
    with pytest.raises(WordsError, match="tokens, the model takes 24; shorten the instruction"):
        hf("llava").words.encode(["pick " * 30])


def test_incompatible_sizes_and_families_are_named():
    with pytest.raises(
        BackboneError, match=r"qwen2_5_vl: image size \(50, 50\): .* needs multiples of 28 x 28"
    ):
        HfVla.create(tiny_config("qwen2_5_vl"), tiny_tokenizer(), image_size=(50, 50), **SIZES)
    with pytest.raises(BackboneError, match=r"takes \(56, 56\)"):
        HfVla.create(tiny_config("paligemma"), tiny_tokenizer(), image_size=(64, 64), **SIZES)


def test_an_untested_family_works_or_is_refused():
    import transformers

    text, vision = tiny_config("llava").text_config, tiny_config("llava").vision_config
    clip = {
        **vision.to_dict(),
        "model_type": "clip_vision_model",
    }  # with a class token, which is dropped
    like = transformers.VipLlavaConfig(
        text_config=text, vision_config=clip, vision_feature_layers=[-1, -2], image_token_id=299
    )
    model = HfVla.create(like, tiny_tokenizer(), text_tokens=24, **SIZES)
    assert torch.isfinite(model(*batch(model))).all()
    other = transformers.AyaVisionConfig(
        text_config=text, vision_config=vision, image_token_id=299, downsample_factor=2
    )
    with pytest.raises(
        BackboneError, match=r"backbone aya_vision: not supported \(.*\); smolvlm, "
    ):
        HfVla.create(other, tiny_tokenizer(), text_tokens=24, **SIZES)


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("SmolVLM", (8, 8)),
        ("PaliGemma", (16, 16)),
        ("Gemma3", (16, 16)),
        ("InternVL", (16, 16)),
        ("Llava", (24, 24)),
    ],
)
def test_grids_of_the_public_sizes(name, grid):
    import transformers

    sizes = {
        "SmolVLM": {"vision_config": {"image_size": 512, "patch_size": 16}, "scale_factor": 4},
        "PaliGemma": {
            "vision_config": {
                "model_type": "siglip_vision_model",
                "image_size": 224,
                "patch_size": 14,
            }
        },
        "Gemma3": {
            "vision_config": {"image_size": 896, "patch_size": 14},
            "mm_tokens_per_image": 256,
        },
    }
    assert pixels_of(getattr(transformers, f"{name}Config")(**sizes.get(name, {}))).grid == grid


def test_half_precision_survives_a_checkpoint(tmp_path):
    for model in (hf("paligemma", dtype="bfloat16"), cases.pi0(dtype="bfloat16")):
        save_checkpoint(tmp_path / model.kind, model, CONTRACT, statistics(), {})
        loaded = Policy.load(tmp_path / model.kind, contract=CONTRACT, device="cpu")
        assert next(loaded._model.backbone.parameters()).dtype is torch.bfloat16
        expected = Policy(model, CONTRACT, statistics(), device="cpu").predict(
            camera_images(), JOINTS, SENTENCE
        )
        np.testing.assert_array_equal(loaded.predict(camera_images(), JOINTS, SENTENCE), expected)
