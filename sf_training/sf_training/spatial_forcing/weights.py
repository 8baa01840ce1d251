"""Weights of teachers from a file, a directory or the Hugging Face hub, with their licence.

Tensors are read one at a time. Nothing is unpickled: safetensors are mapped, a ``.pt`` file is read
with ``weights_only=True``.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sf_training.spatial_forcing.teachers import TeacherError

_INDEX = "model.safetensors.index.json"
_NAMES = ("model.safetensors", _INDEX, "model.pt", "vggt_1B_commercial.pt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_TIMEOUT_S = 5.0
_WRAPPINGS = ("model", "state_dict")  # keys under which training programs save the tensors
_KNOWN_LICENCES = {
    "facebook/VGGT-1B": "CC BY-NC 4.0: not for commercial use",
    "facebook/VGGT-1B-Commercial": "VGGT License: commercial use allowed, military use excluded",
    "depth-anything/DA3-SMALL": "Apache-2.0",
    "depth-anything/DA3-BASE": "Apache-2.0",
    "depth-anything/DA3-LARGE": "CC BY-NC 4.0: not for commercial use",
}


@dataclass(frozen=True)
class Weights:
    """Tensors of one checkpoint by name; read one at a time.

    Attributes:
        source: path or hub id that the user gave.
        paths: files that hold the tensors.
        shapes: of every tensor.
        licence: one line for the user.
    """

    source: str
    paths: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]
    licence: str
    _read: Callable[[str], Tensor] = field(repr=False)

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor."""
        return self._read(name)

    @property
    def identity(self) -> str:
        """Key for caches; changes when other files are read."""
        return files_identity(self.paths)


def files_identity(paths: Iterable[Path]) -> str:
    """Return a key that changes when other files are named, or one of them is written."""
    return " ".join(
        f"{path.resolve()}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in paths
    )


def files_of(weights: Path) -> list[Path]:
    """Return the file of :func:`find_weights`.

    Where it is an index, the shards that it lists follow.
    """
    if not weights.name.endswith(".index.json"):
        return [weights]
    return [
        weights,
        *(
            weights.with_name(name)
            for name in sorted(set(json.loads(weights.read_text())["weight_map"].values()))
        ),
    ]


def open_weights(source: str | Path) -> Weights:
    """Find weights, and read their names and shapes.

    Args:
        source: a ``.safetensors`` or ``.pt`` file, a directory with one, or a hub id such as
            ``facebook/VGGT-1B``.

    Raises:
        TeacherError: there are none, they cannot be downloaded, or the file does not hold tensors.
    """
    path = find_weights(source)
    if path.name.endswith(".index.json"):
        return _open_shards(source, path)
    shapes, read = (_open_safetensors if path.suffix == ".safetensors" else _open_torch)(path)
    return Weights(str(source), (path,), shapes, licence(source, path.parent), read)


