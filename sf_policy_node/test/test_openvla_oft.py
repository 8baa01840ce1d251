"""Tests of OpenVLA-OFT: reference values, complete published layouts, checkpoints."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from oft_cases import (
    DINO,
    LLAMA,
    SIGLIP,
    SIZES,
    backbone_shapes,
    head_shapes,
    observations,
    proprio_shapes,
    seeded,
    write_published,
)
from safetensors.torch import load_file, save_file

from sf_policy_node.vla.backbones.openvla_oft.model import OftWords, OpenVlaOft, centre_crop
from sf_policy_node.vla.backbones.openvla_oft.published import PublishedWeights, mapped
from sf_policy_node.vla.backbones.pretrained import BackboneError
from sf_policy_node.vla.backbones.tiny import tiny_openvla_config, tiny_tokenizer
from sf_policy_node.vla.backbones.words import PADDING, WordsError

TEXTS = ["Pick the RED cube", "put the small blue cube into the bowl"]
# Reference values of moojink/openvla-oft 213c5ff with its fork of transformers 4.40.1 and timm
# 0.9.16, float32, on the weights and inputs of oft_cases. Keys: views, state, FiLM, sample.
# Values: first and last step of the chunk, norm of the slots' hidden states.
GOLDEN = {
    (1, False, False, 0): (
        [0.9436985, -0.268255, 1.2027808, 1.2542238, -0.3286107, 1.2006073],
        19.849475860595703,
    ),
    (1, True, False, 1): (
        [0.5336643, 0.2550249, 0.7042021, 0.7343222, 0.1808644, 0.76627],
        19.812395095825195,
    ),
    (2, True, False, 0): (
        [0.2641398, -0.2558489, 1.1403689, 0.1366161, -0.5037585, 0.9476971],
        19.64244270324707,
    ),
    (2, True, False, 1): (
        [0.3351917, 0.186989, 0.7820655, 0.7936742, 0.1011317, 0.6996676],
        19.901592254638672,
    ),
    (2, True, True, 0): (
        [0.3691721, -0.0749946, 0.7494504, 1.3968878, -0.4269896, 0.45638],
        19.541505813598633,
    ),
}
# Reference values of the same code on both samples at once, the shorter one padded: norms of the #
# patches' hidden states before each block.
GOLDEN_LAYERS = {
    1: [251.2499237060547, 253.76296997070312, 253.90011596679688],
    2: [362.2475280761719, 365.8596496582031, 366.3335266113281],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("oft") / "published")


def load(folder, **sizes) -> OpenVlaOft:
    return OpenVlaOft.from_pretrained(folder, **{"cameras": 2, **SIZES, **sizes}).eval()


@pytest.mark.parametrize("case", GOLDEN)
def test_chunks_and_hidden_states_equal_the_authors(case, tmp_path):
    views, state, film, sample = case
    model = load(
        write_published(tmp_path / "w", film=film, proprio=state), cameras=views, use_state=state
    )
    images, states = observations(2, views)
    with (
        torch.no_grad()
    ):  # both samples at once: padding of the shorter instruction must have no effect
        context = model.context(images, states, model.words.encode(TEXTS))
    actions, norm = GOLDEN[case]
    found = model.head(context)[sample, [0, -1]].flatten().tolist()
    assert found == pytest.approx(actions, abs=1e-6 * max(map(abs, actions)) * 5)
    assert float(context[sample].norm()) == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("views", GOLDEN_LAYERS)
def test_hidden_states_of_every_block_equal_the_authors(views, folder, tmp_path):
    model = (
        load(folder, cameras=views)
        if views == 2
        else load(write_published(tmp_path, proprio=False), cameras=1, use_state=False)
    )
    images, states = observations(2, views)
    seen, layout = [], model.visual_layout()
    for block in layout.blocks:
        block.register_forward_pre_hook(
            lambda _, given, named: seen.append((given or (named["hidden_states"],))[0]),
            with_kwargs=True,
        )
    with torch.no_grad():
        model.context(images, states, model.words.encode(TEXTS))
    assert (
        int(layout.mask.sum()) == 16 * views
        and layout.grid == (4, 4)
        and len(layout.mask) == seen[0].shape[1]
    )
    assert [float(hidden[:, layout.mask].norm()) for hidden in seen] == pytest.approx(
        GOLDEN_LAYERS[views], rel=1e-6
    )


def test_pixels_of_a_missing_camera_have_no_effect(folder):
    model = load(folder)
    images, states = observations(2, 2)
    text, present = model.words.encode(TEXTS), torch.tensor([[True, False], [True, True]])
    other = images.clone()
    other[0, 1] = 255
    with torch.no_grad():
        found, changed = (
            model.context(each, states, text, present=present) for each in (images, other)
        )
        full = model.context(images, states, text)
    assert torch.allclose(found[0], changed[0], atol=1e-6) and not torch.allclose(
        found[0], full[0], atol=1e-3
    )
    assert torch.allclose(found[1], full[1], atol=1e-5)


def test_prompts_are_lower_case_and_end_with_the_empty_token():
    words = OftWords(tiny_tokenizer(), 100, "In: {instruction}?\nOut:", 32000, (29871,))
    short, long = words.encode(["PICK", "pick it"])
    assert (
        short[: int((short != PADDING).sum())].tolist()[-1] == 29871
        and (long != PADDING).sum() == (short != PADDING).sum() + 3
    )
    assert torch.equal(short, words.encode(["pick"])[0])
    with pytest.raises(WordsError, match="shorten the instruction"):
        words.encode(["x" * 90])


def test_the_centre_crop_samples_like_tensorflow():
    """crop_and_resize of the box [0.25, 0.75]: sample i lies at 0.25 (n - 1) + i 0.5 (n - 1) / (n -
    1).
    """
    ramp = torch.arange(9.0).expand(1, 1, 9, 9)
    assert centre_crop(ramp, 0.25)[0, 0, 0].tolist() == pytest.approx(
        [2 + 0.5 * i for i in range(9)]
    )
    assert centre_crop(ramp.transpose(2, 3), 0.25)[0, 0, :, 4].tolist() == pytest.approx(
        [2 + 0.5 * i for i in range(9)]
    )


def test_the_crop_applies_to_inference_and_not_to_training(folder):
    model = load(folder, crop=0.5)
    images, states = observations(2, 2)
    text = model.words.encode(TEXTS)
    with torch.no_grad():
        cropped, trained = model(images, states, text), model.train()(images, states, text)
        assert torch.allclose(
            trained, load(folder)(images, states, text), atol=1e-5
        ) and not torch.allclose(trained, cropped, atol=1e-3)


def test_a_checkpoint_gives_the_same_chunks(folder, tmp_path):
    from sf_policy_node.vla.backbones.openvla_oft.model import load_openvla_oft

    model = load(folder)
    model.words.save(tmp_path)
    again = load_openvla_oft(json.loads(json.dumps(model.config.to_dict())), tmp_path)
    again.load_state_dict(model.state_dict())
    images, states = observations(2, 2)
    with torch.no_grad():
        one, other = (
            each.eval()(images, states, each.words.encode(TEXTS)) for each in (model, again)
        )
    assert torch.equal(one, other)


def test_base_weights_without_head_get_a_new_one_and_adapters_are_merged(tmp_path):
    base = load(write_published(tmp_path / "base", head=False, proprio=False))
    assert (
        base.head.fc1.weight.abs().max() < 1
        and base.head.fc1.weight.std() > 0
        and base.proprio.fc1.weight.std() > 0
    )
    folder = write_published(tmp_path / "lora")
    adapter = folder / "lora_adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    module = "vision_backbone.featurizer.blocks.0.attn.qkv"
    factors = seeded({"A": (4, 48), "B": (144, 4)}, 9)
    prefix = f"base_model.model.{module}.lora_"
    save_file(
        {f"{prefix}{side}.weight": value for side, value in factors.items()},
        adapter / "adapter_model.safetensors",
    )
    merged = load(folder)
    before = base.backbone.dino.blocks[0].attention
    update = (2.0 * factors["B"] @ factors["A"]).chunk(3)
    for name, part in zip("qkv", update, strict=True):
        pair = (
            getattr(each, f"{name}_proj").weight
            for each in (merged.backbone.dino.blocks[0].attention, before)
        )
        assert torch.allclose(*(next(pair), next(pair) + part), atol=1e-6)
    save_file(
        {prefix.replace("qkv", "nothing") + "A.weight": factors["A"]},
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(
        BackboneError, match=r"an adapter of .*attn.nothing, which the weights do not hold"
    ):
        load(folder)


def test_a_film_backbone_with_wrapped_adapters_is_merged(tmp_path):
    """OFT saves it with peft's names, rank 32 and alpha 16; here rank 4, so a scale of 1."""
    plain = load(write_published(tmp_path / "plain", film=True))
    folder = write_published(tmp_path / "wrapped", film=True)
    path = next(folder.glob("vision_backbone--*"))
    state = torch.load(path, weights_only=True)
    name = "vision_backbone.fused_featurizer.blocks.1.block.mlp.fc1"
    factors = seeded({"A": (4, 32), "B": (64, 4)}, 9)
    state[f"{name}.base_layer.weight"], state[f"{name}.base_layer.bias"] = (
        state.pop(f"{name}.weight"),
        state.pop(f"{name}.bias"),
    )
    state |= {f"{name}.lora_{side}.default.weight": value for side, value in factors.items()}
    torch.save(state, path)
    one, other = (each.backbone.siglip.blocks[1].mlp.fc1 for each in (load(folder), plain))
    assert torch.allclose(
        one.weight, other.weight + factors["B"] @ factors["A"], atol=1e-6
    ) and torch.equal(one.bias, other.bias)


