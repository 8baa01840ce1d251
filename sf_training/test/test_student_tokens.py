"""Tests of reading student tokens with hooks: layers, wrappers, checkpointing, foreign models."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForImageTextToText, PaliGemmaConfig

from sf_training.spatial_forcing.student_tokens import (
    StudentTokens,
    StudentTokensError,
    visual_positions,
    visual_tokens,
)

IMAGE, LAYERS, VIEWS, PATCHES = 99, 3, 2, 4


def paligemma() -> AutoModelForImageTextToText:
    torch.manual_seed(0)
    text = {
        "model_type": "gemma",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
    }
    text |= {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": 100}
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    vision |= {"image_size": 28, "patch_size": 14, "vision_use_head": False}
    config = PaliGemmaConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=32,
        hidden_size=32,
        image_token_id=IMAGE,
    )
    return AutoModelForImageTextToText.from_config(config)


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.full((2, 1 + VIEWS * PATCHES + 3), 7)
    ids[:, 1 : 1 + VIEWS * PATCHES] = IMAGE
    pixels = torch.randn(2 * VIEWS, 3, 28, 28)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
        "token_type_ids": torch.zeros_like(ids),
    }


def vision_gradient(model: nn.Module) -> float:
    return sum(
        float(p.grad.abs().sum())
        for name, p in model.named_parameters()
        if "vision_tower" in name and p.grad is not None
    )


def test_tokens_of_every_layer_equal_the_models_hidden_states():
    model = paligemma()
    tokens = StudentTokens(model, range(LAYERS + 1))
    with tokens.recording():
        states = model(**batch(), output_hidden_states=True).hidden_states
    for layer in range(LAYERS):
        assert torch.equal(tokens[layer], states[layer])
    assert torch.equal(
        model.get_decoder().norm(tokens[LAYERS]), states[LAYERS]
    )  # transformers returns the last one normalized


def test_the_gradient_reaches_the_vision_tower_but_no_higher_layer():
    model = paligemma()
    tokens = StudentTokens(model, [2])
    x = batch()
    with tokens.recording():
        model(**x)
    visual_tokens(tokens[2], visual_positions(x["input_ids"] == IMAGE)).square().mean().backward()
    assert vision_gradient(model) > 0
    blocks = model.get_decoder().layers
    assert all(p.grad is None for p in blocks[2].parameters())
    assert any(p.grad is not None for p in blocks[1].parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_neither_tokens_nor_gradients(reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = paligemma().train()
        if checkpointing:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": reentrant}
            )
            model.enable_input_require_grads()
        tokens = StudentTokens(model, [1, LAYERS])
        with tokens.recording():
            output = model(**batch())
        kept = tokens[1]
        loss = (
            tokens[1].square().mean()
            + tokens[LAYERS].square().mean()
            + output.logits.square().mean()
        )
        loss.backward()
        assert tokens[1] is kept  # the recomputation of the backward pass is not recorded
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


class ByHand(nn.Module):
    """A model that calls norms and projections, never the block, as openpi and lerobot do."""

    class _Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input_layernorm, self.mlp = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            raise AssertionError("never called")

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self._Layer() for _ in range(3))
        self.norm = nn.LayerNorm(8)

    def forward(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        states = [hidden]
        for layer in self.layers:
            hidden = hidden + layer.mlp(layer.input_layernorm(hidden))
            states.append(hidden)
        self.norm(hidden)
        return states


def test_tokens_of_models_that_never_call_their_blocks_are_read():
    model = ByHand()
    tokens = StudentTokens(model, range(4))
    with tokens.recording():
        states = model(torch.randn(2, 5, 8, requires_grad=True))
    for layer, state in enumerate(states):
        assert tokens[layer] is state


def test_tokens_of_named_blocks_without_a_norm_are_read():
    model = nn.Sequential(nn.Linear(8, 8))
    model.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
    tokens = StudentTokens(model, [0, 1, 2], "blocks")
    with tokens.recording():
        first = torch.randn(1, 3, 8, requires_grad=True)
        second = model.blocks[0](first)
        third = model.blocks[1](second)
    assert (tokens[0], tokens[1], tokens[2]) == (first, second, third)


@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_still_work_under_peft(when):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = paligemma()
    plain = StudentTokens(model, [2]) if when == "before" else None
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    tokens = plain or StudentTokens(wrapped, [2])
    with tokens.recording():
        wrapped(**batch())
    tokens[2].square().mean().backward()
    trained = [
        name
        for name, p in wrapped.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    ]
    assert trained and all("lora_" in name for name in trained)
    assert any("vision_tower" in name for name in trained)
    assert not any("language_model.layers.2" in name for name in trained)


class Wrapper(nn.Module):
    """A wrapper that hides a model behind another name, as peft and DDP do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **x):
        return self.module(**x)


