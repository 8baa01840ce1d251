"""The alignment loss of Spatial Forcing (arXiv 2510.12276), used in training only.

Intermediate visual tokens of the student are aligned with features of a frozen 3D teacher. The
policy that runs on the robot has neither projector nor teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["layer", "batch", "none"]
_DEFAULT_LAYER = 2


class AlignmentError(ValueError):
    """Alignment settings do not fit together; the message names the setting."""


@dataclass(frozen=True)
class AlignmentConfig:
    """Settings of the alignment loss.

    A setting that is None takes the value of the preset, or without a preset the default that its
    description names. :meth:`complete` puts the defaults in.

    Raises:
        AlignmentError: settings that are given do not fit together.
    """

    layer: int | None = None
    """Block after which the student's visual tokens are read; 0 reads the embeddings. Default 2."""
    layers: tuple[int, ...] | None = None
    """Several such blocks, instead of ``layer``. Each has its teacher layer, or all share one."""
    teacher_layers: tuple[int, ...] | None = None
    """Layers of the teacher, counted from 0 or from the end; one for each student layer, or one for
    all. Default -1, the last.
    """
    combine: Literal["each", "gate"] | None = None
    """each (default): align every student layer, through one shared projector. gate: align a
    learned mixture of the student layers.
    """
    coefficient: float = 0.5
    """Weight alpha of the alignment loss beside the action loss."""
    norm: Norm = "layer"
    """Normalisation of the student's tokens before the projector. The paper states batch, its code
    uses layer.
    """
    projector_width: int = 0
    """Hidden width of the projector; 0 takes the width of the teacher's features."""
    position_scale: float = 0.1
    """Factor of the positional embedding added to the teacher's features; 0 adds none."""
    position: Literal["before", "after"] = "before"
    """Whether the embedding is added before the features are resized to the student's grid, as in
    the paper's code, or after.
    """
    resize: Literal["bilinear", "area"] = "bilinear"
    """bilinear samples with aligned corners, as the paper's code does; area averages."""
    token_shift: Literal[0, 1] | None = None
    """0 (default) pairs patch i with its own token; 1 pairs it with the token after, as the paper's
    OpenVLA code does by default.
    """
    mask: bool | None = None
    """Leave missing cameras and letterbox bars out of the loss. Default True."""

    def __post_init__(self) -> None:
        layers = self.layers or (() if self.layer is None else (self.layer,))
        if min(layers, default=0) < 0:
            raise AlignmentError(f"layers: must not be negative, got {min(layers)}")
        count = len(self.target_layers)
        if layers and count not in (1, len(layers)):
            raise AlignmentError(
                f"teacher_layers: {count} for {len(layers)} student layers; give {len(layers)},"
                " or one for all"
            )
        if self.combine == "gate" and count != 1:
            raise AlignmentError(
                "teacher_layers: a gated mixture of student layers is aligned with one teacher"
                " layer, give one"
            )

    @property
    def student_layers(self) -> tuple[int, ...]:
        """All layers of the student that are aligned."""
        return self.layers or (_DEFAULT_LAYER if self.layer is None else self.layer,)

    @property
    def target_layers(self) -> tuple[int, ...]:
        """All layers of the teacher that are aligned with."""
        return self.teacher_layers or (-1,)

    @property
    def is_masked(self) -> bool:
        """Whether missing cameras and letterbox bars are left out of the loss."""
        return self.mask is not False

    @property
    def given(self) -> dict[str, Any]:
        """Settings that differ from the default, by name."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) != each.default
        }

    def complete(self) -> AlignmentConfig:
        """Return the same settings with the default in place of every None.

        Raises:
            AlignmentError: the settings do not fit together.
        """
        return replace(
            self,
            layer=_DEFAULT_LAYER if self.layer is None else self.layer,
            layers=self.layers or (),
            teacher_layers=self.target_layers,
            combine=self.combine or "each",
            token_shift=self.token_shift or 0,
            mask=self.is_masked,
        )


class Projector(nn.Module):
    """Maps the student's width to the teacher's: norm, linear, GELU, linear.

    Weights are Xavier-uniform, biases zero.
    """

    def __init__(self, student: int, teacher: int, norm: Norm = "layer", hidden: int = 0) -> None:
        super().__init__()
        self.norm = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d, "none": nn.Identity}[norm](
            student
        )
        self.hidden = nn.Linear(student, hidden or teacher)
        self.out = nn.Linear(hidden or teacher, teacher)
        for linear in (self.hidden, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Project tokens (B, N, student) to (B, N, teacher).

        Args:
            mask: (B, N), False for tokens that batch norm leaves out of its statistics.
        """
        # A backbone may be bfloat16, the projector is float32.
        flat = tokens.flatten(0, 1).to(self.hidden.weight.dtype)
        if mask is None or not isinstance(self.norm, nn.BatchNorm1d) or mask.sum() < 2:
            flat = self.norm(flat)
        else:
            flat = torch.zeros_like(flat).masked_scatter(
                mask.flatten()[:, None], self.norm(flat[mask.flatten()])
            )
        return self.out(functional.gelu(self.hidden(flat))).unflatten(0, tokens.shape[:2])


