"""Instructions to token ids.

The tokenizer comes from a local directory and is saved with the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PADDING = -1
_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


class WordsError(ValueError):
    """The tokenizer is missing or does not fit the model; the message says what to do."""


class Words:
    """Encodes instructions into token rows of one length.

    Args:
        tokenizer: a transformers tokenizer.
        length: tokens of a row, beginning-of-sequence token included; a longer instruction is
            refused.
        prompt: text around ``{instruction}``.
        vocabulary: number of token ids of the model; larger ids are refused.
    """

    def __init__(self, tokenizer: Any, length: int, prompt: str, vocabulary: int) -> None:
        if "{instruction}" not in prompt:
            raise WordsError(f"prompt {prompt!r}: must hold {{instruction}}")
        self.tokenizer, self.length, self.prompt, self.vocabulary = (
            tokenizer,
            length,
            prompt,
            vocabulary,
        )

    def __deepcopy__(self, memo: dict) -> Words:
        return self  # an average of the weights shares the tokenizer

    @classmethod
    def load(cls, folder: str | Path, length: int, prompt: str, vocabulary: int) -> Words:
        """Read tokenizer files from a directory; nothing is downloaded and no code from it is run.

        Raises:
            WordsError: there is no tokenizer, or it cannot be read.
        """
        return cls(load_tokenizer(folder), length, prompt, vocabulary)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)

    def encode(self, instructions: list[str]) -> Tensor:
        """Return token ids (B, length) int64, padded with ``PADDING``.

        Raises:
            WordsError: an instruction is too long, or an id is not in the model's vocabulary.
        """
        rows = torch.full((len(instructions), self.length), PADDING)
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        for row, instruction in zip(rows, instructions, strict=True):
            ids = begin + self.tokenizer.encode(
                self.prompt.replace("{instruction}", instruction.strip()), add_special_tokens=False
            )
            if len(ids) > self.length:
                raise WordsError(
                    f"instruction {instruction[:40]!r}: {len(ids)} tokens, the model takes"
                    f" {self.length}; shorten the instruction"
                )
            if ids and max(ids) >= self.vocabulary:
                raise WordsError(
                    f"tokenizer: token {max(ids)} is beyond the model's {self.vocabulary}; take the"
                    " backbone's own"
                )
            row[: len(ids)] = torch.tensor(ids)
        return rows


def load_tokenizer(folder: str | Path) -> Any:
    """Read a transformers tokenizer from a directory.

    Nothing is downloaded and no code from the directory is run.

    Raises:
        WordsError: there is no tokenizer, or it cannot be read.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    if not any((folder / name).is_file() for name in _FILES):
        raise WordsError(
            f"{folder}: holds no tokenizer ({', '.join(_FILES)}); copy the files of the"
            " backbone's tokenizer there"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises plain Exception
        reason = " ".join(str(error).split())[:200]
        raise WordsError(
            f"{folder}: its tokenizer cannot be read ({reason}); copy it again"
        ) from None
