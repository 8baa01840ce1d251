"""Reads hidden states of chosen layers out of any model while it runs.

with tokens.recording():
    output = model(**batch)
hidden = tokens[24]  # (B, T, D), after 24 blocks
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_NORM = (  # of a decoder's block; what models that call sub-modules by hand call too
    "input_layernorm"
)


class StudentTokensError(ValueError):
    """The model has no such layers, or its tokens cannot be read; the message says what to do."""


class StudentTokens:
    """Hooks that keep the hidden state that enters a block, which is what left the one before.

    They sit on the block's first norm where it has one: some policies (openpi, lerobot) call norms
    and projections by hand and never the block, so that a hook on the block would stay silent.
    Hooks stay with their modules when peft, DDP or FSDP wrap the model afterwards, and cost nothing
    outside of a recording.

    Args:
        model: the student, wrapped or not.
        layers: blocks after which to read, 0 to the number of blocks; 0 reads the embeddings.
        blocks: the blocks in order, or the dotted name of their list (an end of it is enough); None
            looks for them.
        require_gradient: refuse tokens without gradient, from which an alignment loss would train
            nothing.

    Raises:
        StudentTokensError: the blocks are not found or not the only ones, or there is no such
            layer.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int],
        blocks: Sequence[nn.Module] | str | None = None,
        *,
        require_gradient: bool = True,
    ) -> None:
        name, found = _named_blocks(model, blocks)
        self.blocks = tuple(found)
        self._hidden: dict[int, Tensor] = {}
        self._recording = False
        self._require_gradient = require_gradient
        self._handles = [self._hook(model, name, layer) for layer in dict.fromkeys(layers)]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the first hidden state of each layer within; later ones come from recomputation and
        are left alone.

        Raises:
            StudentTokensError: a recording is already open.
        """
        if self._recording:
            raise StudentTokensError(
                "student tokens: a recording is already open; close it before the next forward"
            )
        self._hidden.clear()
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def __getitem__(self, layer: int) -> Tensor:
        """Hidden state (B, T, D) of a layer in the last recording.

        Raises:
            StudentTokensError: that layer did not run, or its tokens carry no gradient although
                gradients are on.
        """
        if layer not in self._hidden:
            raise StudentTokensError(
                f"student tokens: layer {layer} did not run in the recording, or was not asked for"
            )
        hidden = self._hidden[layer]
        if self._require_gradient and torch.is_grad_enabled() and not hidden.requires_grad:
            raise StudentTokensError(
                f"student tokens: nothing below layer {layer} is trainable, so Spatial Forcing"
                " would train nothing; train the vision tower or the blocks below (LoRA on both"
                " will do), and use gradient checkpointing with use_reentrant=False"
            )
        return hidden

    def clear(self) -> None:
        """Forget the hidden states, so that they hold no memory until the next forward."""
        self._hidden.clear()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self.clear()

    def _hook(self, model: nn.Module, name: str, layer: int):
        count = len(self.blocks)
        if not 0 <= layer <= count:
            raise StudentTokensError(
                f"student layer {layer}: the model has {count} blocks, so 0 to {count}"
            )

        def enter(_module: nn.Module, arguments: tuple, named: dict) -> None:
            self._keep(
                layer,
                next(
                    (value for value in (*arguments, *named.values()) if isinstance(value, Tensor)),
                    None,
                ),
            )

        def leave(_module: nn.Module, _arguments: tuple, output) -> None:
            self._keep(layer, output if isinstance(output, Tensor) else output[0])

        if layer < count:
            block = self.blocks[layer]
            return getattr(block, _NORM, block).register_forward_pre_hook(enter, with_kwargs=True)
        # After the last block: what enters the final norm, if the list of blocks has such a
        # neighbour.
        final = (
            getattr(model.get_submodule(name.rpartition(".")[0]), "norm", None)
            if name and hasattr(self.blocks[-1], _NORM)
            else None
        )
        if final is not None:
            return final.register_forward_pre_hook(enter, with_kwargs=True)
        return self.blocks[-1].register_forward_hook(leave)

    def _keep(self, layer: int, hidden: Tensor | None) -> None:
        if self._recording and hidden is not None:
            self._hidden.setdefault(layer, hidden)


def visual_positions(mask: Tensor) -> Tensor:
    """Places (B, N) of the visual tokens in each sequence, in order.

    Args:
        mask: (B, T), True at a visual token, as ``input_ids == image_token_id`` gives it.

    Raises:
        StudentTokensError: samples have different numbers of visual tokens, or none.
    """
    counts = mask.sum(1)
    if not len(counts) or not int(counts[0]) or bool((counts != counts[0]).any()):
        raise StudentTokensError(
            f"visual tokens per sample: {sorted(set(counts.tolist()))}; give every sample the same"
            " cameras, with an empty picture and a mask where one is missing"
        )
    return mask.nonzero()[:, 1].view(len(mask), -1)


def visual_tokens(hidden: Tensor, positions: Tensor | slice, shift: int = 0) -> Tensor:
    """Hidden states of the visual tokens (B, N, D), or of those ``shift`` places after them.

    Args:
        hidden: (B, T, D).
        positions: (B, N), or a slice for all samples alike.

    Raises:
        StudentTokensError: the sequence ends before the shifted places.
    """
    last = positions.stop - 1 if isinstance(positions, slice) else int(positions.max())
    if last + shift >= hidden.shape[1]:
        raise StudentTokensError(
            f"token shift {shift}: the visual tokens are the last of the sequence; take shift 0"
        )
    if isinstance(positions, slice):
        return hidden[:, positions.start + shift : positions.stop + shift]
    return hidden.gather(1, (positions + shift)[..., None].expand(-1, -1, hidden.shape[-1]))


def _named_blocks(
    model: nn.Module, wanted: Sequence[nn.Module] | str | None
) -> tuple[str, Sequence[nn.Module]]:
    """Name of the list of blocks in the model, "" where it has none, and the blocks."""
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    if isinstance(wanted, str):
        found = {
            name: module for name, module in lists.items() if f".{name}".endswith(f".{wanted}")
        }
        found = {wanted: found[wanted]} if wanted in found else found
        if len(found) != 1:
            raise StudentTokensError(
                f"blocks {wanted}: {len(found) or 'no'} lists of modules have this name; the model"
                f" has {_listed(lists)}"
            )
        return next(iter(found.items()))
    if wanted is not None:
        if not len(wanted):
            raise StudentTokensError("blocks: the list is empty")
        return next((name for name, module in lists.items() if module is wanted), ""), wanted
    found = {
        name: module
        for name, module in lists.items()
        if all(hasattr(block, _NORM) for block in module)
    }
    if len(found) != 1:
        many = "several lists of decoder blocks" if found else f"no list of blocks with {_NORM}"
        raise StudentTokensError(
            f"{many}: name the blocks; the model has {_listed(found or lists)}"
        )
    return next(iter(found.items()))


def _listed(lists: dict) -> str:
    return ", ".join(lists) or "no list of modules"
