"""Tests of the flow head: distribution, given steps, checkpoints."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from sf_policy_node.contract import load_contract
from sf_policy_node.motion.types import Join
from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.session.continuation import Continuation
from sf_policy_node.vla.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from sf_policy_node.vla.flow import FlowDraws, FlowHead, flow_loss
from sf_policy_node.vla.nano import Nano, NanoConfig
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.policy import Policy
from sf_policy_node.vla.real_time_chunking import sample
from sf_policy_node.vla.text import TEXT_SIZE

REPOSITORY = Path(__file__).parents[2]
CONTRACT = load_contract(REPOSITORY / "sf_bringup/config/robots/sim_arm.yaml")
RNG = np.random.default_rng(0)
JOINTS = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.035])
IMAGES = {
    name: RNG.integers(0, 256, (240, 320, 3), dtype=np.uint8) for name in CONTRACT.camera_names
}
HORIZON, COLUMNS = CONTRACT.action.horizon, len(CONTRACT.action.names)


def tiny(head: str = "flow") -> Nano:
    torch.manual_seed(0)
    sizes = {
        "cameras": 2,
        "state_size": len(state_names(CONTRACT)),
        "action_size": COLUMNS,
        "horizon": HORIZON,
        "image_size": 32,
    }
    return Nano(NanoConfig(**sizes, width=32, layers=2, head=head)).eval()


def statistics() -> Normalisation:
    rng = np.random.default_rng(1)
    states, chunks = (
        rng.normal(size=(20, len(state_names(CONTRACT)))),
        rng.normal(size=(20, HORIZON, COLUMNS)),
    )
    return Normalisation.from_data(
        states,
        chunks,
        rng.normal(size=(20, TEXT_SIZE)),
        CONTRACT.columns.action.grippers,
    )


def policy(head: str = "flow") -> Policy:
    return Policy(tiny(head), CONTRACT, statistics(), device="cpu")


@pytest.fixture(scope="module")
def trained() -> FlowHead:
    """Train on two kinds of chunks: a ramp up and a ramp down.

    Both are equally likely and indistinguishable from the observation.
    """
    torch.manual_seed(0)
    head = FlowHead(width=32, heads=2, layers=2, horizon=6, action_size=1)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    tokens = torch.zeros(64, 6, 32)
    for _ in range(400):
        loss = flow_loss(
            head,
            tokens,
            ramps(64, generator),
            torch.ones(1),
            FlowDraws.draw(64, 6, 1, 2, generator),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval().requires_grad_(False)


def ramps(count: int, generator: torch.Generator) -> torch.Tensor:
    sign = torch.randint(0, 2, (count, 1, 1), generator=generator) * 2.0 - 1.0
    return sign * torch.linspace(0.3, 1.8, 6)[:, None]


def draw(head: FlowHead, noise: torch.Tensor, given: int = 0) -> torch.Tensor:
    tokens = torch.zeros(len(noise), 6, 32)
    return sample(lambda x, tau: head.velocity(tokens, x, tau, given), noise, steps=10)[..., 0]


def test_sampling_gives_both_modes_and_no_mixture(trained):
    """A regression head would predict their mean, which is not in the data."""
    ends = draw(trained, torch.randn(200, 6, 1, generator=torch.Generator().manual_seed(2)))[:, -1]
    assert 0.3 < float((ends > 0).float().mean()) < 0.7
    assert float((ends.abs() - 1.8).abs().lt(0.5).float().mean()) > 0.9


def test_given_steps_are_fixed_and_the_others_continue_them(trained):
    noise = torch.randn(100, 6, 1, generator=torch.Generator().manual_seed(3))
    noise[:, :2] = -torch.linspace(0.3, 1.8, 6)[:2, None]
    chunks = draw(trained, noise, given=2)
    assert torch.equal(chunks[:, :2], noise[:, :2, 0])
    assert float((chunks[:, -1] < -1.2).float().mean()) > 0.95


def test_a_flow_policy_is_deterministic_for_a_seed():
    first, again = policy(), policy()
    one, other = (p.predict(IMAGES, JOINTS, "pick the red cube") for p in (first, again))
    assert one.shape == (HORIZON, COLUMNS)
    np.testing.assert_array_equal(one, other)
    assert not np.allclose(
        one, first.predict(IMAGES, JOINTS, "pick the red cube")
    )  # the next noise differs


def test_the_trunk_runs_once_for_a_prediction():
    flow, calls = policy(), []
    flow._model.stem.register_forward_hook(lambda *_: calls.append("trunk"))
    flow._model.head.register_forward_hook(lambda *_: calls.append("head"))
    flow.predict(
        IMAGES, JOINTS, "pick the red cube", continuation=Continuation(np.zeros((5, COLUMNS)), 1)
    )
    assert calls == ["trunk", *["head"] * 5]


def test_a_continued_chunk_begins_with_the_steps_executed_during_prediction():
    rows = np.linspace(0.0, 0.08, 5)[:, None] * np.ones(COLUMNS)
    continued = policy().predict(
        IMAGES, JOINTS, "pick the red cube", continuation=Continuation(rows, 2)
    )
    np.testing.assert_allclose(continued[:2], rows[:2], atol=1e-6)
    free = policy().predict(
        IMAGES, JOINTS, "pick the red cube", continuation=Continuation(rows[:0], 0)
    )
    np.testing.assert_array_equal(free, policy().predict(IMAGES, JOINTS, "pick the red cube"))


def test_the_blending_mode_follows_from_the_head():
    assert policy("flow").join is Join.RTC
    assert policy("regression").join is Join.BLEND
    rows = Continuation(np.zeros((5, COLUMNS)), 1)
    plain = policy("regression").predict(IMAGES, JOINTS, "pick the red cube")
    np.testing.assert_array_equal(
        policy("regression").predict(IMAGES, JOINTS, "pick the red cube", continuation=rows), plain
    )


def test_a_flow_checkpoint_predicts_like_the_saved_model(tmp_path):
    save_checkpoint(tmp_path / "flow", tiny(), CONTRACT, statistics(), {})
    loaded = Policy.load(tmp_path / "flow", contract=CONTRACT, device="cpu")
    assert loaded.join is Join.RTC
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, JOINTS, "pick the red cube"),
        policy().predict(IMAGES, JOINTS, "pick the red cube"),
    )


def test_an_unknown_head_is_named(tmp_path):
    save_checkpoint(tmp_path / "flow", tiny(), CONTRACT, statistics(), {})
    config = tmp_path / "flow/config.json"
    config.write_text(config.read_text().replace('"flow"', '"diffusion"'))
    with pytest.raises(
        CheckpointError, match="head 'diffusion' is not known; it is regression or flow"
    ):
        load_checkpoint(tmp_path / "flow")


def test_the_shipped_regression_checkpoint_gives_its_original_outputs():
    """The outputs were computed before other heads existed, on reproducible images."""
    folder = REPOSITORY / "sf_bringup/config/policies/nano"
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:8] == "3b1f6699"
    shipped = Policy.load(folder, contract=CONTRACT, device="cpu")
    rows, columns = np.mgrid[:240, :320]
    image = np.stack([rows % 256, columns % 256, (rows + columns) % 256], -1).astype(np.uint8)
    chunk = shipped.predict(
        dict.fromkeys(CONTRACT.camera_names, image), JOINTS, "pick the red cube"
    )
    np.testing.assert_allclose(chunk[[0, -1]], EXPECTED, atol=2e-6)
    assert shipped.join is Join.BLEND


EXPECTED = np.array(
    [
        [-0.01582877, 0.01599339, -0.01014610, 1.00134683],
        [-0.07411099, 0.07805152, -0.13719088, 1.00484496],
    ]
)
