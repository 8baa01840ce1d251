"""Read the instructions of other recorders: texts, and the custom data that they add to a bag."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sf_training.data.bag_files import BagError

_INSTRUCTION_KEYS = ("instruction", "task", "language_instruction")
_NOTHING = frozenset({"", "none", "null", "nan"})  # as programs write a missing text


def instruction_text(text: str) -> str:
    """Return a text without space at its ends; empty if it stands for a missing one."""
    text = text.strip()
    return "" if text.casefold() in _NOTHING else text


def custom_instruction(path: Path, custom: Mapping[str, str]) -> str:
    """Return the instruction in custom data; empty if there is none.

    Args:
        path: of the bag, for the message.

    Raises:
        BagError: what should be the instruction is a number or a list.
    """
    given = {key: instruction_text(custom.get(key, "")) for key in _INSTRUCTION_KEYS}
    given = {key: text for key, text in given.items() if text}
    found = next(filter(_is_instruction, given.values()), "")
    if given and not found:
        key, text = next(iter(given.items()))
        raise BagError(
            f"{path}: {key} in its custom data is {text[:60]}, which is no instruction; write one"
            " text there (metadata.yaml), or remove it"
        )
    return found


def _is_instruction(text: str) -> bool:
    return text[0] not in "[{" and any(letter.isalpha() for letter in text)
