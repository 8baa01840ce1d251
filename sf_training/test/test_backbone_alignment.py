"""Spatial Forcing on the models that people fine-tune: where its gradient goes."""

import pytest
import torch

from sf_policy_node.vla.backbones.pretrained import BackboneError
from sf_policy_node.vla.backbones.tiny import FAMILIES, tiny_hf, tiny_pi0
from sf_policy_node.vla.objective import action_loss, draw
from sf_training.spatial_forcing.alignment import Alignment, AlignmentConfig, prepare_target, token_mask
from sf_training.spatial_forcing.presets import preset
from sf_training.spatial_forcing.student_tokens import StudentTokens, visual_positions, visual_tokens

SIZES = {"cameras": 2, "state_size": 10, "action_size": 4, "horizon": 8}
EVERY = [*FAMILIES, "pi0"]
LAYER = 2
COUNT = 2


def build(name: str, **settings):
    torch.manual_seed(0)
    return tiny_pi0(columns=10, **SIZES, **settings) if name == "pi0" else tiny_hf(name, **SIZES, **settings)


class Student:
    """A model with its alignment to a random teacher."""

    def __init__(self, name: str, **settings) -> None:
        self.model = build(name, **settings)
        self.places = self.model.visual_places()
        self.config = AlignmentConfig(layer=LAYER)
        self.alignment = Alignment(self.config, self.places.width, 48)
        self.tokens = StudentTokens(self.model, [LAYER], self.places.blocks)
        generator = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (COUNT, 2, 3, *self.model.config.image_size), dtype=torch.uint8, generator=generator)
        self.inputs = images, torch.randn(COUNT, 10, generator=generator), self.model.words.encode(["pick the red cube", "go"])
        self.chunks = torch.randn(COUNT, 8, 4, generator=generator)
        self.target = prepare_target(torch.randn(COUNT, 2, 8, 8, 48, generator=generator), self.places.grid, 0.1)

    def losses(self) -> tuple[torch.Tensor, torch.Tensor]:
        with self.tokens.recording():
            context = self.model.context(*self.inputs)
        hidden = visual_tokens(self.tokens[LAYER], visual_positions(self.places.mask.expand(COUNT, -1)))
        mask = token_mask(torch.ones(COUNT, 2, dtype=torch.bool), self.places.grid)
        aligned = self.alignment({LAYER: hidden}, [self.target], mask)
        # The same noise in every step: thirty are too few to see through fresh one.
        noise = torch.Generator().manual_seed(2)
        return action_loss(self.model, context, self.chunks, torch.ones(4), draw(self.model, len(self.chunks), noise, draws=2)), aligned


@pytest.mark.parametrize("name", EVERY)
def test_the_alignment_reaches_the_vision_tower_and_nothing_above_its_layer(name):
    student = Student(name)
    student.losses()[1].backward()
    reached = {key for key, value in student.model.named_parameters() if value.grad is not None and bool(value.grad.abs().max() > 0)}
    touched = {key for key, value in student.model.named_parameters() if value.grad is not None}
    assert any("patch_embed" in key for key in reached)  # where pictures enter
    blocks = next(key for key, module in student.model.named_modules() if module is student.places.blocks)
    assert {int(key.removeprefix(blocks + ".").split(".")[0]) for key in touched if key.startswith(blocks + ".")} == set(range(LAYER))
    assert not {key for key in touched if key.startswith(("head", "read", "backbone.model.dit", "backbone.action_out"))}


@pytest.mark.parametrize(("name", "settings"), [*((name, {}) for name in EVERY), ("smolvlm", {"head": "flow"})])
def test_both_losses_fall_in_thirty_steps(name, settings):
    student = Student(name, **settings)
    parameters = [*student.model.parameters(), *student.alignment.parameters()]
    optimizer = torch.optim.AdamW(parameters, 3e-3)
    curve = []
    for _ in range(30):
        action, aligned = student.losses()
        loss = action + student.config.coefficient * aligned
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        curve.append((float(action.detach()), float(aligned.detach())))
    first, last = (torch.tensor(part).mean(0) for part in (curve[:4], curve[-4:]))
    assert last[0] < 0.85 * first[0]
    assert last[1] < 0.9 * first[1]


@pytest.mark.parametrize("name", EVERY)
def test_gradient_checkpointing_changes_no_gradient(name):
    plain, saving = Student(name), Student(name)
    saving.model.train().checkpoint_gradients()
    layers = [module for module in saving.model.modules() if getattr(module, "gradient_checkpointing", False)]
    assert layers
    for student in (plain, saving):
        sum(student.losses()).backward()
    for one, other in zip(plain.model.parameters(), saving.model.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_checkpointing_that_would_drop_the_prefix_is_refused():
    student = Student("pi0")
    student.model.train().backbone.activation_checkpointing_enable()
    with pytest.raises(BackboneError, match="call checkpoint_gradients"):
        student.losses()


@pytest.mark.parametrize("name", ["paper_openvla", "paper_pi0", "multilayer", "adaptive"])
def test_presets_find_their_layers(name):
    model = build("qwen3_vl")
    config = preset(name, len(model.visual_places().blocks))
    tokens = StudentTokens(model, config.student_layers, model.visual_places().blocks)
    with tokens.recording():
        model.context(torch.zeros(1, 2, 3, *model.config.image_size), torch.zeros(1, 10), model.words.encode(["go"]))
    assert all(tokens[layer].shape[1] == len(model.visual_places().mask) for layer in config.student_layers)
