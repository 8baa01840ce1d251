"""Tests of the alignment: upstream's loss and gradients, presets, several layers, masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeded_weights import seeded

from sf_training.spatial_forcing.alignment import (
    Alignment,
    AlignmentConfig,
    AlignmentError,
    alignment_loss,
    prepare_target,
    token_mask,
)
from sf_training.spatial_forcing.presets import PRESETS, preset
from sf_training.spatial_forcing.student_tokens import visual_tokens

STUDENT, TEACHER, GRID = 24, 32, 4
PATCHES = GRID**2


def upstream_projector(config: AlignmentConfig) -> Alignment:
    """Return a projector with the weights of upstream's reference figures."""
    alignment = Alignment(config, STUDENT, TEACHER)
    parameters = dict(alignment.projector.named_parameters())
    with torch.no_grad():
        for seed, name in enumerate(
            ("hidden.bias", "hidden.weight", "out.bias", "out.weight", "norm.bias", "norm.weight"),
            200,
        ):
            parameters[name].copy_(
                seeded(seed, *parameters[name].shape, scale=0.3) + (name == "norm.weight")
            )
    return alignment


def targets(config: AlignmentConfig, batch: int, views: int) -> list[torch.Tensor]:
    return [
        prepare_target(
            seeded(301, batch, views, 9, 9, TEACHER, scale=3.0), GRID, config.position_scale
        )
    ]


def gradients(loss: torch.Tensor, hidden: torch.Tensor, alignment: Alignment) -> list[torch.Tensor]:
    return list(
        torch.autograd.grad(
            loss, [hidden, alignment.projector.hidden.weight, alignment.projector.out.weight]
        )
    )


# Reference values of OpenHelix-Team/Spatial-Forcing 4e9f66c, float32: AlignProjector and #
# custom_pooling of each tree.
def test_openvla_loss_and_gradient_equal_upstream():
    """Sequence: one token, 2 x 16 patches, proprioception, text.

    The shift drops the first patch and includes proprioception.
    """
    config = preset("paper_openvla", 32)
    hidden = seeded(300, 2, 1 + 2 * PATCHES + 1 + 4, STUDENT).requires_grad_()
    alignment = upstream_projector(config)
    tokens = visual_tokens(hidden, slice(1, 1 + 2 * PATCHES), config.token_shift)
    loss = alignment({24: tokens}, targets(config, 2, 2))
    found = gradients(loss, hidden, alignment)
    assert loss.item() == pytest.approx(1.0068490505218506, rel=1e-6)
    norms = [0.023565443232655525, 0.074165940284729, 0.07105028629302979]
    assert [gradient.norm().item() for gradient in found] == pytest.approx(norms, rel=1e-5)
    single = [found[0][0, 2, 0], found[0][1, 20, 5], found[0][1, 33, 23]]
    expected = [0.0003161886124871671, -0.00024336136993952096, -0.00014026230201125145]
    assert [value.item() for value in single] == pytest.approx(expected, rel=1e-4)
    assert not found[0][:, :2].any() and not found[0][:, 34:].any()


def test_openpi_loss_gradient_and_mask_equal_upstream():
    config = preset("paper_pi0", 18)
    present = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
    valid = torch.ones(3, 3, 56, 56, dtype=torch.bool)
    valid[:, 0, :14] = False  # letterbox bars
    valid[2, 1, :, 40:] = False
    mask = token_mask(present, GRID, valid)
    assert mask.sum(1).tolist() == [28, 12, 40]
    hidden = seeded(300, 3, 3 * PATCHES + 4, STUDENT).requires_grad_()
    alignment = upstream_projector(config)
    loss = alignment(
        {12: visual_tokens(hidden, slice(0, 3 * PATCHES), config.token_shift)},
        targets(config, 3, 3),
        mask,
    )
    found = gradients(loss, hidden, alignment)
    assert loss.item() == pytest.approx(0.998223602771759, rel=1e-6)
    norms = [0.021628256887197495, 0.07047615200281143, 0.07721936702728271]
    assert [gradient.norm().item() for gradient in found] == pytest.approx(norms, rel=1e-5)
    assert found[0][1, 9, 5].item() == pytest.approx(0.00015813186473678797, rel=1e-4)
    assert found[0][2, 46, 23].item() == pytest.approx(0.00011669523519231007, rel=1e-4)
    assert not found[0][1, PATCHES:].any()


