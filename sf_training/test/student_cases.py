"""Tiny students of every kind for the shipped robot, and data like its episodes."""

import json
from pathlib import Path

import numpy as np
import torch

from sf_policy_node.contract import load_contract
from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.vla.backbones.tiny import (
    FAMILIES,
    tiny_config,
    tiny_openvla_config,
    tiny_pi0,
    tiny_tokenizer,
)
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.objective import draw
from sf_training.spatial_forcing.alignment import AlignmentConfig, prepare_target
from sf_training.training.loop.forward import Inputs, TrainingModule
from sf_training.training.students import LoraSettings, Student, StudentSettings, build_student

CONTRACT = load_contract(Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml")
TEXTS = ("pick the red cube", "go")
BACKBONES = [*FAMILIES, "pi0", "openvla_oft"]
SIZES = {
    "cameras": len(CONTRACT.cameras),
    "state_size": len(state_names(CONTRACT)),
    "action_size": len(CONTRACT.action.names),
    "horizon": CONTRACT.action.horizon,
}
IMAGE_SIZES = {"nano": (32,), "qwen2_5_vl": (56, 112), "qwen3_vl": (64, 96)}
SMALL_LORA = LoraSettings(rank=8, alpha=16)


def config_folder(name: str, folder: Path) -> Path:
    """Write ``config.json`` and the tokenizer of a tiny backbone, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "openvla_oft":
        (folder / "config.json").write_text(json.dumps(tiny_openvla_config()))
    else:
        config = (
            tiny_pi0(columns=12, **SIZES).backbone.config if name == "pi0" else tiny_config(name)
        )
        config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def student_settings(name: str, root: Path, **changes) -> StudentSettings:
    """Return settings of a tiny, fully trainable model with random weights.

    Its folder is created below ``root`` if missing.
    """
    if name == "nano":
        return StudentSettings(**{"image_size": IMAGE_SIZES[name], **changes})
    folder = root / name
    if not folder.exists():
        config_folder(name, folder)
    chosen = {
        "kind": name if name in ("pi0", "openvla_oft") else "hf",
        "random_weights": folder,
        "image_size": IMAGE_SIZES.get(name, ()),
        "text_tokens": 100 if name == "openvla_oft" else 24,
        "train_vision": "full",
        "train_language": "full",
        "lora": SMALL_LORA,
    }
    if chosen["kind"] == "hf":
        chosen["head_width"] = 32
    return StudentSettings(**{**chosen, **changes})


def student(
    name: str, root: Path, *, head: str = "regression", seed: int = 0, **changes
) -> Student:
    chosen = student_settings(name, root, **changes)  # this call may draw random numbers
    torch.manual_seed(seed)
    return build_student(chosen, CONTRACT, head=head, width=32, layers=4)


def random_statistics(text_size: int = 0) -> Normalisation:
    rng = np.random.default_rng(1)
    states = rng.normal(size=(20, SIZES["state_size"]))
    chunks = rng.normal(size=(20, SIZES["horizon"], SIZES["action_size"]))
    return Normalisation.from_data(
        states,
        chunks,
        rng.normal(size=(20, text_size)),
        CONTRACT.columns.action.grippers,
    )


def inputs(
    one: Student, count: int = 2, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images, states and text rows for ``model.context``."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        0,
        256,
        (count, SIZES["cameras"], 3, *one.image_size),
        dtype=torch.uint8,
        generator=generator,
    )
    text = one.text_rows((TEXTS * count)[:count], random_statistics(one.model.config.text_size))
    return images, torch.randn(count, SIZES["state_size"], generator=generator), text


def outputs(model, batch) -> torch.Tensor:
    """Return chunks, or pi0's velocity at one noise and time."""
    with torch.no_grad():
        context = model.context(*batch)
        if model.config.head == "regression":
            return model.head(context)
        noise = torch.linspace(-1, 1, len(batch[1]) * SIZES["horizon"] * model.head.columns)
        return model.head.velocity(context, noise.view(len(batch[1]), SIZES["horizon"], -1), 0.5)


class Joint:
    """A student with alignment to a random teacher and an optimizer, on one random batch."""

    def __init__(self, one: Student, layer: int) -> None:
        self.model = one.model
        self.training = TrainingModule(
            one.model, AlignmentConfig(layer=layer), 48, torch.ones(SIZES["action_size"])
        ).train()
        images, states, text = inputs(one)
        generator = torch.Generator().manual_seed(1)
        chunks = torch.randn(2, SIZES["horizon"], SIZES["action_size"], generator=generator)
        features = torch.randn(2, SIZES["cameras"], 8, 8, 48, generator=generator)
        target = prepare_target(features, self.model.visual_layout().grid, 0.1)
        # The same noise in every step: fresh noise would hide the trend of thirty steps.
        drawn = draw(self.model, 2, torch.Generator().manual_seed(2), draws=2)
        self.inputs = Inputs(images, torch.arange(2), states, text, chunks, (target,), drawn)
        self.trained = [p for p in self.training.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, 3e-3)

    def losses(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses of actions and alignment."""
        losses = self.training(self.inputs)
        return losses["action"], losses["alignment"]

    def step(self) -> tuple[float, float]:
        """Train one step; return the losses before it."""
        action, aligned = self.losses()
        self.optimizer.zero_grad()
        (action + 0.5 * aligned).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return float(action.detach()), float(aligned.detach())
