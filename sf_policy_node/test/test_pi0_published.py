"""Tests of pi0 and pi0.5 from openpi's and LeRobot's layouts, compared with openpi's code."""

import json

import numpy as np
import pi0_cases as cases
import pytest
import torch
from backbone_cases import CONTRACT, JOINTS, SENTENCE, camera_images, statistics
from safetensors.torch import load_file, save_file

from sf_policy_node.vla.backbones.pi0 import Pi0, Pi05
from sf_policy_node.vla.backbones.pi0_published import PublishedPi0
from sf_policy_node.vla.backbones.pi05 import discretise
from sf_policy_node.vla.backbones.pretrained import BackboneError
from sf_policy_node.vla.backbones.tiny import tiny_tokenizer
from sf_policy_node.vla.backbones.words import WordsError
from sf_policy_node.vla.checkpoint import save_checkpoint
from sf_policy_node.vla.policy import Policy
from sf_policy_node.vla.real_time_chunking import sample

SIZES = {"cameras": 2, "state_size": 5, "action_size": 4, "horizon": cases.HORIZON}
MODELS = {False: Pi0, True: Pi05}
# Reference values of openpi 15a9616 with its patched transformers 4.53.2, float32: loss, then #
# seven sampled values (4 Euler steps), then three with the second camera missing.
GOLDEN = {
    False: (
        2.061916,
        [-1.047955, 0.957213, 0.559446, 0.012156, -1.04611, 0.078778, 0.155968],
        [1.22585, 0.693479, -0.048258],
    ),
    True: (
        2.644148,
        [-0.318618, 0.992824, 0.27544, -0.045163, -0.272547, 0.771449, 1.880797],
        [1.408894, -0.690955, 1.682762],
    ),
}


def load(folder, *, pi05: bool = False, **sizes):
    return MODELS[pi05].from_pretrained(folder, **{**SIZES, "text_tokens": 70, **sizes}).eval()


