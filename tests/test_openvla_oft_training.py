"""Test ten training steps of a tiny OpenVLA-OFT with Spatial Forcing.

The losses equal those of the authors' code on the same batch.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from sf_policy_node.vla.backbones.openvla_oft.model import OpenVlaOft
from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.training.loop.forward import Inputs, TrainingModule

# (L1, 1 - cosine) of each step, from moojink/openvla-oft 213c5ff, its fork of transformers, timm
# 0.9.16 and the AlignProjector of OpenHelix-Team/Spatial-Forcing: full fine-tuning in float32,
# torch's AdamW at 5e-4, layer 2 of 3, tokens shifted by one.
LOSSES = [
    (0.4766026437282562, 0.9940422773361206),
    (0.4427212178707123, 0.9858325719833374),
    (0.3997833728790283, 0.9785019755363464),
    (0.363838791847229, 0.9721068739891052),
    (0.31466296315193176, 0.964661717414856),
    (0.32921287417411804, 0.957577109336853),
    (0.317101389169693, 0.9510185718536377),
    (0.3360483646392822, 0.9444538354873657),
    (0.3287542760372162, 0.9371528625488281),
    (0.3181905746459961, 0.9292913675308228),
]
CHANNELS = 48
PROJECTOR = {"hidden": "fc1", "out": "fc2", "norm": "vlm_norm"}


@pytest.fixture
def cases():
    path = Path(__file__).parents[1] / "sf_policy_node/test/oft_cases.py"
    spec = importlib.util.spec_from_file_location("oft_cases_of_sf_policy_node", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ten_steps_have_the_authors_losses(cases, tmp_path):
    model = OpenVlaOft.from_pretrained(
        cases.write_published(tmp_path / "w"), cameras=2, **cases.SIZES
    )
    config = AlignmentConfig(layer=2, token_shift=1, mask=False)
    training = TrainingModule(model, config, CHANNELS, torch.ones(cases.ACTIONS)).train()
    projector = training.alignment.projector.state_dict()
    theirs = {name: f"{PROJECTOR[name.split('.')[0]]}.{name.split('.')[1]}" for name in projector}
    weights = cases.seeded(
        {theirs[name]: tuple(value.shape) for name, value in projector.items()}, 5
    )
    training.alignment.projector.load_state_dict(
        {name: weights[theirs[name]] for name in projector}
    )
    optimizer = torch.optim.AdamW(training.parameters(), lr=5e-4)
    generator = torch.Generator().manual_seed(11)
    chunks = torch.rand(2, cases.HORIZON, cases.ACTIONS, generator=generator) * 2 - 1
    target = torch.randn(2, 32, CHANNELS, generator=generator)
    images, states = cases.observations(2, 2)
    text = model.words.encode(["Pick the RED cube", "put the small blue cube into the bowl"])
    found = []
    for _ in LOSSES:
        losses = training(Inputs(images, torch.arange(2), states, text, chunks, (target,), None))
        found.append((losses["action"].item(), losses["alignment"].item()))
        optimizer.zero_grad()
        (losses["action"] + 0.5 * losses["alignment"]).backward()
        optimizer.step()
    assert torch.tensor(found).flatten().tolist() == pytest.approx(
        torch.tensor(LOSSES).flatten().tolist(), rel=1e-4
    )