def find_weights(source: str | Path) -> Path:
    """Return the file of the weights, or the index of their shards; download it for a hub id.

    Raises:
        TeacherError: there is none; the message says how to get it.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        named = [path / name for name in _NAMES if (path / name).is_file()]
        found = named or sorted(path.glob("*.safetensors")) or sorted(path.glob("*.pt"))
        if not found or (not named and len(found) > 1):
            many = (
                f"{len(found)} files of weights: name one of them"
                if found
                else f"no {', '.join(_NAMES[:3])} in this directory; name the file"
            )
            raise TeacherError(f"{source}: {many}")
        return found[0]
    if path.is_absolute() or not _HUB_ID.fullmatch(str(source)):
        raise TeacherError(
            f"{source}: no such file or directory, and not a hub id such as facebook/VGGT-1B"
        )
    return _download(str(source), _NAMES)


def licence(source: str | Path, folder: Path) -> str:
    """Return the licence of weights in one line.

    From the model card or licence file beside them, else the known licence of the hub id.
    """
    card = folder / "README.md"
    if not card.is_file() and _HUB_ID.fullmatch(str(source)) and not Path(source).exists():
        with suppress(TeacherError):  # the weights can be used without the card
            card = _download(str(source), ("README.md",))
    if card.is_file():
        from huggingface_hub import ModelCard

        data = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
        named = [
            str(data[key]) for key in ("license", "license_name", "license_link") if data.get(key)
        ]
        if named:
            return ", ".join(named)
    for file in sorted(folder.glob("LICEN[SC]E*")):
        first = next(
            (
                line.strip()
                for line in file.read_text(errors="replace").splitlines()
                if line.strip()
            ),
            "",
        )
        return f"{first} ({file})"
    return _KNOWN_LICENCES.get(
        str(source),
        "not stated beside the weights; ask where they came from before you use or ship a result",
    )


def _open_shards(source: str | Path, index: Path) -> Weights:
    try:
        shard_of = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise TeacherError(
            f"{index}: not an index of safetensors ({error}); download it again"
        ) from None
    files, shapes, readers = {}, {}, {}
    for name in sorted(set(shard_of.values())):
        local = index.with_name(name)
        files[name] = (
            local if local.is_file() or Path(source).exists() else _download(str(source), (name,))
        )
        found, readers[name] = _open_safetensors(files[name])
        shapes.update(found)
    return Weights(
        str(source),
        tuple(files.values()),
        shapes,
        licence(source, index.parent),
        lambda name: readers[shard_of[name]](name),
    )


def _open_safetensors(path: Path) -> tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]:
    try:
        file = safe_open(path, "pt")
        names = file.keys()  # not a dictionary
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}, file.get_tensor
    except (SafetensorError, OSError) as error:
        raise TeacherError(
            f"{path}: not a readable safetensors file ({error}); download it again"
        ) from None


def _open_torch(path: Path) -> tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise TeacherError(
            f"{path}: holds pickled objects, which are not loaded; if you trust it, convert it"
            " to safetensors"
        ) from None
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise TeacherError(
            f"{path}: not a readable checkpoint ({str(error).splitlines()[0]}); download it again"
        ) from None
    for name in _WRAPPINGS:
        if isinstance(tensors, dict) and isinstance(tensors.get(name), dict):
            tensors = tensors[name]
    if not isinstance(tensors, dict):
        raise TeacherError(
            f"{path}: holds a {type(tensors).__name__} instead of tensors by name; take another"
        )
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}, tensors.__getitem__


def _answers(endpoint: str) -> bool:
    """Return whether a server answers within some seconds.

    The hub's client would retry for a minute.
    """
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=_HUB_TIMEOUT_S):
            return True
    except HTTPError:  # it answers, although with an error
        return True
    except OSError:
        return False


def _download(repository: str, names: Iterable[str]) -> Path:
    from huggingface_hub import constants, errors, hf_hub_download

    names = tuple(names)
    unreachable = False
    offline = constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT)
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=offline))
        except errors.GatedRepoError:
            address = f"https://huggingface.co/{repository}"
            raise TeacherError(
                f"{repository}: gated; accept its licence at {address}, then `hf auth login`"
            ) from None
        except errors.RepositoryNotFoundError:
            raise TeacherError(
                f"{repository}: neither a local path nor a repository of the hub; correct it"
            ) from None
        except errors.LocalEntryNotFoundError:
            unreachable = True  # another name may be in the local cache
        except errors.EntryNotFoundError:
            continue
        except (errors.HfHubHTTPError, OSError) as error:
            raise TeacherError(
                f"{repository}: the hub does not answer ({str(error).splitlines()[0]}); try again,"
                " or give a local path"
            ) from None
    if unreachable:
        raise TeacherError(
            f"{repository}: no such path, the hub cannot be reached and nothing is cached; download"
            " it elsewhere, and give its path"
        )
    raise TeacherError(f"{repository}: holds none of {', '.join(names)}; take another one")
