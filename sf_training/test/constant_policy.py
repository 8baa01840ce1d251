"""Checkpoints with known chunks: every value of a chunk is one number."""

from pathlib import Path

import numpy as np
import torch

from sf_policy_node.contract import Contract
from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.vla.backbones.hf import HfVla
from sf_policy_node.vla.backbones.tiny import tiny_hf
from sf_policy_node.vla.checkpoint import save_checkpoint
from sf_policy_node.vla.nano import Nano, NanoConfig
from sf_policy_node.vla.normalisation import Columns, Normalisation
from sf_policy_node.vla.text import TEXT_SIZE


def constant_checkpoint(
    path: Path, contract: Contract, value: float, training: dict | None = None
) -> Path:
    """Write a nano checkpoint that predicts ``value`` everywhere, in units of the contract."""
    model = untrained(contract)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    size = len(contract.action.names)
    normalisation = statistics(contract, action=Columns(np.full(size, value), np.ones(size)))
    save_checkpoint(path, model, contract, normalisation, training or {})
    return path


def untrained(contract: Contract, seed: int = 0) -> Nano:
    """Return a small nano with random weights."""
    torch.manual_seed(seed)
    return Nano(NanoConfig(**_sizes(contract), image_size=32, width=32, layers=2))


def _sizes(contract: Contract) -> dict[str, int]:
    action, state = contract.action, len(state_names(contract))
    return {
        "cameras": len(contract.cameras),
        "state_size": state,
        "action_size": len(action.names),
        "horizon": action.horizon,
    }


def vision_language_model(contract: Contract, family: str = "smolvlm", seed: int = 0) -> HfVla:
    """Return a tiny transformers model of a family with random weights."""
    torch.manual_seed(seed)
    return tiny_hf(family, **_sizes(contract)).eval()


def statistics(
    contract: Contract, action: Columns | None = None, text: int = TEXT_SIZE
) -> Normalisation:
    """Return statistics that leave values unchanged.

    A model with its own tokenizer has no ``text`` columns.
    """
    sizes = (len(state_names(contract)), len(contract.action.names), text)
    state, identity, words = (Columns(np.zeros(size), np.ones(size)) for size in sizes)
    return Normalisation(state, action or identity, words)
