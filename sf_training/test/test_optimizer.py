"""Tests of an optimizer step: learning rate, clipping, averaging, non-finite gradients."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_process import make_run

from sf_training.training.optimisation.average import Average
from sf_training.training.optimisation.optimizers import Optimizers, schedule
from sf_training.training.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def rates(run, steps: int) -> list[float]:
    return [run.optimizers.rate(step) for step in range(1, steps + 1)]


def test_the_learning_rate_follows_the_schedule(folder):
    options = {"learning_rate": 0.1, "warm_up": 4, "decay_share": 0.5}
    linear, cosine = (
        rates(make_run("nano", folder, 20, schedule=each, **options), 20)
        for each in ("linear", "cosine")
    )
    for found in (linear, cosine):
        assert found[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
        assert found[4:11] == pytest.approx([0.1] * 7)
        assert all(one > other > 0 for one, other in itertools.pairwise(found[10:]))
    assert linear[10:] == pytest.approx([0.1 * (20 - number) / 10 for number in range(10, 20)])
    assert cosine[10:] == pytest.approx(
        [0.05 * (1 - math.cos(math.pi * (20 - number) / 10)) for number in range(10, 20)]
    )
    assert rates(
        make_run("nano", folder, 20, learning_rate=0.1, warm_up=0, decay_share=0.0), 20
    ) == pytest.approx([0.1] * 20)


@settings(max_examples=200, deadline=None)
@given(
    steps=st.integers(1, 500),
    warm_up=st.integers(0, 600),
    share=st.floats(0, 1),
    schedule=st.sampled_from(["linear", "cosine"]),
    data=st.data(),
)
def test_the_learning_rate_never_leaves_its_range(steps, warm_up, share, schedule, data):
    chosen = Settings(
        data="d",
        out="o",
        steps=steps,
        warm_up=warm_up,
        decay_share=share,
        schedule=schedule,
        learning_rate=1.0,
    )
    optimizers = Optimizers.__new__(Optimizers)
    optimizers._settings = chosen
    assert 0 < optimizers.rate(data.draw(st.integers(1, steps))) <= 1.0


def scheduled(count: int, **options) -> list[float]:
    return [schedule(Settings(data="d", out="o", **options), step) for step in range(1, count + 1)]


def torch_rates(make, count: int) -> list[float]:
    """Return the rates of one of torch's schedulers at each of its steps, for a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_multistep_and_cosine_with_a_floor_equal_torchs():
    lr_scheduler = torch.optim.lr_scheduler
    found = scheduled(
        12, steps=12, warm_up=0, schedule="multistep", milestones=(5, 9), milestone_factor=0.2
    )
    assert found == pytest.approx(
        torch_rates(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [5, 9], 0.2), 12)
    )
    found = scheduled(12, steps=12, warm_up=0, schedule="cosine", decay_share=1.0, floor=1e-3)
    assert found == pytest.approx(
        torch_rates(
            lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 12, eta_min=1e-3), 12
        )
    )


def test_warm_up_may_start_above_zero_and_decay_end_early():
    found = scheduled(
        10, steps=10, warm_up=4, warm_up_from=0.1, decay_share=0.5, decay_end=8, floor=0.25
    )
    assert found == pytest.approx([0.325, 0.55, 0.775, 1.0, 1.0, 0.8125, 0.625, 0.4375, 0.25, 0.25])


def test_without_clipping_a_gradient_keeps_its_norm(folder):
    run = make_run("nano", folder, 9, clip=0.0)
    weight = run.training.alignment.projector.out.weight
    for parameter in run.optimizers.parameters:
        parameter.grad = torch.zeros_like(parameter)
    weight.grad.fill_(10.0)
    seen = []
    run.optimizers.all[0].step = lambda: seen.append(float(weight.grad.norm()))
    assert seen == [] and run.optimizers.step(1) == pytest.approx(seen[0]) == pytest.approx(
        10.0 * math.sqrt(weight.numel())
    )


def test_betas_reach_adamw(folder):
    groups = make_run("nano", folder, 9, betas=(0.9, 0.999)).optimizers.all[-1].param_groups
    assert [group["betas"] for group in groups] == [(0.9, 0.999)]


def test_the_clipped_norm_includes_the_projector(folder):
    run = make_run("nano", folder, 9)
    for parameter in run.optimizers.parameters:
        parameter.grad = torch.zeros_like(parameter)
    run.training.alignment.projector.out.weight.grad.fill_(10.0)
    count = run.training.alignment.projector.out.weight.numel()
    seen = []
    run.optimizers.all[0].step = lambda: seen.append(
        float(run.training.alignment.projector.out.weight.grad.norm())
    )
    assert run.optimizers.step(1) == pytest.approx(10.0 * math.sqrt(count))
    assert seen == [pytest.approx(run.settings.clip, rel=1e-3)]


def test_the_average_follows_quickly_at_first_then_slowly():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    average, expected = Average(model, 0.9), 0.0
    for step in range(1, 300):
        model.weight.data.fill_(step)
        average.update(step)
        decay = min(0.9, step / (step + 20))
        expected = decay * expected + (1 - decay) * step
        with average.in_place():
            assert model.weight.item() == pytest.approx(expected, rel=1e-4)
        assert model.weight.item() == step


def test_without_averaging_the_weights_are_used():
    model = torch.nn.Linear(1, 1)
    average = Average(model, 0.0)
    average.update(1)
    before = model.weight.item()
    with average.in_place():
        assert model.weight.item() == before


def test_a_non_finite_gradient_stops_the_run_before_the_update(folder):
    """The loss of that step is finite.

    Without a check the next save would overwrite the last good state.
    """
    run = make_run("nano", folder, 9)
    run.train_step()
    before = [parameter.clone() for parameter in run.model.parameters()]
    next(run.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        FloatingPointError,
        match=r"step 2: a gradient is not finite; lower --learning-rate \(now 0.002\)",
    ):
        run.train_step()
    run.close()
    assert all(
        torch.equal(one, other) for one, other in zip(before, run.model.parameters(), strict=True)
    )
