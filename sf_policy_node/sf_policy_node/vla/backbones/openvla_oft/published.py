"""Published weights of OpenVLA and OpenVLA-OFT from a local directory.

Every key is mapped or reported.

A directory may hold (from ``moojink/openvla-oft``, and from Spatial Forcing, which uses the same
names):

* ``config.json`` and ``*.safetensors``: openvla-7b, or OFT's merged weights
* ``lora_adapter/``: adapters that are not merged yet
* ``action_head--*_checkpoint.pt``, ``proprio_projector--*_checkpoint.pt``,
  ``vision_backbone--*_checkpoint.pt`` (FiLM)
* ``dataset_statistics.json``

``align_projector--*_checkpoint.pt`` is used in training only and is not read. Pickles are read with
``weights_only=True``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sf_policy_node.vla.backbones.pretrained import BackboneError, open_safetensors

_UNREAD = re.compile(
    # Features are those of the last block but one, and words are never predicted.
    r"language_model\.lm_head\.weight|.*rotary_emb\.inv_freq"
    r"|vision_backbone\.(featurizer|fused_featurizer)\.(norm|attn_pool|fc_norm)\..*"
)
_TOWERS = {"featurizer": "dino", "fused_featurizer": "siglip"}
_BLOCK = re.compile(r"vision_backbone\.(\w+)\.blocks\.(\d+)\.(?:block\.)?(.+)")
_ADAPTER = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_PARTS = {"action_head": "head.", "proprio_projector": "proprio.", "vision_backbone": ""}

_DINO_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.o_proj",
    "ls1": "layer_scale1",
    "ls2": "layer_scale2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_SIGLIP_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_ATTENTION = {"dino": "attention", "siglip": "self_attn"}
_EMBEDDINGS = {
    "patch_embed.proj.weight": "patches.weight",
    "patch_embed.proj.bias": "patches.bias",
    "pos_embed": "position",
    "cls_token": "class_token",
    "reg_token": "registers",
}


class PublishedWeights:
    """All tensors of a directory under the names of ``moojink/openvla-oft``; read one at a time.

    Attributes:
        head, proprio, film: whether the directory holds an action head, a state projector, and a
            vision backbone with FiLM.

    Raises:
        BackboneError: a file is missing or damaged, or there are several files of one component.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._readers: dict[str, Callable[[], Tensor]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            self._add(open_safetensors(path), "")
        if not self._readers:
            raise BackboneError(
                f"{folder}: no *.safetensors; copy the weights there (of openvla-7b, or merged)"
            )
        self.head = self._add_part("action_head")
        self.proprio = self._add_part("proprio_projector")
        self.film = self._add_part("vision_backbone")
        self._merge(_adapters(self.folder / "lora_adapter"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    @property
    def statistics(self) -> dict[str, Any]:
        """Content of ``dataset_statistics.json``; empty where there is none."""
        path = self.folder / "dataset_statistics.json"
        if not path.is_file():
            return {}
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise BackboneError(f"{path}: not valid JSON ({error}); copy it again") from None

    def _add(self, readers: Mapping[str, Callable[[], Tensor]], prefix: str) -> None:
        self._readers.update({prefix + name: reader for name, reader in readers.items()})

    def _add_part(self, part: str) -> bool:
        found = sorted(self.folder.glob(f"{part}--*checkpoint.pt"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise BackboneError(
                f"{self.folder}: {len(found)} files of {part} ({names}); keep the one that belongs"
                " to the weights"
            )
        if not found:
            return False
        tensors = {
            name.removeprefix("module."): value for name, value in _torch_file(found[0]).items()
        }
        if part == "vision_backbone":
            # The complete backbone, trained beside the adapters, replaces the one read before.
            self._readers = {
                name: reader
                for name, reader in self._readers.items()
                if not name.startswith("vision_backbone.")
            }
            tensors = {
                f"vision_backbone.{name.removeprefix('vision_backbone.')}": value
                for name, value in tensors.items()
            }
            tensors = dict(_merged_inside(tensors))
        self._add({name: partial(_itself, value) for name, value in tensors.items()}, _PARTS[part])
        return True

    def _merge(self, adapters: tuple[Mapping[str, dict[str, Tensor]], float]) -> None:
        factors, scale = adapters
        for module, factor in factors.items():
            name = f"{module}.weight"
            if name not in self._readers or set(factor) != {"A", "B"}:
                raise BackboneError(
                    f"{self.folder}/lora_adapter: an adapter of {module}, which the weights do not"
                    " hold"
                )
            self._readers[name] = partial(_with_adapter, self._readers[name], factor, scale)


def mapped(
    published: PublishedWeights, blocks: Mapping[str, int]
) -> Iterator[tuple[str, Callable[[], Tensor], str]]:
    """Yield for every tensor its name in this package, its reader, and its published name.

    A tensor that the model does not read (last block of each tower, language-model head) has an
    empty name. An unknown tensor is not yielded.

    Args:
        blocks: number of blocks that ``dino`` and ``siglip`` keep.
    """
    for name in published:
        if _UNREAD.fullmatch(name):
            yield "", lambda: torch.empty(0), name
        elif match := _BLOCK.fullmatch(name):
            tower, number, rest = _TOWERS.get(match[1]), int(match[2]), match[3]
            if tower and number >= blocks[tower]:
                yield "", lambda: torch.empty(0), name
            elif tower:
                yield from _block(published, name, tower, number, rest)
        elif ours := _other(name):
            yield ours, partial(published.__getitem__, name), name


def _block(
    published: PublishedWeights, name: str, tower: str, number: int, rest: str
) -> Iterator[tuple[str, Callable, str]]:
    part, _, parameter = rest.rpartition(".")
    prefix = f"backbone.{tower}.blocks.{number}."
    if part == "attn.qkv":
        for index, target in enumerate("qkv"):
            yield (
                f"{prefix}{_ATTENTION[tower]}.{target}_proj.{parameter}",
                (lambda index=index: published[name].chunk(3)[index]),
                name,
            )
    elif part in ("scale", "shift"):  # FiLM
        yield f"backbone.{tower}.film.{number}.{part}.{parameter}", lambda: published[name], name
    elif part in ("ls1", "ls2") and tower == "dino" and parameter in ("scale_factor", "gamma"):
        yield f"{prefix}{_DINO_BLOCK[part]}.lambda1", lambda: published[name], name
    elif part in (names := _DINO_BLOCK if tower == "dino" else _SIGLIP_BLOCK):
        yield f"{prefix}{names[part]}.{parameter}", lambda: published[name], name


def _other(name: str) -> str:
    """Return the name here of a tensor outside the towers' blocks; empty where there is none."""
    if match := re.fullmatch(r"vision_backbone\.(\w+)\.(.+)", name):
        tower, own = _TOWERS.get(match[1]), _EMBEDDINGS.get(match[2])
        return f"backbone.{tower}.{own}" if tower and own else ""
    if name.startswith("projector.fc"):
        return f"backbone.{name}"
    if name.startswith("language_model.model."):
        return f"backbone.language_model.{name.removeprefix('language_model.model.')}"
    if name.startswith("head.model."):
        return f"head.{name.removeprefix('head.model.').replace('mlp_resnet_blocks', 'blocks')}"
    return name if re.fullmatch(r"proprio\.fc[12]\.(weight|bias)", name) else ""


def _itself(value: Tensor) -> Tensor:
    return value


def _with_adapter(read: Callable[[], Tensor], factor: dict[str, Tensor], scale: float) -> Tensor:
    return _merged(read(), factor["A"], factor["B"], scale)


def _merged(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    return (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)


def _merged_inside(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file with peft's adapters merged into the weights.

    OFT saves a FiLM backbone with adapters of rank 32 and alpha 16.
    """
    for name, value in tensors.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        stem = name.removesuffix(".base_layer.weight")
        if stem != name and f"{stem}.lora_A.default.weight" in tensors:
            down, up = (tensors[f"{stem}.lora_{side}.default.weight"] for side in "AB")
            value = _merged(value, down, up, min(len(down), 16) / len(down))
        yield plain, value


def _adapters(folder: Path) -> tuple[dict[str, dict[str, Tensor]], float]:
    if not folder.is_dir():
        return {}, 1.0
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        scale = float(config["lora_alpha"]) / float(config["r"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise BackboneError(
            f"{folder}/adapter_config.json: cannot be read ({error}); copy it again"
        ) from None
    found: dict[str, dict[str, Tensor]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, reader in open_safetensors(path).items():
            match = _ADAPTER.fullmatch(name)
            if match is None:
                raise BackboneError(f"{path}: {name} is not a factor of an adapter; copy it again")
            found.setdefault(match[1], {})[match[2]] = reader()
    if not found:
        raise BackboneError(
            f"{folder}: no *.safetensors with adapters; copy them there, or take the merged weights"
        )
    return found, scale


def _torch_file(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each raise their own
        raise BackboneError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:150]}); copy it again"
        ) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(value, Tensor) for value in tensors.values()
    ):
        raise BackboneError(f"{path}: does not hold tensors by name; copy it again")
    return tensors
