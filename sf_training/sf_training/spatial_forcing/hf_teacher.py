"""DINOv2, Depth Anything and SigLIP from transformers as teachers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.vision import resize
from sf_training.spatial_forcing.weights import files_identity, files_of, find_weights, licence

_IMAGE_MEAN, _IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Kind of model -> its class in transformers, and the attribute of it that has embeddings, blocks
# and norm.
_KINDS = {
    "dinov2": ("Dinov2Model", ""),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", ""),
    "depth_anything": ("DepthAnythingForDepthEstimation", "backbone"),
    "siglip": ("SiglipVisionModel", ""),
    "siglip_vision_model": ("SiglipVisionModel", ""),
}


class HfTeacher:
    """A vision transformer of transformers; each view is seen alone.

    Args:
        source: directory of a model as ``save_pretrained`` leaves it, or a hub id.
        layers: blocks from 0, or from the end. The last one comes after the model's final norm, all
            others raw.
        size: longer side of the images that it sees [pixels], rounded to whole patches; 0 takes
            what it was trained with.
        device: where it runs.
        dtype: of its weights.

    Raises:
        TeacherError: there is no such model, it is of another kind, weights are missing, or there
            is no such layer.
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
        kind, whole = _load(str(source), dtype)
        self._network = (
            (whole.get_submodule(_KINDS[kind][1])).to(device).eval().requires_grad_(False)
        )
        vision = self._network.config
        blocks = vision.num_hidden_layers
        wrong = [layer for layer in layers if not -blocks <= layer < blocks]
        if wrong or not layers:
            raise TeacherError(
                f"{source}: layer {wrong[0] if wrong else 'none'}: this model has {blocks} layers,"
                f" {-blocks} to {blocks - 1}"
            )
        self._layers = tuple(layer % blocks for layer in layers)
        self._last = blocks - 1
        self._patch = vision.patch_size
        self._special = (
            0 if kind.startswith("siglip") else 1 + getattr(vision, "num_register_tokens", 0)
        )
        self._size = size or vision.image_size
        self.pixels = self._size**2
        self._interpolate = {"interpolate_pos_encoding": True} if kind.startswith("siglip") else {}
        self._mean, self._std = _normalisation(str(source), kind)
        self.feature_size = vision.hidden_size
        self.licence = licence(source, path.parent)
        count = sum(parameter.numel() for parameter in self._network.parameters()) / 1e6
        self.description = f"{kind}, {blocks} layers of width {vision.hidden_size}, {count:.0f} M"
        colours, config = (
            (self._mean, self._std),
            hashlib.sha256(whole.config.to_json_string().encode()).hexdigest(),
        )
        self.identity = (
            f"hf {files_identity(files_of(path))} {config} {colours} layers {self._layers} size"
            f" {self._size} {dtype}"
        )

    @torch.no_grad()
    def features(self, images: Tensor, present: Tensor | None = None) -> tuple[Tensor, ...]:
        """See :class:`~sf_training.spatial_forcing.vision.Teacher`."""
        parameter = next(self._network.parameters())
        images = resize(images.to(parameter.device), self._size, self._patch)
        mean, std = (
            torch.tensor(values, device=parameter.device).view(3, 1, 1)
            for values in (self._mean, self._std)
        )
        pixels = (images.flatten(0, 1) - mean) / std
        with torch.autocast(
            parameter.device.type, enabled=False
        ):  # inside a training step it runs as it does for a cache
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

    def _final(self, found) -> Tensor:
        """Output of the last block after the final norm; a backbone does not give it by itself."""
        return (
            found.last_hidden_state
            if hasattr(found, "last_hidden_state")
            else self._network.layernorm(found.hidden_states[-1])
        )


def _load(source: str, dtype: torch.dtype) -> tuple[str, nn.Module]:
    """Kind and model with all of its weights."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise TeacherError(f"{source}: no model of transformers ({_first_line(error)})") from None
    kind = config.model_type
    if kind not in _KINDS:
        raise TeacherError(
            f"{source}: a model of kind {kind}; teacher hf takes {', '.join(_KINDS)}"
        )
    level = transformers.logging.get_verbosity()
    # its table of missing weights: the error below says it in one sentence
    transformers.logging.set_verbosity_error()
    try:
        model, info = getattr(transformers, _KINDS[kind][0]).from_pretrained(
            source, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise TeacherError(f"{source}: weights cannot be read ({_first_line(error)})") from None
    finally:
        transformers.logging.set_verbosity(level)
    lacking = sorted(map(str, info["missing_keys"])) + sorted(map(str, info["mismatched_keys"]))
    if lacking:
        raise TeacherError(
            f"{source}: {len(lacking)} tensors are missing or of another size, {lacking[0]} among"
            " them; download it again"
        )
    return kind, model


def _normalisation(source: str, kind: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the colours that the model expects, from its preprocessor's file or
    what its kind is known for.
    """
    from transformers.utils import cached_file

    default = ((0.5,) * 3, (0.5,) * 3) if kind.startswith("siglip") else (_IMAGE_MEAN, _IMAGE_STD)
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
