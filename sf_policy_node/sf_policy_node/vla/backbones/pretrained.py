"""Transformers models from a local directory, or with random weights; nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open


class BackboneError(ValueError):
    """The backbone cannot be used; the message names the directory or setting and the cure."""


def plain_config(config: Any) -> dict[str, Any]:
    """Return a transformers configuration as values that JSON can hold."""
    return json.loads(config.to_json_string(use_diff=False))


def transformers_config(values: dict[str, Any]) -> Any:
    """Build the transformers configuration from values of :func:`plain_config`.

    Raises:
        BackboneError: this version of transformers does not know the family, or a value does not
            fit it.
    """
    from transformers import CONFIG_MAPPING

    family = values.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        raise BackboneError(
            f"backbone: transformers does not know a model of type {family!r}; check config.json,"
            " or update transformers"
        )
    try:
        return CONFIG_MAPPING[family].from_dict(dict(values))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BackboneError(
            f"backbone: not a configuration of {family} ({' '.join(str(error).split())[:200]})"
        ) from None


def folder_config(folder: str | Path, family: str | None = None) -> Any:
    """Read the transformers configuration in a local directory.

    Raises:
        BackboneError: there is none, or it is not one of ``family``.
    """
    path, values = read_config(folder, "a transformers model")
    try:
        config = transformers_config(values)
    except BackboneError as error:
        raise BackboneError(f"{path}: {error}") from None
    if family not in (None, config.model_type):
        raise BackboneError(
            f"{path}: holds a {config.model_type} model, not {family}; give the directory of a"
            f" {family} model"
        )
    return config


def read_config(folder: str | Path, wanted: str) -> tuple[Path, dict[str, Any]]:
    """Return path and values of the ``config.json`` of a published model.

    Args:
        wanted: model that the directory should hold, for the message.

    Raises:
        BackboneError: there is none, it is not JSON, or it is of a checkpoint of this package.
    """
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text())
    except OSError:
        raise BackboneError(
            f"{folder}: no config.json; give the local directory of {wanted}"
        ) from None
    except ValueError as error:
        raise BackboneError(f"{path}: not valid JSON ({error}); copy it again") from None
    if "contract_hash" in values:
        raise BackboneError(
            f"{folder}: is a checkpoint of this package without its contract.yaml; copy all of its"
            " files"
        )
    return path, values


def build(auto_class: Any, config: Any, dtype: str, *, blank: bool) -> Any:
    """Build a model with random weights.

    ``blank`` leaves them uninitialised, for weights that are loaded next.
    """
    from transformers.initialization import no_init_weights

    make: Any = getattr(auto_class, "from_config", None) or auto_class._from_config
    with no_init_weights() if blank else nullcontext():
        return make(config, dtype=getattr(torch, dtype))


def load_pretrained(
    auto_class: Any, folder: str | Path, dtype: str, family: str | None = None
) -> Any:
    """Read a model in the layout of the Hugging Face hub, safetensors only.

    Args:
        family: expected ``model_type``; None accepts any.

    Raises:
        BackboneError: the directory, its configuration or weights are missing, or weights do not
            fit the architecture.
    """
    folder = Path(folder)
    # Checked first: transformers would build a full-size model of another family before it fails.
    folder_config(folder, family)
    if not any(folder.glob("*.safetensors")):
        raise BackboneError(
            f"{folder}: no *.safetensors; copy the weights there (pickled weights are never loaded)"
        )
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # no table of every missing key: the error below is one sentence
    try:
        model, info = auto_class.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # transformers, safetensors and json each raise their own
        raise BackboneError(
            f"{folder}: cannot be loaded ({' '.join(str(error).split())[:250]}); copy it again"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
    wrong = {"missing": info["missing_keys"], "of another size": info["mismatched_keys"]}
    found = [
        f"{len(names)} {what} (first {sorted(map(str, names))[0]})"
        for what, names in wrong.items()
        if names
    ]
    if found:
        raise BackboneError(
            f"{folder}: weights {' and '.join(found)}: it belongs to another architecture than its"
            " config.json says; copy both from one model"
        )
    return model


def image_statistics(folder: str | Path) -> dict[str, tuple[float, ...]]:
    """Return ``mean`` and ``std`` from ``preprocessor_config.json``; empty where there is none."""
    path = Path(folder) / "preprocessor_config.json"
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise BackboneError(f"{path}: not valid JSON ({error}); copy it again") from None
    wanted = {"mean": "image_mean", "std": "image_std"}
    return {name: tuple(values[key]) for name, key in wanted.items() if values.get(key)}


def open_safetensors(path: Path) -> dict[str, Callable[[], torch.Tensor]]:
    """Return a reader for each tensor of a file.

    Raises:
        BackboneError: the file is damaged.
    """
    try:
        file = safe_open(path, "pt")
        return {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise BackboneError(
            f"{path}: not a readable safetensors file ({error}); copy it again"
        ) from None


@torch.no_grad()
def copy_published(
    model: torch.nn.Module,
    folder: Path,
    mapped: Iterable[tuple[str, Callable[[], torch.Tensor], str]],
    *,
    published: Iterable[str],
    optional: Iterable[str] = (),
) -> None:
    """Copy published tensors into a model; a set that is not exactly the model's is refused.

    Args:
        folder: for messages.
        mapped: name in this package (empty for tensors that the model does not read), reader,
            published name.
        published: all published names.
        optional: names in this package that need not be published.

    Raises:
        BackboneError: weights are missing, left over or of another size; the message lists them.
    """
    own, remaining, wrong = model.state_dict(), set(published), []
    missing = set(own) - set(optional)
    for name, read, source in mapped:
        if name and name not in own:
            continue
        remaining.discard(source)
        if not name:
            continue
        missing.discard(name)
        value = read()
        if value.shape != own[name].shape:
            wrong.append(f"{source} {tuple(value.shape)}, needs {tuple(own[name].shape)}")
            continue
        own[name].copy_(value)
    lists = {"missing": sorted(missing), "left over": sorted(remaining), "of another size": wrong}
    found = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:5])}{', ...' if len(names) > 5 else ''})"
        for what, names in lists.items()
        if names
    ]
    if found:
        raise BackboneError(
            f"{folder}: weights {'; '.join(found)}: not the weights of this configuration, or"
            " damaged; copy both again"
        )