def inputs():
    """Return the inputs of the reference values: images, states, noise and actions."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (2, 2, 3, 56, 56), generator=generator, dtype=torch.uint8)
    state = torch.rand(2, 5, generator=generator) * 2 - 1
    shape = (2, cases.HORIZON, 12)
    return (
        images,
        state,
        torch.randn(shape, generator=generator),
        torch.randn(shape, generator=generator),
    )


@pytest.mark.parametrize("write", [cases.write_openpi, cases.write_lerobot])
@pytest.mark.parametrize("pi05", [False, True])
@torch.no_grad()
def test_loss_and_actions_equal_openpi(pi05, write, tmp_path):
    model = load(write(tmp_path, pi05=pi05), pi05=pi05)
    images, state, noise, actions = inputs()
    text = model.words.encode([SENTENCE, "go"])
    loss, sampled, missing = GOLDEN[pi05]
    context = model.context(images, state, text)
    ours = model.flow_loss(context, actions, noise=noise, time=torch.tensor([0.3, 0.8]))
    assert float(ours) == pytest.approx(loss, rel=1e-5)
    found = sample(lambda x, tau: model.velocity(context, x, tau), noise, 4)
    np.testing.assert_allclose(
        found.flatten()[[0, 1, 17, 40, 71, 100, 143]], sampled, rtol=0, atol=2e-5
    )
    context = model.context(
        images, state, text, present=torch.tensor([[True, True], [True, False]])
    )
    found = sample(lambda x, tau: model.velocity(context, x, tau), noise, 4)
    np.testing.assert_allclose(found[1].flatten()[[0, 17, 71]], missing, rtol=0, atol=2e-5)


@pytest.mark.parametrize("pi05", [False, True])
def test_every_weight_of_the_published_sizes_is_used(pi05):
    """The model has full size but no memory; :func:`fill` refuses missing and unused weights."""
    with torch.device("meta"):
        tensors = {
            name: torch.empty(shape) for name, shape in cases.shapes(cases.FULL, pi05=pi05).items()
        }
        published = PublishedPi0(
            {name: lambda value=value: value for name, value in tensors.items()},
            {"paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m"},
            "published",
        )
        model = MODELS[pi05].from_published(
            published,
            tokenizer=tiny_tokenizer(),
            **{**SIZES, "cameras": 3, "horizon": 50, "text_tokens": 200},
        )
    count = sum(each.numel() for each in model.parameters())
    assert count == pytest.approx(3.5e9 if not pi05 else 3.6e9, rel=0.02)
    assert model.config.image_size == (224, 224) and model.columns == 32
    assert len(model.visual_layout().mask) == 3 * 256 + 200


def change(folder, alter):
    tensors = load_file(folder / "model.safetensors")
    alter(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_damaged_weights_are_listed(tmp_path):
    def alter(tensors):
        del tensors["action_in_proj.bias"]
        del tensors["paligemma_with_expert.gemma_expert.model.layers.1.mlp.up_proj.weight"]
        tensors["state_proj.weight"] = torch.zeros(7, 12)
        tensors["value_head.weight"] = torch.zeros(1)

    folder = cases.write_openpi(tmp_path)
    change(folder, alter)
    with pytest.raises(BackboneError) as error:
        load(folder)
    assert (
        "2 missing (backbone.embed_action_time.action_in_proj.bias, backbone.model.dit.layers.1"
        in str(error.value)
    )
    assert "1 left over (value_head.weight)" in str(error.value)
    assert "1 of another size (state_proj.weight (7, 12), needs (32, 12))" in str(error.value)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no \\*.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"no"),
            "not a readable safetensors file",
        ),
        (
            lambda folder: (folder / "config.json").write_text(json.dumps({"type": "act"})),
            "LeRobot policy of type act",
        ),
        (
            lambda folder: change(folder, lambda tensors: tensors.pop("state_proj.weight")),
            "give --student.kind pi05",
        ),
        (
            lambda folder: change(
                folder,
                lambda tensors: [
                    tensors.pop(k) for k in list(tensors) if k.startswith("paligemma")
                ],
            ),
            "no paligemma_with_expert",
        ),
        (
            lambda folder: change(
                folder,
                lambda tensors: tensors.pop("paligemma_with_expert.paligemma.lm_head.weight"),
            ),
            "weights missing, first backbone.model.vlm.language_model.embed_tokens.weight",
        ),
    ],
)
def test_unusable_directories_give_one_sentence(corrupt, message, tmp_path):
    folder = cases.write_openpi(tmp_path)
    corrupt(folder)
    with pytest.raises(BackboneError, match=message):
        load(folder)


def test_pi05_is_saved_and_loaded(tmp_path):
    sizes = {
        "state_size": statistics().state.mean.size,
        "action_size": len(CONTRACT.action.names),
        "horizon": CONTRACT.action.horizon,
        "text_tokens": 100,
    }
    model = load(cases.write_openpi(tmp_path / "w", pi05=True), pi05=True, **sizes)
    save_checkpoint(tmp_path / "c", model, CONTRACT, statistics(), {})
    expected = Policy(model, CONTRACT, statistics(), device="cpu").predict(
        camera_images(), JOINTS, SENTENCE
    )
    policy = Policy.load(tmp_path / "c", contract=CONTRACT, device="cpu")
    np.testing.assert_array_equal(policy.predict(camera_images(), JOINTS, SENTENCE), expected)


def test_states_become_openpis_prompt(tmp_path):
    rng = np.random.default_rng(0)
    state = np.concatenate([rng.uniform(-1.2, 1.2, 500), [-1.0, 1.0, 0.0, -1.001]])
    theirs = (
        np.digitize(state, bins=np.linspace(-1, 1, 256 + 1)[:-1]) - 1
    )  # from openpi's tokenizer.py
    np.testing.assert_array_equal(discretise(torch.from_numpy(state)), theirs)
    words = load(cases.write_openpi(tmp_path, pi05=True), pi05=True).words
    row = words.with_state(words.encode(["pick_the\ncube "]), torch.tensor([[-1.5, 0.0, 1.0]]))[0]
    text = "Task: pick the cube, State: -1 128 255;\nAction: "
    assert row[row >= 0].tolist() == [1, *words.tokenizer.encode(text, add_special_tokens=False)]
    with pytest.raises(WordsError, match="tokens, the model takes 70"):
        words.with_state(words.encode(["x" * 40]), torch.ones(1, 9))


def test_pi05_learns_and_the_time_reaches_its_norms(tmp_path):
    model = load(cases.write_openpi(tmp_path, pi05=True), pi05=True).train()
    images, state, noise, actions = inputs()
    text = model.words.encode([SENTENCE, "go"])
    loss = model.flow_loss(
        model.context(images, state, text), actions, noise=noise, time=torch.tensor([0.3, 0.8])
    )
    loss.backward()
    unread = {name for name, each in model.named_parameters() if each.grad is None}
    assert all(
        "dit.embed_tokens" in name
        or "language_model.layers.2" in name
        or "language_model.norm" in name
        for name in unread
    )
    norm = model.backbone.model.dit.layers[0].input_layernorm.dense.weight.grad
    assert float(norm.abs().sum()) > 0
