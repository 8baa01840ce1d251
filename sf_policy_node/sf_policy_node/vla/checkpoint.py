"""A checkpoint is a directory: weights, sizes, contract, URDF and statistics. No pickle is ever loaded.

``model.safetensors``, ``config.json``, ``contract.yaml``, the URDF it names, ``statistics.json``, ``report/``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_policy_node.state import state_names
from sf_policy_node.vla.nano import Nano, NanoConfig
from sf_policy_node.vla.normalisation import Normalisation

_FORMAT = 1
_MODEL = "nano"


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message names the file and the cure."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. ``identity`` is its folder's name and the first digits of the weights' hash.

    ``contract`` is the robot's where one was given: limits are the robot's own, whatever the training was told.
    """

    model: Nano
    contract: Contract
    normalisation: Normalisation
    identity: str


def save_checkpoint(path: Path, model: Nano, contract: Contract, normalisation: Normalisation, training: Mapping[str, object]) -> None:
    """Write a checkpoint next to ``path`` and move it into place, so that a full disk leaves the old one whole.

    ``training`` (settings, seeds, command) goes into ``config.json`` as it is. A ``report`` folder is kept.

    Raises:
        CheckpointError: when it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            fresh = Path(temporary) / "new"
            fresh.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, fresh / "model.safetensors")
            config = {
                "format": _FORMAT,
                "model": _MODEL,
                "sizes": model.config.to_dict(),
                "contract_hash": contract.hash,
                "training": dict(training),
            }
            (fresh / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            (fresh / "contract.yaml").write_text(contract.to_yaml())
            (fresh / contract.urdf).write_text(contract.urdf_xml)
            (fresh / "statistics.json").write_text(normalisation.to_json() + "\n")
            if (path / "report").is_dir():
                shutil.copytree(path / "report", fresh / "report")
            if path.exists():
                os.replace(path, Path(temporary) / "old")
            os.replace(fresh, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: the checkpoint cannot be written ({error}); free some space. The last one is unharmed") from None


def load_checkpoint(path: str | Path, contract: Contract | None = None) -> Checkpoint:
    """Read a checkpoint, and refuse it when it was trained for another contract than ``contract``.

    Raises:
        CheckpointError: a file is missing or damaged, sizes do not fit, or the contracts differ.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint directory; train one with `make train`, or check the path")
    config = _read_config(path / "config.json")
    try:
        trained_for = load_contract(path / "contract.yaml")
    except ContractError as error:
        raise CheckpointError(f"{path}: its contract cannot be used: {error}") from None
    if contract is not None and contract.hash != trained_for.hash:
        difference = "; ".join(contract.difference(trained_for)[:8])
        cure = "retrain, or run the robot with the checkpoint's contract.yaml"
        raise CheckpointError(f"{path}: trained for another contract ({difference}); {cure}")
    try:
        normalisation = Normalisation.from_json((path / "statistics.json").read_text())
        model = Nano(NanoConfig(**config["sizes"]))
        weights = load_file(path / "model.safetensors")
        model.load_state_dict(weights)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: damaged or of another architecture ({reason}); copy or train it again") from None
    expected = {"state": len(state_names(trained_for)), "action": len(trained_for.action.names), "text": model.config.text_size}
    for part, size in expected.items():
        if len(getattr(normalisation, part).mean) != size:
            found = len(getattr(normalisation, part).mean)
            raise CheckpointError(f"{path}/statistics.json: {part} has {found} columns, the contract needs {size}")
    sizes = (model.config.cameras, model.config.horizon, model.config.action_size, model.config.state_size)
    wanted = (len(trained_for.cameras), trained_for.action.horizon, expected["action"], expected["state"])
    if sizes != wanted:
        raise CheckpointError(f"{path}: the model has (cameras, horizon, actions, state) {sizes}, its contract {wanted}; train it again")
    digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()[:8]
    return Checkpoint(model.eval(), contract or trained_for, normalisation, f"{path.name}@{digest}")


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); is this a checkpoint directory?") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); copy or train the checkpoint again") from None
    if config.get("format") != _FORMAT or config.get("model") != _MODEL:
        found = f"format {config.get('format')}, model {config.get('model')}"
        raise CheckpointError(f"{path}: {found}; this version reads format {_FORMAT}, model {_MODEL}")
    return config
