"""Tests of pi0: loss and actions equal transformers' code; real-time chunking."""

import copy

import numpy as np
import pytest
import torch
from backbone_cases import CONTRACT, JOINTS, SENTENCE, SIZES, batch, camera_images, pi0, statistics

from sf_policy_node.motion.types import Join
from sf_policy_node.session.continuation import Continuation
from sf_policy_node.vla.backbones.pi0 import Pi0
from sf_policy_node.vla.backbones.pretrained import BackboneError
from sf_policy_node.vla.backbones.tiny import tiny_tokenizer
from sf_policy_node.vla.checkpoint import save_checkpoint
from sf_policy_node.vla.policy import Policy
from sf_policy_node.vla.real_time_chunking import Guidance, sample, soft_mask

COLUMNS = 12


def their_inputs(model, images, state, text) -> dict:
    """Return the inputs of transformers' model, built by hand."""
    frames = torch.full((len(text), 2 * 16), 299)
    return {
        "input_ids": torch.cat([frames, text.clamp(min=0)], 1),
        "attention_mask": torch.cat([torch.ones_like(frames), (text >= 0).long()], 1),
        "pixel_values": images.float() / 127.5 - 1,
        "pixel_attention_mask": torch.ones(len(text), 2, dtype=torch.bool),
        "state": torch.nn.functional.pad(state, (0, COLUMNS - state.shape[1])),
    }


def noise_and_actions(count: int = 2):
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(count, SIZES["horizon"], COLUMNS, generator=generator)
    return noise, torch.randn(count, SIZES["horizon"], SIZES["action_size"], generator=generator)


def test_loss_and_gradient_equal_transformers():
    model = pi0()
    inputs, (noise, actions), time = batch(model), noise_and_actions(), torch.tensor([0.3, 0.8])
    ours = model.flow_loss(model.context(*inputs), actions, noise=noise, time=time)
    ours.backward()
    gradient = {
        name: p.grad.clone() for name, p in model.backbone.named_parameters() if p.grad is not None
    }
    model.zero_grad()
    padded = torch.nn.functional.pad(actions, (0, COLUMNS - actions.shape[-1]))
    theirs = model.backbone(
        **their_inputs(model, *inputs), actions=padded, noise=noise, timestep=time
    ).loss
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    for name, p in model.backbone.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(gradient[name], p.grad, rtol=1e-4, atol=1e-7)


def test_sampled_actions_equal_transformers_and_the_prefix_runs_once():
    model = pi0()
    inputs, (noise, _) = batch(model), noise_and_actions()
    calls = []
    hook = model.backbone.model.vlm.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        prefix = model.context(*inputs)
        ours = sample(lambda x, tau: model.velocity(prefix, x, tau), noise, model.steps)
        again = sample(lambda x, tau: model.velocity(prefix, x, tau), noise, model.steps)
    hook.remove()
    assert len(calls) == 1
    assert torch.equal(ours, again)  # sampling does not change the prefix
    theirs = model.backbone.sample_actions(**their_inputs(model, *inputs), noise=noise)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_images_of_a_missing_camera_have_no_effect():
    model = pi0()
    (images, state, text), (noise, _) = batch(model), noise_and_actions()
    for present in (torch.tensor([[True, False]] * 2), torch.tensor([[False, True]] * 2)):
        other = torch.where(present[..., None, None, None], images, 255 - images)
        with torch.no_grad():
            first, second = (
                model.velocity(model.context(view, state, text, present=present), noise, 0.2)
                for view in (images, other)
            )
        assert torch.isfinite(first).all()
        torch.testing.assert_close(first, second)


def test_the_loss_decreases_and_sampling_is_repeatable():
    model = pi0().train()
    inputs, (_, actions) = batch(model), noise_and_actions()
    draws = [
        float(
            model.flow_loss(
                model.context(*inputs), actions, generator=torch.Generator().manual_seed(3)
            ).detach()
        )
        for _ in range(2)
    ]
    assert draws[0] == draws[1]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):  # fixed noise: thirty steps are too few for fresh noise
        loss = model.flow_loss(
            model.context(*inputs), actions, generator=torch.Generator().manual_seed(0)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]


def test_a_saved_model_predicts_the_same_chunk_and_continues_the_last_one(tmp_path):
    model = pi0()
    save_checkpoint(tmp_path / "pi0", model, CONTRACT, statistics(), {})
    expected = Policy(copy.deepcopy(model), CONTRACT, statistics(), device="cpu").predict(
        camera_images(), JOINTS, SENTENCE
    )
    policy = Policy.load(tmp_path / "pi0", contract=CONTRACT, device="cpu")
    np.testing.assert_array_equal(policy.predict(camera_images(), JOINTS, SENTENCE), expected)
    assert expected.shape == (SIZES["horizon"], SIZES["action_size"])
    assert policy.join is Join.RTC
    policy.predict(
        camera_images(),
        JOINTS,
        SENTENCE,
        continuation=Continuation(np.zeros((6, SIZES["action_size"])), 3),
    )


def test_guidance_moves_the_chunk_towards_the_last_one():
    model = pi0()
    (noise, _), prefix = noise_and_actions(1), model.context(*batch(model, 1))
    rows = torch.zeros(SIZES["horizon"], COLUMNS)
    guidance = Guidance(rows, soft_mask(SIZES["horizon"], 3, 6))
    with torch.no_grad():
        free = sample(lambda x, tau: model.velocity(prefix, x, tau), noise, 10)
        guided = sample(lambda x, tau: model.velocity(prefix, x, tau), noise, 10, guidance)
    assert guided[:, :3].abs().mean() < 0.3 * free[:, :3].abs().mean()


def test_incompatible_sizes_are_named():
    config = pi0().backbone.config
    with pytest.raises(
        BackboneError, match="action_size 40 is more than the model's max_action_dim 12"
    ):
        Pi0.create(config, tiny_tokenizer(), **{**SIZES, "action_size": 40})
    with pytest.raises(
        BackboneError, match="the contract's horizon is 16, the model's chunk_size 8"
    ):
        Pi0.create(config, tiny_tokenizer(), **{**SIZES, "horizon": 16})
