"""DINOv2, Depth Anything and SigLIP of transformers as teachers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.vision import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    layer_indices,
    resize,
)
from sf_training.spatial_forcing.weights import files_identity, files_of, find_weights, licence

# Model type -> class in transformers, and its attribute with embeddings, blocks and norm.
_MODEL_TYPES = {
    "dinov2": ("Dinov2Model", ""),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", ""),
    "depth_anything": ("DepthAnythingForDepthEstimation", "backbone"),
    "siglip": ("SiglipVisionModel", ""),
    "siglip_vision_model": ("SiglipVisionModel", ""),
}


class HfTeacher:
    """A vision transformer of transformers; it sees each view alone.

    Args:
        source: directory of a model in the layout of ``save_pretrained``, or a hub id.
        layers: blocks from 0, or from the end. The output of the last one is taken after the
            model's final norm, that of others before any norm.
        size: longer side of its input images [pixels], rounded to full patches; 0: as it was
            trained.
        device: where it runs.
        dtype: of its weights.

    Raises:
        TeacherError: there is no such model, its type is not supported, weights are missing, or
            there is no such layer.
    """

    def __init__(
        self,
        source: str | Path,
        layers: Sequence[int] = (-1,),
        size: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        path = find_weights(source)
        model_type, full_model = _load(str(source), dtype)
        self._network: Any = (
            (full_model.get_submodule(_MODEL_TYPES[model_type][1]))
            .to(device)
            .eval()
            .requires_grad_(False)
        )
        vision = self._network.config
        blocks = vision.num_hidden_layers
        self._layers = layer_indices(layers, blocks, str(source))
        self._last = blocks - 1
        self._patch = vision.patch_size
        self._special = (
            0 if model_type.startswith("siglip") else 1 + getattr(vision, "num_register_tokens", 0)
        )
        self._size = size or vision.image_size
        self.pixels = self._size**2
        self._interpolate = (
            {"interpolate_pos_encoding": True} if model_type.startswith("siglip") else {}
        )
        self._mean, self._std = _normalisation(str(source), model_type)
        self.feature_size = vision.hidden_size
        self.licence = licence(source, path.parent)
        count = sum(parameter.numel() for parameter in self._network.parameters()) / 1e6
        self.description = (
            f"{model_type}, {blocks} layers of width {vision.hidden_size}, {count:.0f} M"
        )
        colours, config = (
            (self._mean, self._std),
            hashlib.sha256(full_model.config.to_json_string().encode()).hexdigest(),
        )
        self.identity = (
            f"hf {files_identity(files_of(path))} {config} {colours} layers {self._layers} size"
            f" {self._size} {dtype}"
        )

    @torch.no_grad()
    def features(self, images: Tensor, present: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return features; see :class:`~sf_training.spatial_forcing.vision.Teacher`."""
        parameter = next(self._network.parameters())
        images = resize(images.to(parameter.device), self._size, self._patch)
        mean, std = (
            torch.tensor(values, device=parameter.device).view(3, 1, 1)
            for values in (self._mean, self._std)
        )
        pixels = (images.flatten(0, 1) - mean) / std
        # No autocast: a live teacher in a training step gives the same features as a cached one.
        with torch.autocast(parameter.device.type, enabled=False):
            found = self._network(
                pixel_values=pixels.to(parameter.dtype),
                output_hidden_states=True,
                **self._interpolate,
            )
        grid = (images.shape[-2] // self._patch, images.shape[-1] // self._patch)
        result = []
        for layer in self._layers:
            tokens = self._final(found) if layer == self._last else found.hidden_states[layer + 1]
            patches = (
                tokens[:, self._special :].float().unflatten(1, grid).unflatten(0, images.shape[:2])
            )
            result.append(
                patches if present is None else patches * present.to(patches)[..., None, None, None]
            )
        return tuple(result)

    def _final(self, found: Any) -> Tensor:
        """Return the last block's output after the final norm.

        A backbone does not apply that norm itself.
        """
        return (
            found.last_hidden_state
            if hasattr(found, "last_hidden_state")
            else self._network.layernorm(found.hidden_states[-1])
        )


def _load(source: str, dtype: torch.dtype) -> tuple[str, Any]:
    """Return the model type, and the model with all of its weights."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"{source}: no model of transformers ({_first_line(error)}); give a directory of"
            " save_pretrained, or a hub id"
        ) from None
    model_type = config.model_type
    if model_type not in _MODEL_TYPES:
        raise TeacherError(
            f"{source}: a model of type {model_type}; teacher hf takes {', '.join(_MODEL_TYPES)}"
        )
    level = transformers.logging.get_verbosity()
    # No table of missing weights: the error below is one sentence.
    transformers.logging.set_verbosity_error()
    try:
        model, info = getattr(transformers, _MODEL_TYPES[model_type][0]).from_pretrained(
            source, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise TeacherError(
            f"{source}: weights cannot be read ({_first_line(error)}); download them again"
        ) from None
    finally:
        transformers.logging.set_verbosity(level)
    lacking = sorted(map(str, info["missing_keys"])) + sorted(map(str, info["mismatched_keys"]))
    if lacking:
        raise TeacherError(
            f"{source}: {len(lacking)} tensors are missing or of another size, {lacking[0]} among"
            " them; download it again"
        )
    return model_type, model


def _normalisation(source: str, model_type: str) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of the colours that the model expects.

    From its preprocessor's file, or the usual values of its type.
    """
    from transformers.utils import cached_file

    default = (
        ((0.5,) * 3, (0.5,) * 3)
        if model_type.startswith("siglip")
        else (IMAGENET_MEAN, IMAGENET_STD)
    )
    file = cached_file(
        source,
        "preprocessor_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    values = json.loads(Path(file).read_text()) if file else {}
    return values.get("image_mean", default[0]), values.get("image_std", default[1])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