def damage(folder, change):
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        change(weights)
        save_file(weights, path)


DAMAGE = {
    "missing": (
        lambda weights: [
            weights.pop(name) for name in list(weights) if name.endswith("blocks.0.attn.qkv.weight")
        ],
        r"6 missing \(backbone.dino.blocks.0.attention.k_proj.weight, .*, \.\.\.\)",
    ),
    "left over": (
        lambda weights: weights.update(
            {"projector.fc9.weight": torch.ones(1), "vision_backbone.third.x": torch.ones(1)}
        ),
        r"2 left over \(projector.fc9.weight, vision_backbone.third.x\)",
    ),
    "of another size": (
        lambda weights: weights.update(
            {name: torch.ones(3) for name in weights if name == "projector.fc3.bias"}
        ),
        r"1 of another size \(projector.fc3.bias \(3,\), needs \(32,\)\)",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_weights_are_listed(what, tmp_path):
    change, message = DAMAGE[what]
    folder = write_published(tmp_path / "w")
    damage(folder, change)
    with pytest.raises(BackboneError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (
            lambda folder: [path.unlink() for path in folder.glob("*.safetensors")],
            r"no \*.safetensors",
        ),
        (
            lambda folder: (folder / "model-00001-of-00002.safetensors").write_bytes(b"x" * 20),
            "not a readable safetensors file",
        ),
        (
            lambda folder: (folder / "action_head--1_checkpoint.pt").write_bytes(b""),
            "2 files of action_head .*keep the one",
        ),
        (
            lambda folder: (folder / "proprio_projector--150000_checkpoint.pt").write_bytes(b"x"),
            "cannot be read .*copy it again",
        ),
        (
            lambda folder: torch.save([1], folder / "action_head--150000_checkpoint.pt"),
            "does not hold tensors by name",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "llava"}'),
            "holds a llava model, not openvla",
        ),
        (
            lambda folder: (folder / "config.json").write_text(
                '{"vision_backbone_id": "clip-vit-l"}'
            ),
            "not openvla|only dinosiglip",
        ),
        (
            lambda folder: (folder / "config.json").unlink(),
            "no config.json; give the local directory",
        ),
    ],
)
def test_unusable_directories_give_one_sentence(corrupt, message, tmp_path):
    folder = write_published(tmp_path / "w")
    corrupt(folder)
    with pytest.raises(BackboneError, match=message):
        load(folder)


