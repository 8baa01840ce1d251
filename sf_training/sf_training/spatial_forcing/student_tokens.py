"""Hidden states of chosen layers of any model, read by hooks during its forward pass.

```python
with tokens.recording():
    output = model(**batch)
hidden = tokens[24]  # (B, T, D), after 24 blocks
```
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_NORM = "input_layernorm"  # of a decoder block; models that call sub-modules directly call it too


class StudentTokensError(ValueError):
    """The model has no such layers, or its tokens cannot be read; the message says what to do."""


class StudentTokens:
    """Hooks that keep the input of chosen blocks, which is the output of the block before.

    They are registered on the block's first norm where it has one: some policies (openpi, lerobot)
    call norms and projections themselves and never the block, whose hooks would not run. Hooks stay
    with their modules when peft, DDP or FSDP wrap the model later, and cost nothing outside of a
    recording.

    Args:
        model: the student, wrapped or not.
        layers: number of blocks after which to read, 0 to the number of blocks; 0 reads the
            embeddings.
        blocks: the blocks in order, or the dotted name of their list (its last part is enough);
            None searches for them.
        require_gradient: refuse tokens without gradient, with which an alignment loss would train
            nothing.

    Raises:
        StudentTokensError: the blocks are not found or ambiguous, or there is no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int],
        blocks: nn.ModuleList | Sequence[nn.Module] | str | None = None,
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
        """Keep the first hidden state of each layer inside the context.

        Later ones come from gradient checkpointing and are ignored.

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
        """Return the hidden state (B, T, D) of a layer in the last recording.

        Raises:
            StudentTokensError: the layer did not run, or its tokens have no gradient although
                gradients are enabled.
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
        """Drop the hidden states, which would hold memory until the next forward pass."""
        self._hidden.clear()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self.clear()

    def _hook(self, model: nn.Module, name: str, layer: int) -> RemovableHandle:
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

        def leave(_module: nn.Module, _arguments: tuple, output: Tensor | Sequence[Tensor]) -> None:
            self._keep(layer, output if isinstance(output, Tensor) else output[0])

        if layer < count:
            block = self.blocks[layer]
            return getattr(block, _NORM, block).register_forward_pre_hook(enter, with_kwargs=True)
        # After the last block: the input of the final norm, if there is one beside the blocks.
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
    """Return the positions (B, N) of the visual tokens in each sequence, in order.

    Args:
        mask: (B, T), True at a visual token, such as ``input_ids == image_token_id``.

    Raises:
        StudentTokensError: samples have different numbers of visual tokens, or none.
    """
    counts = mask.sum(1)
    if not len(counts) or not int(counts[0]) or bool((counts != counts[0]).any()):
        raise StudentTokensError(
            f"visual tokens per sample: {sorted(set(counts.tolist()))}; give every sample the same"
            " cameras, with an empty image and a mask where one is missing"
        )
    return mask.nonzero()[:, 1].view(len(mask), -1)


def visual_tokens(hidden: Tensor, positions: Tensor | slice, shift: int = 0) -> Tensor:
    """Return the hidden states (B, N, D) of the visual tokens.

    With ``shift``, those of the tokens so many positions later.

    Args:
        hidden: (B, T, D).
        positions: (B, N), or a slice for all samples.

    Raises:
        StudentTokensError: the sequence ends before the shifted positions.
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
    model: nn.Module, wanted: nn.ModuleList | Sequence[nn.Module] | str | None
) -> tuple[str, Iterable[nn.Module]]:
    """Return the blocks, and the name of their list in the model.

    The name is empty where the model has no such list.
    """
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
