"""Tests of LoRA adapters: targets, merging into an ordinary checkpoint, refusals."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from student_cases import BACKBONES, CONTRACT, SIZES, inputs, outputs, random_statistics, student

from sf_policy_node.vla.backbones.tiny import tiny_hf
from sf_policy_node.vla.checkpoint import load_checkpoint, save_checkpoint
from sf_policy_node.vla.objective import action_loss, draw
from sf_training.training.lora import part_of
from sf_training.training.students import LoraSettings, StudentError, merged_copy

ADAPTED = {"train_vision": "lora", "train_language": "lora"}
PARTS = ["vision", "language"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("backbones")


@pytest.mark.parametrize("name", BACKBONES)
def test_every_linear_layer_gets_an_adapter_without_changing_the_chunk(name, root):
    plain, adapted = student(name, root), student(name, root, **ADAPTED)
    assert not [key for key, _ in plain.model.named_parameters() if "lora" in key]
    model = adapted.model
    linear = {
        key for key, module in plain.model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    wanted = {key for key in linear if part_of(plain.model, key) in PARTS}
    assert {
        key.removesuffix(".lora_A.default")
        for key, _ in model.named_modules()
        if key.endswith(".lora_A.default")
    } == wanted
    trained = {part_of(model, key) for key in wanted}
    assert trained == set(PARTS)
    model.eval()
    torch.testing.assert_close(
        outputs(model, inputs(adapted)), outputs(merged_copy(model), inputs(adapted))
    )
    # The names of hooked modules are unchanged.
    blocks = [
        key for key, module in model.named_modules() if module is model.visual_layout().blocks
    ]
    assert blocks == [
        key
        for key, module in plain.model.named_modules()
        if module is plain.model.visual_layout().blocks
    ]


def randomise_adapters(model) -> None:
    """Set adapters to random values; initially they have no effect."""
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("name", BACKBONES)
def test_merged_adapters_give_an_ordinary_checkpoint_of_the_same_policy(name, root, tmp_path):
    adapted = student(name, root, **ADAPTED)
    batch, before = inputs(adapted), outputs(adapted.model.eval(), inputs(adapted))
    randomise_adapters(adapted.model)
    expected = outputs(adapted.model, batch)
    assert not torch.allclose(expected, before, atol=1e-4)
    save_checkpoint(tmp_path / name, merged_copy(adapted.model), CONTRACT, random_statistics(), {})
    assert (
        load_file(tmp_path / name / "model.safetensors").keys()
        == student(name, root).model.state_dict().keys()
    )
    loaded = load_checkpoint(tmp_path / name, CONTRACT)
    torch.testing.assert_close(outputs(loaded.model, batch), expected, rtol=1e-4, atol=1e-5)
    assert any("lora" in key for key in adapted.model.state_dict())  # training continues with them


@pytest.mark.parametrize("name", ["smolvlm", "qwen3_vl", "pi0"])
def test_gradient_checkpointing_changes_no_gradient_of_an_adapter(name, root):
    gradients = []
    for saving in (False, True):
        adapted = student(name, root, **ADAPTED)
        randomise_adapters(adapted.model)
        if saving:
            adapted.model.checkpoint_gradients()
        context = adapted.model.train().context(*inputs(adapted))
        generator = torch.Generator().manual_seed(0)
        action_loss(
            adapted.model,
            context,
            torch.ones(2, SIZES["horizon"], 4),
            torch.ones(4),
            draw(adapted.model, 2, generator),
        ).backward()
        gradients.append(
            {
                key: value.grad
                for key, value in adapted.model.named_parameters()
                if value.grad is not None
            }
        )
    assert {part_of(adapted.model, key) for key in gradients[0] if ".lora_" in key} == set(PARTS)
    torch.testing.assert_close(*gradients)


def test_averaged_adapters_are_merged_too(root):
    adapted = student("smolvlm", root, **ADAPTED)
    average = {key: value.clone() for key, value in adapted.model.state_dict().items()}
    randomise_adapters(adapted.model)
    batch = inputs(adapted)
    torch.testing.assert_close(
        outputs(merged_copy(adapted.model, average), batch),
        outputs(student("smolvlm", root).model.eval(), batch),
    )


def test_adapters_are_float32_on_a_backbone_of_half_precision(root):
    adapted = student("paligemma", root, dtype="bfloat16", **ADAPTED)
    kinds = {
        ("lora" in key, part_of(adapted.model, key) == "action"): p.dtype
        for key, p in adapted.model.named_parameters()
    }
    assert kinds == {
        (False, False): torch.bfloat16,
        (True, False): torch.float32,
        (False, True): torch.float32,
    }
    assert torch.isfinite(outputs(adapted.model.eval(), inputs(adapted))).all()
    assert next(merged_copy(adapted.model).backbone.parameters()).dtype is torch.bfloat16


def test_adapter_dropout_is_off_in_the_checkpoint(root):
    adapted = student("smolvlm", root, lora=LoraSettings(rank=4, dropout=0.5), **ADAPTED)
    randomise_adapters(adapted.model)
    batch = inputs(adapted)
    assert not torch.equal(outputs(adapted.model.train(), batch), outputs(adapted.model, batch))
    assert torch.equal(outputs(adapted.model.eval(), batch), outputs(adapted.model, batch))
    torch.testing.assert_close(
        outputs(merged_copy(adapted.model), batch),
        outputs(adapted.model, batch),
        rtol=1e-4,
        atol=1e-5,
    )


def test_only_chosen_targets_get_adapters(root):
    adapted = student(
        "llava", root, lora=LoraSettings(rank=4, targets=("q_proj", "v_proj")), **ADAPTED
    )
    ends = {
        key.split(".lora_")[0].rpartition(".")[2]
        for key, _ in adapted.model.named_parameters()
        if ".lora_" in key
    }
    assert ends == {"q_proj", "v_proj"}


@pytest.mark.parametrize(("name", "value"), [("rank", 0), ("alpha", 0), ("dropout", 1.0)])
def test_adapters_of_size_zero_are_refused(name, value):
    with pytest.raises(StudentError, match=f"--student.lora.{name}: must be"):
        LoraSettings(**{name: value})


def test_unknown_targets_are_named_with_the_existing_ones(root):
    with pytest.raises(
        StudentError,
        match=r"--student\.lora\.targets: the vision has no layer qkv_proj; there are .*q_proj",
    ):
        student("llava", root, lora=LoraSettings(targets=("qkv_proj",)), **ADAPTED)


def test_merging_does_not_change_the_student(root):
    adapted = student("smolvlm", root, **ADAPTED)
    before = copy.deepcopy(adapted.model.state_dict())
    plain = merged_copy(adapted.model)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert all(torch.equal(before[key], value) for key, value in adapted.model.state_dict().items())
    assert tiny_hf("smolvlm", **SIZES).state_dict().keys() == plain.state_dict().keys()
