"""Tests of guided sampling on a flow with a known solution: Gaussian actions."""

import math

import pytest
import torch
from torch import Tensor

from sf_policy_node.vla.real_time_chunking import (
    MAX_GUIDANCE,
    Guidance,
    ascending,
    guidance_weight,
    sample,
    soft_mask,
)

HORIZON = 8
DELAY, OVERLAP = 2, 5
ROWS = torch.arange(HORIZON, dtype=torch.float64)
# Neighbouring steps of a chunk are correlated.
COVARIANCE = torch.exp(-((ROWS[:, None] - ROWS) ** 2) / 8) + 1e-6 * torch.eye(
    HORIZON, dtype=torch.float64
)
NOISE = torch.randn(
    256, HORIZON, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
)
PREFIX = torch.full(
    (HORIZON, 1), 1.5, dtype=torch.float64
)  # 1.5 standard deviations from the mean, 0


def clean_estimate(x: Tensor, tau: float) -> Tensor:
    """E[action | x] for x = (1 - tau) noise + tau action and action ~ N(0, COVARIANCE)."""
    return (
        tau
        * COVARIANCE
        @ torch.linalg.inv(
            tau**2 * COVARIANCE + (1 - tau) ** 2 * torch.eye(HORIZON, dtype=torch.float64)
        )
        @ x
    )


def velocity(x: Tensor, tau: float) -> Tensor:
    """``action - noise``, tau from 0 (noise) to 1 (action)."""
    return (clean_estimate(x, tau) - x) / (1 - tau)


def descending_velocity(x: Tensor, t: float) -> Tensor:
    """The same flow in the convention of openpi and transformers.

    ``noise - action``, t from 1 (noise) to 0 (action).
    """
    return (x - clean_estimate(x, 1 - t)) / t


def descending_sample(
    noise: Tensor, steps: int, guidance: Guidance | None, sign: float = -1.0
) -> Tensor:
    """Reference implementation of real-time chunking in the openpi convention.

    ``sign`` is that of the guidance in dx/dt.
    """
    x = noise
    for step in range(steps):
        t = 1 - step / steps
        x = x.detach().requires_grad_(True)
        v = descending_velocity(x, t)
        clean = x - t * v
        change = v.detach()
        if guidance is not None:
            (pull,) = torch.autograd.grad(
                clean, x, (guidance.rows - clean.detach()) * guidance.step_weights[:, None]
            )
            weight = (
                MAX_GUIDANCE
                if t == 1
                else min(MAX_GUIDANCE, t / ((1 - t) * (t**2 / ((1 - t) ** 2 + t**2))))
            )
            change = change + sign * weight * pull
        x = x.detach() - change / steps
    return x


def guidance(delay: int = DELAY, overlap: int = OVERLAP) -> Guidance:
    return Guidance(PREFIX, soft_mask(HORIZON, delay, overlap).double())


def distance(chunks: Tensor) -> Tensor:
    """Return the mean distance from the prefix for each step."""
    return (chunks - PREFIX).abs().mean((0, 2))


def drawn_to_the_prefix(guided: Tensor, plain: Tensor) -> bool:
    nearer = distance(guided) < distance(plain)
    return bool(nearer[:OVERLAP].all()) and bool((distance(guided)[:DELAY] < 0.15).all())


def test_plain_sampling_reaches_the_distribution():
    chunks = sample(velocity, NOISE, steps=50)[..., 0]
    assert chunks.mean(0).abs().max() < 0.25
    torch.testing.assert_close(torch.cov(chunks.T), COVARIANCE, atol=0.3, rtol=0.0)


def test_frozen_steps_end_at_the_prefix_and_free_steps_keep_their_spread():
    plain, guided = sample(velocity, NOISE), sample(velocity, NOISE, guidance=guidance())
    assert drawn_to_the_prefix(guided, plain)
    # The guidance decreases from frozen to free steps. The last step is hardly affected and keeps
    # its spread.
    assert (distance(guided)[DELAY - 1 :].diff() > 0).all()
    assert (guided - plain)[:, -1].abs().mean() < 0.1
    assert guided[:, -1].std() > 0.8 * plain[:, -1].std()


def test_both_conventions_of_time_give_the_same_chunks():
    for steps in (1, 5, 10):
        ours = sample(ascending(descending_velocity), NOISE, steps, guidance())
        torch.testing.assert_close(
            ours, sample(velocity, NOISE, steps, guidance()), atol=1e-9, rtol=0.0
        )
        torch.testing.assert_close(
            ours, descending_sample(NOISE, steps, guidance()), atol=1e-9, rtol=0.0
        )
    assert drawn_to_the_prefix(
        descending_sample(NOISE, 5, guidance()), descending_sample(NOISE, 5, None)
    )


def test_a_reversed_sign_fails_the_tests():
    """Known mistakes of other implementations must fail the tests above."""
    plain = sample(velocity, NOISE)
    assert not drawn_to_the_prefix(descending_sample(NOISE, 5, guidance(), sign=1.0), plain)
    not_adapted = sample(descending_velocity_as_is, NOISE, guidance=guidance())
    assert not drawn_to_the_prefix(not_adapted, plain)
    pushed = Guidance(PREFIX, -guidance().step_weights)
    assert (distance(sample(velocity, NOISE, guidance=pushed)) > distance(plain))[:OVERLAP].all()


def descending_velocity_as_is(x: Tensor, tau: float) -> Tensor:
    return descending_velocity(x, 1 - tau)


def test_without_remaining_steps_guidance_is_plain_sampling():
    nothing = guidance(0, 0)
    assert not nothing.step_weights.any()
    assert torch.equal(sample(velocity, NOISE, guidance=nothing), sample(velocity, NOISE))


def test_soft_mask_is_the_formula_of_the_paper():
    horizon, delay, execution = 50, 4, 25
    mask = soft_mask(horizon, delay, horizon - execution)
    assert mask[:delay].tolist() == [1.0] * delay
    for row in range(delay, horizon - execution):
        c = (horizon - execution - row) / (horizon - execution - delay + 1)
        assert mask[row] == pytest.approx(c * (math.exp(c) - 1) / (math.e - 1))
    assert not mask[horizon - execution :].any()
    assert (mask.diff() <= 0).all()


@pytest.mark.parametrize(("horizon", "delay", "overlap"), [(8, 3, 2), (8, -1, 2), (8, 2, 9)])
def test_an_invalid_mask_is_refused(horizon, delay, overlap):
    with pytest.raises(ValueError, match="needs 0 <= delay <= overlap <= horizon"):
        soft_mask(horizon, delay, overlap)


def test_guidance_weight_is_the_clipped_formula():
    for tau in (0.1, 0.3, 0.5, 0.8):
        r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        assert guidance_weight(tau, 100.0) == pytest.approx((1 - tau) / (tau * r2))
    assert guidance_weight(0.0) == guidance_weight(0.01) == guidance_weight(0.99) == MAX_GUIDANCE
    assert guidance_weight(0.5) == pytest.approx(2.0)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        sample(velocity, NOISE, steps=0)


def test_guidance_works_where_gradients_are_switched_off():
    with torch.inference_mode():
        guided = sample(velocity, NOISE, guidance=guidance())
    torch.testing.assert_close(guided, sample(velocity, NOISE, guidance=guidance()))
    assert not guided.requires_grad
