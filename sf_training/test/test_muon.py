"""Tests of Muon on CPUs: torch's optimizer, with the iteration in float32."""

import pytest
import torch
from training_process import make_run

from sf_training.training.optimisation.muon import Muon, orthogonalize

SHAPES = [(24, 24), (8, 40), (40, 8)]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
OPTIONS = [
    {"adjust_lr_fn": "match_rms_adamw"},
    {"nesterov": False, "weight_decay": 0.3},
    {
        "adjust_lr_fn": "original",
        "momentum": 0.5,
        "ns_steps": 3,
        "ns_coefficients": (2.0, -1.5, 0.5),
    },
]


def make_matrices():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def take_steps(optimizer, matrices, first, last):
    """Take steps ``first`` to ``last - 1`` with fixed gradients.

    The last matrix has no gradient in step 0.
    """
    for number in range(first, last):
        generator = torch.Generator().manual_seed(number)
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        if number == 0:
            matrices[-1].grad = None
        optimizer.step()


def difference(ours, theirs, start):
    """Return the largest difference of two sets of matrices.

    It is relative to their distance from ``start``.
    """
    with torch.no_grad():
        return max(
            float((one - two).norm() / (two - begin).norm())
            for one, two, begin in zip(ours, theirs, start, strict=True)
        )


@pytest.mark.parametrize("options", OPTIONS)
def test_updates_equal_torch_up_to_bfloat16_rounding(options):
    ours, theirs, start = make_matrices(), make_matrices(), make_matrices()
    take_steps(Muon(ours, lr=0.02, **options), ours, 0, 5)
    take_steps(torch.optim.Muon(theirs, lr=0.02, **options), theirs, 0, 5)
    assert 0.0 < difference(ours, theirs, start) < 0.03  # bfloat16 has 8 bits; 5 steps add up


def test_the_iteration_is_exact_to_float32():
    """A matrix with singular values of 1 and 0.5 keeps its singular vectors; the values follow the
    polynomial.
    """
    left = torch.linalg.qr(
        torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]
    right = torch.linalg.qr(
        torch.randn(20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    )[0][:12]
    values = torch.linspace(0.5, 1.0, 12, dtype=torch.float64)
    scaled = values / values.norm()
    a, b, c = COEFFICIENTS
    for _ in range(5):
        scaled = a * scaled + b * scaled**3 + c * scaled**5
    expected = left @ torch.diag(scaled) @ right
    for matrix, wanted in (
        (left @ torch.diag(values) @ right, expected),
        ((left @ torch.diag(values) @ right).T, expected.T),
    ):
        found = orthogonalize(matrix.float(), COEFFICIENTS, 5, 1e-7)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("first", "second"), [(torch.optim.Muon, Muon), (Muon, torch.optim.Muon)])
def test_saved_states_are_interchangeable_with_torch(first, second):
    alone, moved, start = make_matrices(), make_matrices(), make_matrices()
    take_steps(first(alone, lr=0.02), alone, 0, 6)
    optimizer = first(moved, lr=0.02)
    take_steps(optimizer, moved, 0, 3)
    resumed = second(moved, lr=0.5)
    resumed.load_state_dict(optimizer.state_dict())
    take_steps(resumed, moved, 3, 6)
    assert difference(moved, alone, start) < 0.03


def test_bfloat16_weights_keep_their_type_and_zero_gradients_only_decay():
    half, zero = (
        torch.nn.Parameter(torch.ones(4, 6, dtype=torch.bfloat16)),
        torch.nn.Parameter(torch.ones(4, 6)),
    )
    half.grad, zero.grad = torch.randn(4, 6, dtype=torch.bfloat16), torch.zeros(4, 6)
    Muon([half, zero], lr=0.1, weight_decay=0.5).step()
    assert half.dtype == torch.bfloat16 and half.isfinite().all()
    torch.testing.assert_close(zero.data, torch.full((4, 6), 0.95))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_muon_is_torchs_own():
    ours, theirs = ([torch.nn.Parameter(each.cuda()) for each in make_matrices()] for _ in range(2))
    for optimizer, matrices in (
        (Muon(ours, lr=0.02), ours),
        (torch.optim.Muon(theirs, lr=0.02), theirs),
    ):
        for matrix in matrices:
            matrix.grad = torch.sin(torch.arange(matrix.numel(), device="cuda")).reshape(
                matrix.shape
            )
        optimizer.step()
    assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))


def test_the_trainer_uses_it(tmp_path):
    """torch's own takes four times as long on a CPU without AVX512-BF16."""
    assert [type(each) for each in make_run("nano", tmp_path, 9).optimizers.all] == [
        Muon,
        torch.optim.AdamW,
    ]


def test_losses_equal_those_with_torchs_optimizer(tmp_path):
    def losses(name):
        run = make_run("nano", tmp_path / name, 8)
        if name == "torch":
            group = run.optimizers.all[0].param_groups[0]
            options = {
                key: group[key] for key in ("lr", "momentum", "weight_decay", "adjust_lr_fn")
            }
            run.optimizers.all[0] = torch.optim.Muon(group["params"], **options)
        curve = []
        for _ in range(8):
            run.train_step()
            progress = run.progress()
            curve.append((progress.action_loss, progress.alignment_loss))
        run.close()
        return torch.tensor(curve)

    ours, theirs = losses("ours"), losses("torch")
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0)
    assert not torch.equal(ours, theirs)