class Alignment(nn.Module):
    """The trained part of Spatial Forcing: one projector for all layers, and a gate.

    Args:
        config: settings; the caller applies ``coefficient``.
        student: width of the student's tokens.
        teacher: channels of the teacher's features.
    """

    def __init__(self, config: AlignmentConfig, student: int, teacher: int) -> None:
        super().__init__()
        self.config = config
        self.projector = Projector(student, teacher, config.norm, config.projector_width)
        self.gate = (
            nn.Parameter(torch.zeros(len(config.student_layers)))
            if config.combine == "gate"
            else None
        )

    def forward(
        self, tokens: Mapping[int, Tensor], targets: Sequence[Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """Return the mean of the layers' losses, or the loss of their gated mixture.

        Args:
            tokens: visual tokens (B, N, student) of each layer in ``config.student_layers``.
            targets: prepared features (B, N, teacher) for each of ``config.target_layers``.
            mask: (B, N), True for tokens that count; see :func:`token_mask`. Ignored when
                ``config.is_masked`` is False.
        """
        layers = [tokens[layer] for layer in self.config.student_layers]
        mask = mask if self.config.is_masked else None
        if mask is not None:
            # A token that does not count may be NaN, which would reach the projector's gradient.
            layers = [
                layer.masked_fill(~(mask[..., None] | layer.isfinite()), 0.0) for layer in layers
            ]
        if self.gate is not None:
            return alignment_loss(self.projector(self._mixture(layers), mask), targets[0], mask)
        paired = list(targets) * (len(layers) if len(targets) == 1 else 1)
        losses = [
            alignment_loss(self.projector(layer, mask), target, mask)
            for layer, target in zip(layers, paired, strict=True)
        ]
        return torch.stack(losses).mean() if len(losses) > 1 else losses[0]

    @property
    def shares(self) -> dict[int, float]:
        """Share of each student layer in the gated mixture; equal shares without a gate."""
        layers = self.config.student_layers
        shares = (
            [1 / len(layers)] * len(layers)
            if self.gate is None
            else self.gate.detach().softmax(0).tolist()
        )
        return dict(zip(layers, shares, strict=True))

    def _mixture(self, layers: list[Tensor]) -> Tensor:
        # The residual stream grows with depth: without a norm of its own, the deepest layer would
        # dominate the mixture.
        normed = torch.stack([functional.layer_norm(layer, layer.shape[-1:]) for layer in layers])
        assert self.gate is not None  # the only caller has a gate
        return (self.gate.softmax(0).to(normed)[:, None, None, None] * normed).sum(0)


def alignment_loss(student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return L_align, the mean over samples of the mean over tokens of 1 - cosine.

    ``L_align = mean_b (1 / N_b) sum_i [1 - cos(s_bi, t_bi)]`` with student tokens s, targets t, and
    N_b tokens that count in sample b. arXiv 2510.12276 writes -cos: the same gradients, another
    constant.

    Args:
        student: projected tokens s (B, N, C).
        target: teacher features t (B, N, C); no gradient flows into them.
        mask: (B, N), True for tokens that count. A sample without any counts as zero.
    """
    target = target.detach().float()
    if mask is None:
        return (1.0 - functional.cosine_similarity(student.float(), target, dim=-1)).mean()
    student, target = (
        values.masked_fill(~mask[..., None], 0.0) for values in (student.float(), target)
    )
    distance = (1.0 - functional.cosine_similarity(student, target, dim=-1)).masked_fill(~mask, 0.0)
    return (distance.sum(1) / mask.sum(1).clamp(min=1)).mean()


def position_embedding(rows: int, columns: int, width: int, aspect: float = 1.0) -> Tensor:
    """Return VGGT's fixed position embedding E (rows, columns, width) of a patch grid.

    Legend: a = ``aspect``; patch (r, c); x = (2 c / (columns - 1) - 1) (a / d) (columns - 1) /
    columns and y = (2 r / (rows - 1) - 1) (1 / d) (rows - 1) / rows with d = sqrt(a^2 + 1);
    frequencies w_k = 100^(-k / (width / 4)), k = 0 ... width / 4 - 1. E = [sin(x w), cos(x w),
    sin(y w), cos(y w)].

    Args:
        aspect: image width over height.

    Raises:
        ValueError: ``width`` is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"position embedding: width {width} must be a multiple of 4")
    diagonal = (aspect**2 + 1) ** 0.5
    x = (
        torch.linspace(-1, 1, columns, dtype=torch.float64)
        * (aspect / diagonal)
        * (columns - 1)
        / columns
    )
    y = torch.linspace(-1, 1, rows, dtype=torch.float64) * (1 / diagonal) * (rows - 1) / rows
    frequency = 100.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def code(values: Tensor) -> Tensor:
        angle = values[..., None] * frequency
        return torch.cat([angle.sin(), angle.cos()], -1)

    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.cat([code(grid_x), code(grid_y)], -1).float()


def prepare_target(
    features: Tensor,
    grid: int | tuple[int, int],
    position_scale: float,
    *,
    position: Literal["before", "after"] = "before",
    resize: Literal["bilinear", "area"] = "bilinear",
    aspect: float | None = None,
) -> Tensor:
    """Return teacher features as alignment targets on the student's grid.

    Args:
        features: (B, V, gh, gw, C).
        grid: rows and columns of the student's patches of one camera, or one number for both.
        position_scale: factor of the position embedding; 0 adds none.
        position: whether it is added before or after resizing.
        resize: see :class:`AlignmentConfig`.
        aspect: width over height of the teacher's images; None takes that of its grid.

    Returns:
        (B, V * rows * columns, C), cameras in order, patches row by row.
    """
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    aspect = features.shape[3] / features.shape[2] if aspect is None else aspect

    def embedded(values: Tensor) -> Tensor:
        if not position_scale:
            return values
        height, width, channels = values.shape[2:]
        embedding = position_embedding(height, width, channels, aspect)
        return values + position_scale * embedding.to(values)

    features = embedded(features) if position == "before" else features
    if features.shape[2:4] != (rows, columns):
        flat = features.flatten(0, 1).permute(0, 3, 1, 2)
        corners = {"align_corners": True} if resize == "bilinear" else {}
        flat = functional.interpolate(flat, (rows, columns), mode=resize, **corners)
        features = flat.permute(0, 2, 3, 1).unflatten(0, features.shape[:2])
    features = embedded(features) if position == "after" else features
    return features.flatten(1, 3)


def token_mask(present: Tensor, grid: int | tuple[int, int], valid: Tensor | None = None) -> Tensor:
    """Return which tokens count, (B, V * rows * columns).

    Those of present cameras, outside letterbox bars.

    Args:
        present: (B, V), False where a camera is missing.
        grid: as for :func:`prepare_target`.
        valid: (B, V, H, W), False in letterbox bars; each token takes the pixel at its upper left
            corner, as in the paper's code.
    """
    size = (grid, grid) if isinstance(grid, int) else grid
    mask = present[..., None, None].expand(*present.shape, *size)
    if valid is not None:
        mask = mask & functional.interpolate(valid.float(), size, mode="nearest").bool()
    return mask.flatten(1)
