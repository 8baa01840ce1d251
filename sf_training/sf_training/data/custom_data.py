"""Read the instructions of other recorders: texts, and the custom data that they add to a bag."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sf_training.data.bag_files import BagError

_INSTRUCTION_KEYS = ("instruction", "task", "language_instruction")
_NOTHING = frozenset({"", "none", "null", "nan"})  # as programs write a missing text


def instruction_text(text: str) -> str:
    """Return a text without space at its ends; empty if it stands for a missing one."""
    text = text.strip()
    return "" if text.casefold() in _NOTHING else text


def custom_instruction(path: Path, custom: Mapping[str, str], otherwise: str) -> str:
    """Return the instruction in custom data.

    Args:
        path: of the bag, for the message.
        otherwise: the instruction if the custom data hold none; may be empty.

    Raises:
        BagError: what should be the instruction is a number or a list, and ``otherwise`` is empty.
    """
    given = {key: instruction_text(custom.get(key, "")) for key in _INSTRUCTION_KEYS}
    given = {key: text for key, text in given.items() if text}
    found = next(filter(_is_instruction, given.values()), "")
    if given and not found and not otherwise:
        key, text = next(iter(given.items()))
        raise BagError(
            f"{path}: {key} in its custom data is {text[:60]}, which is no instruction; write one"
            " text there (metadata.yaml), or give the contract's bags.instruction"
        )
    return found or otherwise


def _is_instruction(text: str) -> bool:
    return any(letter.isalpha() for letter in text) and not _is_collection(text)


def _is_collection(text: str) -> bool:
    """Return whether a text is a list or a mapping, as JSON or Python write it."""
    if text[0] not in "[{":
        return False
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return isinstance(parse(text), (list, dict, set))
    return False