def test_blocks_are_found_through_wrappers():
    model = Wrapper(Wrapper(paligemma()))
    for tokens in (StudentTokens(model, [1]), StudentTokens(model, [1], "language_model.layers")):
        with tokens.recording():
            model(**batch())
        assert tokens[1].shape == (2, 12, 32)


def test_a_frozen_student_is_refused():
    model = paligemma().requires_grad_(False)
    model.get_decoder().layers[2].requires_grad_(True)
    tokens = StudentTokens(model, [2])
    with tokens.recording():
        model(**batch())
    with pytest.raises(
        StudentTokensError,
        match="nothing below layer 2 is trainable, so Spatial Forcing would train nothing",
    ):
        tokens[2]
    with torch.no_grad():
        assert tokens[2].shape == (2, 12, 32)


def test_only_the_first_pass_inside_a_recording_is_used():
    model = ByHand()
    tokens = StudentTokens(model, [1])
    model(torch.randn(1, 2, 8))
    with pytest.raises(StudentTokensError, match="layer 1 did not run in the recording"):
        tokens[1]
    with tokens.recording():
        first = model(torch.randn(1, 2, 8))
        model(torch.randn(1, 2, 8))
    assert tokens[1] is first[1]
    tokens.close()
    with tokens.recording():
        model(torch.randn(1, 2, 8))
    with pytest.raises(StudentTokensError, match="did not run"):
        tokens[1]


def test_a_checkpointed_pass_without_gradient_is_refused():
    """Reentrant checkpointing runs without gradients, so tokens read inside it have none."""
    model = ByHand()
    tokens = StudentTokens(model, [2])
    with tokens.recording():
        checkpoint(
            lambda x: model(x)[-1], torch.randn(1, 2, 8, requires_grad=True), use_reentrant=True
        )
    with pytest.raises(StudentTokensError, match="use_reentrant=False"):
        tokens[2]


def test_blocks_that_cannot_be_found_are_named():
    two = nn.ModuleDict({"vlm": ByHand(), "expert": ByHand()})
    with pytest.raises(
        StudentTokensError,
        match=(
            r"several lists of decoder blocks: name the blocks; the model has vlm.layers,"
            r" expert.layers"
        ),
    ):
        StudentTokens(two, [1])
    assert len(StudentTokens(two, [1], "vlm.layers").blocks) == 3
    with pytest.raises(
        StudentTokensError, match="student layer 4: the model has 3 blocks, so 0 to 3"
    ):
        StudentTokens(ByHand(), [4])
    with pytest.raises(
        StudentTokensError,
        match="blocks body: no lists of modules have this name; the model has layers",
    ):
        StudentTokens(ByHand(), [1], "body")
    with pytest.raises(StudentTokensError, match="no list of blocks with input_layernorm"):
        StudentTokens(nn.Linear(2, 2), [1])


def test_visual_tokens_follow_the_mask_and_the_shift():
    ids = torch.tensor([[1, 9, 9, 5, 9, 9, 2, 3], [9, 9, 1, 2, 3, 9, 9, 4]])
    hidden = torch.arange(16.0).view(2, 8, 1)
    positions = visual_positions(ids == 9)
    assert visual_tokens(hidden, positions).flatten().tolist() == [1, 2, 4, 5, 8, 9, 13, 14]
    assert visual_tokens(hidden, positions, 1).flatten().tolist() == [2, 3, 5, 6, 9, 10, 14, 15]
    assert torch.equal(visual_tokens(hidden, slice(1, 3), 1), hidden[:, 2:4])
    with pytest.raises(
        StudentTokensError, match="token shift 2: the visual tokens are the last of the sequence"
    ):
        visual_tokens(hidden, positions, 2)
    with pytest.raises(
        StudentTokensError,
        match=r"visual tokens per sample: \[1, 2\]; give every sample the same cameras",
    ):
        visual_positions(torch.tensor([[1, 0], [1, 1]]).bool())