def test_presets_equal_the_papers_and_keep_their_layer_proportion():
    openvla, pi0 = preset("paper_openvla", 32), preset("paper_pi0", 18)
    assert (
        openvla.layer,
        openvla.token_shift,
        openvla.norm,
        openvla.coefficient,
        openvla.mask,
    ) == (24, 1, "layer", 0.5, False)
    assert (pi0.layer, pi0.token_shift, pi0.position_scale, pi0.teacher_layers, pi0.mask) == (
        12,
        0,
        0.1,
        (-1,),
        True,
    )
    assert preset("paper_openvla", 4).layer == 3
    assert (
        preset("openvla", 32).layer,
        preset("openvla", 32).token_shift,
        preset("openvla", 32).mask,
    ) == (24, 0, True)
    many = preset("multilayer", 32)
    assert many.student_layers == (2, 4, 6, 8, 10, 12, 14, 16, 18, 32)
    assert many.teacher_layers == (1, 3, 5, 7, 9, 11, 13, 15, 17, -1)
    assert preset("adaptive", 6).student_layers == (1, 2, 3, 4, 5, 6)


def test_a_preset_takes_changes_and_an_unknown_one_is_refused():
    assert preset("paper_pi0", 18, coefficient=0.125, token_shift=1).coefficient == 0.125
    with pytest.raises(
        AlignmentError,
        match="preset pi0: is unknown; take one of openvla, paper_openvla, paper_pi0, multilayer",
    ):
        preset("pi0", 18)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layers": (1, 2, 3), "teacher_layers": (1, 2)},
            "teacher_layers: 2 for 3 student layers; give 3, or one for all",
        ),
        (
            {"layers": (1, 2), "teacher_layers": (1, 2), "combine": "gate"},
            "aligned with one teacher layer, give one",
        ),
        ({"layer": -1}, "layers: must not be negative, got -1"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(options, message):
    with pytest.raises(AlignmentError, match=message):
        AlignmentConfig(**options)


@pytest.mark.parametrize("name", PRESETS)
def test_alignment_learns_in_every_preset(name):
    torch.manual_seed(0)
    config = preset(name, 6)
    alignment = Alignment(config, STUDENT, TEACHER)
    tokens = {layer: seeded(layer, 2, PATCHES, STUDENT) for layer in config.student_layers}
    wanted = [
        seeded(50 + number, 2, PATCHES, TEACHER) for number in range(len(config.teacher_layers))
    ]
    optimizer = torch.optim.Adam(alignment.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = alignment(tokens, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_several_layers_share_one_projector_and_their_losses_are_averaged():
    config = AlignmentConfig(layers=(1, 2), teacher_layers=(0, -1))
    alignment = Alignment(config, STUDENT, TEACHER)
    single = Alignment(AlignmentConfig(), STUDENT, TEACHER)
    assert sum(p.numel() for p in alignment.parameters()) == sum(
        p.numel() for p in single.parameters()
    )
    tokens = {layer: seeded(layer, 2, PATCHES, STUDENT) for layer in (1, 2)}
    wanted = [seeded(50 + number, 2, PATCHES, TEACHER) for number in range(2)]
    each = [
        alignment_loss(alignment.projector(tokens[layer]), target)
        for layer, target in zip((1, 2), wanted, strict=True)
    ]
    torch.testing.assert_close(alignment(tokens, wanted), (each[0] + each[1]) / 2)
    one_target = Alignment(AlignmentConfig(layers=(1, 2)), STUDENT, TEACHER)
    assert torch.isfinite(one_target(tokens, wanted[:1]))


def test_the_gate_selects_the_layer_that_contains_the_target():
    torch.manual_seed(0)
    alignment = Alignment(preset("adaptive", 3), STUDENT, STUDENT)
    wanted = torch.randn(8, PATCHES, STUDENT)
    tokens = {
        1: torch.randn_like(wanted),
        2: 100 * torch.randn_like(wanted),
        3: wanted,
    }  # the layer with the largest norm is not the best
    assert list(alignment.shares.values()) == pytest.approx([1 / 3] * 3)
    optimizer = torch.optim.Adam(alignment.parameters(), lr=2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        alignment(tokens, [wanted]).backward()
        optimizer.step()
    assert alignment.shares[3] > 0.6
    assert sum(alignment.shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_masked_tokens_do_not_affect_the_loss(norm):
    config = AlignmentConfig(norm=norm)
    alignment = Alignment(config, STUDENT, TEACHER)
    tokens, target = seeded(1, 2, PATCHES, STUDENT), seeded(2, 2, PATCHES, TEACHER)
    mask = torch.ones(2, PATCHES, dtype=torch.bool)
    mask[1] = False
    clean = alignment({2: tokens}, [target], mask)
    broken = tokens.clone()
    broken[1] = float("nan")
    wrong = target.clone()
    wrong[1] = float("inf")
    loss = alignment({2: broken.requires_grad_()}, [wrong], mask)
    torch.testing.assert_close(loss, clean)
    loss.backward()
    assert all(torch.isfinite(values.grad).all() for values in (broken, *alignment.parameters()))
    assert not broken.grad[1].any() and broken.grad[0].any()
    alignment.zero_grad()
    empty = alignment({2: tokens}, [target], torch.zeros_like(mask))
    empty.backward()
    assert empty.item() == 0.0
    assert all(torch.isfinite(parameter.grad).all() for parameter in alignment.parameters())


def test_tokens_of_a_backbone_in_bfloat16_are_aligned_in_float32():
    alignment = Alignment(AlignmentConfig(), STUDENT, TEACHER)
    tokens, target = (
        seeded(1, 2, PATCHES, STUDENT).bfloat16().requires_grad_(),
        seeded(2, 2, PATCHES, TEACHER),
    )
    loss = alignment({2: tokens}, [target])
    loss.backward()
    assert loss.dtype == torch.float32 and tokens.grad.dtype == torch.bfloat16 and tokens.grad.any()
    torch.testing.assert_close(loss, alignment({2: tokens.float()}, [target]))


def test_the_mask_is_ignored_when_the_settings_say_so():
    alignment = Alignment(AlignmentConfig(mask=False), STUDENT, TEACHER)
    tokens, target = {2: seeded(1, 2, PATCHES, STUDENT)}, [seeded(2, 2, PATCHES, TEACHER)]
    assert (
        alignment(tokens, target, torch.zeros(2, PATCHES, dtype=torch.bool)).item()
        == alignment(tokens, target).item()
        > 0
    )


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    resize=st.sampled_from(["bilinear", "area"]),
)
@settings(max_examples=40, deadline=None)
def test_targets_have_the_requested_size_for_any_teacher_grid(rows, columns, resize):
    target = prepare_target(torch.ones(1, 2, rows, columns, 8), (3, 5), 0.0, resize=resize)
    assert target.shape == (1, 2 * 15, 8)
    torch.testing.assert_close(target, torch.ones_like(target))


def test_the_position_embedding_uses_the_students_grid_after_resizing():
    features = torch.zeros(1, 1, 9, 9, 8)
    before, after = (
        prepare_target(features, 4, 0.1, position=position) for position in ("before", "after")
    )
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, prepare_target(torch.zeros(1, 1, 4, 4, 8), 4, 0.1))


def test_batch_norm_uses_statistics_of_all_tokens():
    alignment = Alignment(AlignmentConfig(norm="batch"), STUDENT, TEACHER)
    normed = alignment.projector.norm((5 + 3 * seeded(1, 2, PATCHES, STUDENT)).flatten(0, 1))
    torch.testing.assert_close(normed.mean(0), torch.zeros(STUDENT), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(0, correction=0), torch.ones(STUDENT), atol=1e-4, rtol=0)
