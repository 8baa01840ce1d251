"""Tests that Spatial Forcing and adapters do not change the inference graph."""

from pathlib import Path

import pytest
import torch
from student_cases import BACKBONES, CONTRACT, inputs, outputs, random_statistics, student
from torch.utils._python_dispatch import TorchDispatchMode

from sf_policy_node.vla.checkpoint import load_checkpoint, save_checkpoint
from sf_training.spatial_forcing.alignment import Alignment, AlignmentConfig
from sf_training.spatial_forcing.student_tokens import (
    StudentTokens,
    visual_positions,
    visual_tokens,
)
from sf_training.training.students import Student, merged_copy

LAYER = 2


class Operations(TorchDispatchMode):
    """Record operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.names.append(str(function))
        return function(*arguments, **(named or {}))


def operations(model, batch) -> list[str]:
    with Operations() as recorded:
        outputs(model, batch)
    return recorded.names


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("backbones")


def align_once(one: Student, batch) -> None:
    """Train one step of Spatial Forcing, on adapters where there are any."""
    layout = one.model.visual_layout()
    alignment = Alignment(AlignmentConfig(layer=LAYER), layout.width, 16)
    tokens = StudentTokens(one.model, [LAYER], layout.blocks)
    with tokens.recording():
        one.model.train().context(*batch)
    hidden = visual_tokens(tokens[LAYER], visual_positions(layout.mask.expand(len(batch[1]), -1)))
    target = torch.randn(*hidden.shape[:2], 16, generator=torch.Generator().manual_seed(0))
    alignment({LAYER: hidden}, [target]).backward()
    torch.optim.SGD([p for p in one.model.parameters() if p.requires_grad], 0.1).step()


@pytest.mark.parametrize("name", ["nano", *BACKBONES])
def test_operations_and_weight_names_equal_those_of_a_plain_model(name, root, tmp_path):
    plain = student(name, root)
    aligned = student(
        name, root, **({} if name == "nano" else {"train_vision": "lora", "train_language": "lora"})
    )
    batch = inputs(plain)
    align_once(aligned, batch)
    save_checkpoint(
        tmp_path / name,
        merged_copy(aligned.model),
        CONTRACT,
        random_statistics(plain.model.config.text_size),
        {},
    )
    loaded = load_checkpoint(tmp_path / name, CONTRACT).model
    assert loaded.state_dict().keys() == plain.model.state_dict().keys()
    assert operations(loaded, batch) == operations(plain.model.eval(), batch)
    assert not torch.equal(
        outputs(loaded, batch), outputs(plain.model, batch)
    )  # the weights did change


class Inference(torch.nn.Module):
    """A policy with a regression head, from images, state and instruction to a chunk."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images, state, text):
        return self.model.head(self.model.context(images, state, text))


@pytest.mark.parametrize("name", ["nano", "llava"])
def test_the_exported_graph_is_the_same_node_by_node(name, root):
    def graph(one: Student) -> list[tuple[str, str]]:
        program = torch.export.export(Inference(one.model.eval()), inputs(one), strict=False)
        return [(node.op, str(node.target)) for node in program.graph.nodes]

    plain, aligned = student(name, root), student(name, root)
    align_once(aligned, inputs(aligned))  # its hooks remain
    assert graph(aligned) == graph(plain)
