"""VGGT as a teacher: official weights in this package's aggregator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.vggt import VggtAggregator, VggtConfig
from sf_training.spatial_forcing.vision import features_by_cameras, resize
from sf_training.spatial_forcing.weights import Weights

_PREFIXES = ("aggregator.", "module.aggregator.", "")
_UNUSED = {"patch_embed.mask_token"}
SIDE = 518  # longer side of VGGT's training images [pixels]


class VggtTeacher:
    """VGGT's aggregator; a feature is the output of the frame block and that of the global block.

    Weights are checked at once and read when the first images come: a run with cached features
    never needs them.

    Args:
        weights: see :func:`sf_training.spatial_forcing.weights.open_weights`.
        layers: 0 to 23, or from the end; -1 is the paper's.
        size: longer side of its input images [pixels]; sides are rounded to full patches.
        device: where it runs.
        dtype: of its matrices. With bfloat16 all other weights stay float32, as under autocast.

    Raises:
        TeacherError: the weights are not those of a VGGT aggregator, or have no such layer.
    """

    def __init__(
        self,
        weights: Weights,
        layers: Sequence[int] = (-1,),
        size: int = SIDE,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        plan, prefix = _plan(weights, layers)
        self._load = lambda: _fill(plan, weights, prefix, dtype).to(device)
        self._network: VggtAggregator | None = None
        self._patch = plan.config.patch
        self.feature_size = plan.feature_size
        self.licence = weights.licence
        self._size, self._dtype, self._device = size, dtype, torch.device(device)
        self.pixels = self._size**2
        count = sum(parameter.numel() for parameter in plan.parameters()) / 1e6
        self.description = (
            f"VGGT, {plan.config.pairs} layers of width {plan.config.width}, {count:.0f} M"
        )
        self.identity = f"vggt {weights.identity} layers {plan.layers} size {size} {dtype}"

    @property
    def network(self) -> VggtAggregator:
        """The aggregator with its weights."""
        if self._network is None:
            self._network = self._load()
        return self._network

    def features(self, images: Tensor, present: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return features; see :class:`~sf_training.spatial_forcing.vision.Teacher`."""
        images = resize(images.to(self._device, torch.float32), self._size, self._patch)
        return features_by_cameras(self._run, images, present)

    @torch.no_grad()
    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            found = self.network(images)
        return tuple(layer.float() for layer in found)


def load_aggregator(
    weights: Weights, layers: Sequence[int] = (-1,), dtype: torch.dtype = torch.float32
) -> VggtAggregator:
    """Return the aggregator with a checkpoint's weights, frozen; deeper blocks are not read.

    Raises:
        TeacherError: tensors are missing, left over or of another size, or there is no such layer.
    """
    plan, prefix = _plan(weights, layers)
    return _fill(plan, weights, prefix, dtype)


def _plan(weights: Weights, layers: Sequence[int]) -> tuple[VggtAggregator, str]:
    """Return the aggregator without memory for its weights, and the prefix of their names.

    The names and shapes of the weights are checked.
    """
    prefix = next(
        (prefix for prefix in _PREFIXES if prefix + "camera_token" in weights.shapes), None
    )
    if prefix is None:
        some = ", ".join(sorted(weights.shapes)[:3]) or "none"
        raise TeacherError(
            f"{weights.source}: not a VGGT checkpoint: no aggregator.camera_token among its"
            f" {len(weights.shapes)} tensors ({some} ...); give weights of VGGT"
        )
    shapes = {
        name[len(prefix) :]: shape
        for name, shape in weights.shapes.items()
        if name.startswith(prefix)
    }
    try:
        config = VggtConfig.from_shapes(shapes)
        with torch.device("meta"):
            network = VggtAggregator(config, layers)
            is_complete = len(network.frame_blocks) == config.pairs
            full = network if is_complete else VggtAggregator(config)
    except KeyError as missing:
        raise TeacherError(
            f"{weights.source}: tensor {prefix}{missing.args[0]} is missing; download the weights"
            " again"
        ) from None
    except ValueError as error:
        raise TeacherError(f"{weights.source}: {error}") from None
    _check(
        weights.source,
        prefix,
        shapes,
        {name: tuple(value.shape) for name, value in full.state_dict().items()},
        prefix != "",
    )
    return network, prefix


def _fill(
    network: VggtAggregator, weights: Weights, prefix: str, dtype: torch.dtype
) -> VggtAggregator:
    network.load_state_dict(
        {name: weights[prefix + name] for name in network.state_dict()}, assign=True
    )
    for module in network.modules():
        # Norms and scales stay float32, as under autocast; they are small.
        module_dtype = dtype if isinstance(module, nn.Linear | nn.Conv2d) else torch.float32
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(module_dtype)
    return network.eval().requires_grad_(False)


def _check(source: str, prefix: str, shapes: dict, wanted: dict, strict: bool) -> None:
    missing = sorted(set(wanted) - set(shapes))
    if missing:
        raise TeacherError(
            f"{source}: {len(missing)} tensors of the aggregator are missing, {prefix}{missing[0]}"
            " among them; download it again"
        )
    surplus = sorted(set(shapes) - set(wanted) - _UNUSED)
    if surplus and strict:
        raise TeacherError(
            f"{source}: another architecture than VGGT: {len(surplus)} unknown tensors,"
            f" {prefix}{surplus[0]} among them; give weights of VGGT"
        )
    for name, shape in wanted.items():
        if tuple(shapes[name]) != shape:
            raise TeacherError(
                f"{source}: tensor {prefix}{name} is {_by(shapes[name])}, the other tensors need"
                f" {_by(shape)}; give weights of VGGT"
            )


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
