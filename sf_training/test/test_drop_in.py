"""Tests of Spatial Forcing in other trainers, with models like openpi and LeRobot."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from seeded_weights import da3_weights
from torch import nn

from sf_training.spatial_forcing.alignment import AlignmentConfig, prepare_target
from sf_training.spatial_forcing.drop_in import SpatialForcing
from sf_training.spatial_forcing.student_tokens import StudentTokensError
from sf_training.spatial_forcing.vision_targets import open_teacher

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import lerobot_loop
import openpi_loop

WIDTH, SIDE = 24, 4  # tokens of a view: 2 x 2


class Norm(nn.LayerNorm):
    """A norm with a condition that returns a gate, as openpi's patched norm does."""

    def forward(self, x, cond=None):
        return super().forward(x), None


class Policy(nn.Module):
    """A policy that calls norms and layers, never the block, as openpi and LeRobot do."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(3, WIDTH, SIDE // 2, SIDE // 2)
        self.language_model = nn.Module()
        self.language_model.layers = nn.ModuleList(
            nn.ModuleDict({"input_layernorm": Norm(WIDTH), "mlp": nn.Linear(WIDTH, WIDTH)})
            for _ in range(3)
        )
        self.config = SimpleNamespace(image_features={"scene": 1, "absent": 1, "wrist": 1})

    def act(self, images, actions):
        patches = [self.look(view).flatten(2).transpose(1, 2) for view in images]
        x = torch.cat([*patches, patches[0][:, :1]], 1)  # then text tokens
        for layer in self.language_model.layers:
            x = x + layer["mlp"](layer["input_layernorm"](x, cond=None)[0])
        return (x[:, -1] - actions).square()

    def forward(self, first, actions=None):
        if actions is None:  # LeRobot's batch
            loss = self.act([first["scene"], first["wrist"]], first["action"])
            return loss.mean(), {}
        images = [view.movedim(-1, 1) for view in first.images.values()]
        return self.act(images, actions)


@pytest.fixture
def weights(tmp_path):
    save_file(da3_weights(), tmp_path / "model.safetensors")
    return str(tmp_path)


def options():
    return {"layer": 2, "width": WIDTH, "grid": (2, 2)}


def parameters(policy, forcing):
    return torch.optim.AdamW([*policy.parameters(), *forcing.parameters()], 1e-2)


def test_openpis_loop_learns_the_alignment_and_excludes_missing_cameras(weights):
    torch.manual_seed(0)
    policy = Policy()
    forcing = openpi_loop.add_spatial_forcing(policy, weights, **options())
    optimizer = parameters(policy, forcing)
    images = {name: torch.rand(2, SIDE, SIDE, 3) * 2 - 1 for name in ("base", "wrist")}
    masks = {"base": torch.tensor([True, True]), "wrist": torch.tensor([True, False])}
    observation = SimpleNamespace(images=images, image_masks=masks)
    actions = torch.zeros(2, WIDTH)
    steps = [
        float(openpi_loop.training_step(policy, forcing, observation, actions, optimizer))
        for _ in range(12)
    ]
    assert steps[-1] < steps[0]
    # The second sample's loss, computed by hand, is that of its first view.
    with forcing.recording():
        policy(observation, actions)
    tokens = forcing._tokens[2]
    seen, present = openpi_loop.images_of(observation)
    found = forcing.loss(seen, present)
    teacher = open_teacher("da3", weights, (-1,))
    target = prepare_target(teacher.features(seen, present)[0], (2, 2), 0.1)
    cosine = nn.functional.cosine_similarity(
        forcing.alignment.projector(tokens[:, :8]), target, dim=-1
    )
    expected = 0.5 * (1 - torch.stack([cosine[0].mean(), cosine[1, :4].mean()])).mean()
    torch.testing.assert_close(found, expected)


def test_lerobots_loop_learns_the_alignment(weights):
    torch.manual_seed(0)
    policy = Policy()
    forcing = lerobot_loop.add_spatial_forcing(policy, weights, **options())
    batch = {name: torch.rand(2, 3, SIDE, SIDE) for name in ("scene", "wrist")}
    batch["action"] = torch.zeros(2, WIDTH)
    before = policy.look.weight.detach().clone()
    losses = [
        float(lerobot_loop.update_policy(policy, forcing, batch, parameters(policy, forcing)))
        for _ in range(3)
    ]
    assert losses[-1] < losses[0] and not torch.equal(before, policy.look.weight)
    assert all(name.startswith("alignment.") for name, _ in forcing.named_parameters())
    assert not any("alignment" in name for name, _ in policy.named_parameters())


def test_a_forgotten_call_gives_one_sentence(weights):
    policy, teacher = Policy(), open_teacher("da3", weights, (-1,))
    forcing = SpatialForcing(policy, teacher, WIDTH, grid=(2, 2), config=AlignmentConfig(layer=2))
    images = torch.rand(1, 2, 3, SIDE, SIDE)
    with pytest.raises(StudentTokensError, match="layer 2 did not run in the recording"):
        forcing.loss(images)
    policy.requires_grad_(False)
    with forcing.recording():
        policy({"scene": images[:, 0], "wrist": images[:, 1], "action": torch.zeros(1, WIDTH)})
    with pytest.raises(StudentTokensError, match="nothing below layer 2 is trainable"):
        forcing.loss(images)


def test_the_examples_are_short():
    folder = Path(__file__).parents[1] / "examples"
    for path in (folder / "openpi_loop.py", folder / "lerobot_loop.py"):
        assert len(path.read_text().splitlines()) <= 50
