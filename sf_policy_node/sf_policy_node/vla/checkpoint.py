"""A checkpoint directory: weights, configuration, contract, URDF and statistics.

No pickle is ever loaded. Files: ``model.safetensors``, ``config.json``, ``contract.yaml``, the URDF
it names, ``statistics.json``, ``report/``, and the tokenizer's files where the model has one.
``config.json`` names the model kind: ``nano``, ``hf``, ``pi0``, ``pi05`` or ``openvla_oft``.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.vla.backbones.visual_layout import VisualLayout
from sf_policy_node.vla.nano import Nano, NanoConfig
from sf_policy_node.vla.normalisation import Normalisation

_FORMAT = 1
_KINDS = ("nano", "hf", "pi0", "pi05", "openvla_oft")
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message names the file and the cure."""


class Model(Protocol):
    """Interface of every model kind, besides that of ``nn.Module``."""

    kind: str
    # cameras, state_size, action_size, horizon, image_size, fit, head, text_size, to_dict()
    config: Any
    words: Any  # tokenizer; None where the model reads sentence embeddings
    head: Any  # maps a context to a chunk

    def context(self, images: torch.Tensor, state: torch.Tensor, text: torch.Tensor) -> Any: ...

    def visual_layout(self) -> VisualLayout: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def to(self, device: Any) -> Any: ...


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        contract: the robot's where one was given, so limits are those of the robot and not those at
            training time; else the one in the checkpoint.
        identity: name of the directory and the first digits of the weights' SHA-256.
    """

    model: Model
    contract: Contract
    normalisation: Normalisation
    identity: str


def save_checkpoint(
    path: Path,
    model: Model,
    contract: Contract,
    normalisation: Normalisation,
    training: Mapping[str, object],
) -> None:
    """Write a checkpoint beside ``path`` and move it into place.

    A full disk leaves the previous checkpoint intact.

    Args:
        training: settings, seeds and command; written to ``config.json`` as they are. A ``report``
            directory in ``path`` is kept.

    Raises:
        CheckpointError: the checkpoint cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            fresh = Path(temporary) / "new"
            fresh.mkdir()
            save_file(
                {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
                fresh / "model.safetensors",
            )
            config = {
                "format": _FORMAT,
                "model": model.kind,
                "sizes": model.config.to_dict(),
                "contract_hash": contract.hash,
                "training": dict(training),
            }
            (fresh / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            (fresh / "contract.yaml").write_text(contract.to_yaml())
            (fresh / contract.urdf).write_text(contract.urdf_xml)
            (fresh / "statistics.json").write_text(normalisation.to_json() + "\n")
            if model.words is not None:
                model.words.save(fresh)
            if (path / "report").is_dir():
                shutil.copytree(path / "report", fresh / "report")
            _put_in_place(fresh, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint cannot be written ({error}); free disk space. The previous"
            " checkpoint is intact"
        ) from None


def _put_in_place(fresh: Path, path: Path) -> None:
    """Exchange two directories atomically where the system can.

    After a kill, and for a robot that loads meanwhile, there is always a checkpoint at ``path``.
    """
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if (
        path.exists()
        and exchange
        and exchange(_HERE, os.fsencode(fresh), _HERE, os.fsencode(path), _EXCHANGE) == 0
    ):
        return
    old = fresh.with_name("old")
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(fresh, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise


def load_checkpoint(path: str | Path, contract: Contract | None = None) -> Checkpoint:
    """Read a checkpoint; one that was trained for another contract than ``contract`` is refused.

    Raises:
        CheckpointError: a file is missing or damaged, sizes do not fit, or the contracts differ.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such checkpoint directory; train one with `make train`, or check the path"
        )
    _read_config(path / "config.json")
    try:
        trained_for = load_contract(path / "contract.yaml", stored=True)
    except ContractError as error:
        raise CheckpointError(f"{path}: its contract cannot be used: {error}") from None
    if contract is not None and not contract.fits(trained_for):
        difference = "; ".join(contract.difference(trained_for)[:8])
        cure = "retrain, or run the robot with the checkpoint's contract.yaml"
        raise CheckpointError(f"{path}: trained for another contract ({difference}); {cure}")
    try:
        normalisation = Normalisation.from_json((path / "statistics.json").read_text())
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None
    model = read_model(path)
    expected = {
        "state": len(state_names(trained_for)),
        "action": len(trained_for.action.names),
        "text": model.config.text_size,
    }
    for part, size in expected.items():
        if len(getattr(normalisation, part).mean) != size:
            found = len(getattr(normalisation, part).mean)
            raise CheckpointError(
                f"{path}/statistics.json: {part} has {found} columns, the contract needs {size}"
            )
    sizes = (
        model.config.cameras,
        model.config.horizon,
        model.config.action_size,
        model.config.state_size,
    )
    wanted = (
        len(trained_for.cameras),
        trained_for.action.horizon,
        expected["action"],
        expected["state"],
    )
    if sizes != wanted:
        raise CheckpointError(
            f"{path}: the model has (cameras, horizon, actions, state) {sizes}, its contract"
            f" {wanted}; train it again"
        )
    with (path / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
    return Checkpoint(model.eval(), contract or trained_for, normalisation, f"{path.name}@{digest}")


def read_model(path: str | Path, *, with_weights: bool = True) -> Any:
    """Read the model of a checkpoint.

    Args:
        with_weights: False leaves the weights as they are built, to count them.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights are of another architecture.
    """
    path = Path(path)
    config = _read_config(path / "config.json")
    try:
        model = _build(config["model"], config["sizes"], path)
        if with_weights:
            _load_weights(model, path / "model.safetensors")
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise _damaged(path, error) from None
    return model


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:300]
    return CheckpointError(
        f"{path}: damaged or of another architecture ({reason}); copy or train it again"
    )


def _build(kind: str, sizes: dict[str, Any], path: Path) -> Any:
    """Build a model without its weights.

    Backbones of transformers are imported where they are needed: their import takes seconds.
    """
    if kind == "hf":
        from sf_policy_node.vla.backbones.hf import load_hf

        return load_hf(sizes, path)
    if kind in ("pi0", "pi05"):
        from sf_policy_node.vla.backbones.pi0 import load_pi0

        return load_pi0(sizes, path, kind)
    if kind == "openvla_oft":
        from sf_policy_node.vla.backbones.openvla_oft.model import load_openvla_oft

        return load_openvla_oft(sizes, path)
    return Nano(NanoConfig(**sizes))


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load weights into a model.

    Raises:
        OSError: the file is missing.
        RuntimeError: the weights are of another architecture; shorter than torch's list of all
            keys.
    """
    if not path.is_file():
        raise OSError(f"{path.name} is missing")
    weights, wanted = load_file(path), model.state_dict()
    missing, unknown = (
        sorted(wanted.keys() - weights.keys()),
        sorted(weights.keys() - wanted.keys()),
    )
    sizes = [
        name for name in wanted.keys() & weights.keys() if wanted[name].shape != weights[name].shape
    ]
    found = [
        f"{len(names)} weights {what}, first {names[0]}"
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    if sizes:
        first = min(sizes)
        there, here = tuple(weights[first].shape), tuple(wanted[first].shape)
        found += [
            f"{len(sizes)} with a size mismatch, first {first}: {there}, by config.json {here}"
        ]
    if found:
        raise RuntimeError("; ".join(found))
    model.load_state_dict(weights)


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); give the directory of a checkpoint"
        ) from None
    except ValueError as error:
        raise CheckpointError(
            f"{path}: not valid JSON ({error}); copy or train the checkpoint again"
        ) from None
    if config.get("format") != _FORMAT or config.get("model") not in _KINDS:
        found = f"format {config.get('format')}, model {config.get('model')}"
        raise CheckpointError(
            f"{path}: {found}; this version reads format {_FORMAT}, model {', '.join(_KINDS[:-1])}"
            f" or {_KINDS[-1]}"
        )
    return config
