"""Tiny models of every family for the contract of ``sim_arm``, and their inputs."""

from pathlib import Path

import numpy as np
import torch

from sf_policy_node.contract import load_contract
from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.vla.backbones.tiny import tiny_hf, tiny_pi0
from sf_policy_node.vla.normalisation import Normalisation

CONTRACT = load_contract(Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml")
JOINTS = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.035])
SENTENCE = "pick the red cube"
SIZES = {
    "cameras": len(CONTRACT.cameras),
    "state_size": len(state_names(CONTRACT)),
    "action_size": len(CONTRACT.action.names),
    "horizon": CONTRACT.action.horizon,
}


def hf(family: str, seed: int = 0, **settings):
    torch.manual_seed(seed)
    return tiny_hf(family, **SIZES, **settings).eval()


def pi0(seed: int = 0, **settings):
    torch.manual_seed(seed)
    return tiny_pi0(**{**SIZES, "columns": 12, **settings}).eval()


def camera_images(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(0, 256, (120, 160, 3), dtype=np.uint8) for name in CONTRACT.camera_names
    }


def statistics() -> Normalisation:
    rng = np.random.default_rng(1)
    states, chunks = (
        rng.normal(size=(20, SIZES["state_size"])),
        rng.normal(size=(20, SIZES["horizon"], SIZES["action_size"])),
    )
    return Normalisation.from_data(
        states, chunks, np.zeros((20, 0)), CONTRACT.columns.action.grippers
    )


def batch(model, count: int = 2, seed: int = 0):
    """Return images, states and token ids for ``model.context``."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        0,
        256,
        (count, SIZES["cameras"], 3, *model.config.image_size),
        dtype=torch.uint8,
        generator=generator,
    )
    sentences = [SENTENCE, "go", "pick the blue cube", "put it down"][:count]
    return (
        images,
        torch.randn(count, SIZES["state_size"], generator=generator),
        model.words.encode(sentences),
    )