def test_an_object_in_a_pickle_is_never_constructed(tmp_path):
    folder = write_published(tmp_path / "w")
    torch.save({"model.fc1.weight": folder}, folder / "action_head--150000_checkpoint.pt")
    with pytest.raises(BackboneError, match="cannot be read"):
        load(folder)


def test_every_weight_of_openvla_7b_and_oft_is_used():
    """Compare names and shapes of the files with the model at published sizes, without memory."""
    llama = {
        **LLAMA,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32064,
    }
    dino = {**DINO, "hidden_size": 1024, "num_hidden_layers": 24, "image_size": 224}
    siglip = {
        **SIGLIP,
        "hidden_size": 1152,
        "num_hidden_layers": 27,
        "intermediate_size": 4304,
        "image_size": 224,
    }
    published = {
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "model_type": "openvla",
        "text_config": {"model_type": "llama", "vocab_size": 32064},
    }
    with torch.device("meta"):
        model = OpenVlaOft.create(
            published, tiny_tokenizer(), cameras=2, state_size=8, action_size=7, horizon=8
        )
        shapes = backbone_shapes(dino, siglip, llama)
        shapes |= {f"head.{name}": shape for name, shape in head_shapes(4096, 7).items()}
        shapes |= {f"proprio.{name}": shape for name, shape in proprio_shapes(4096, 8).items()}
        files = {name: torch.empty(shape) for name, shape in shapes.items()}
    weights = PublishedWeights.__new__(PublishedWeights)
    weights._readers = {name: lambda value=value: value for name, value in files.items()}
    found = {
        name: tuple(read().shape)
        for name, read, _ in mapped(weights, {"dino": 23, "siglip": 26})
        if name
    }
    assert found == {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert {source for _, _, source in mapped(weights, {"dino": 23, "siglip": 26})} == set(files)
    count = sum(
        value.numel() for name, value in model.state_dict().items() if name.startswith("backbone.")
    )
    assert count == pytest.approx(7.4e9, rel=0.02)
    assert (
        model.config.suffix == (29871,) and len(model.visual_layout().mask) == 1 + 512 + 1 + 64 + 56
    )


def test_random_weights_are_built_from_our_configuration():
    torch.manual_seed(0)
    model = OpenVlaOft.create(tiny_openvla_config(), tiny_tokenizer(), cameras=1, **SIZES)
    assert (
        model.config.suffix == ()
        and np.isfinite([float(parameter.detach().sum()) for parameter in model.parameters()]).all()
    )
    with pytest.raises(BackboneError, match=r"crop 1.5: must be above 0"):
        replace(model.config, crop=1.5)
