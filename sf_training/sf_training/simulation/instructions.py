"""Generate instructions for cubes: phrasings for demonstrations, and held-out ones for
evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WORDS = {
    "red": ("red", "red", "crimson"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "navy"),
    "yellow": ("yellow", "yellow", "golden"),
}
_VERBS = ("pick", "pick up", "grab", "take")
_NOUNS = ("cube", "cube", "block")
_FRAMES = (
    "{verb} {things}",
    "{verb} {things}",
    "please {verb} {things}",
)

# Held out: colour words, verbs and sentences that no demonstration uses.
_HELD_OUT_WORDS = {
    "red": ("scarlet", "ruby"),
    "green": ("lime", "jade"),
    "blue": ("azure", "cobalt"),
    "yellow": ("lemon", "amber"),
}
_HELD_OUT_FRAMES = (
    "can you hold up {things} for me",
    "I want {things}",
    "lift {that_things}",
    "now fetch me {things}",
)
_HELD_OUT_NOUNS = ("cube", "block", "box", "object")


def canonical(*colours: str) -> str:
    """Return the standard instruction, such as "pick the red cube" or "pick the red cube and the
    blue cube".
    """
    return "pick " + " and ".join(f"the {colour} cube" for colour in colours)


@dataclass(frozen=True)
class Phrasing:
    """A phrasing in which only the colour words are open."""

    frame: str
    verb: str
    noun: str

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Phrasing:
        """Draw a phrasing for demonstrations."""
        return cls(
            *(str(options[rng.integers(len(options))]) for options in (_FRAMES, _VERBS, _NOUNS))
        )

    def say(self, colours: str | Sequence[str], rng: np.random.Generator) -> str:
        """Return the instruction for one or several cubes, with a random word for each colour."""
        colours = [colours] if isinstance(colours, str) else colours
        words = [_WORDS[colour][rng.integers(len(_WORDS[colour]))] for colour in colours]
        things = " and ".join(f"the {word} {self.noun}" for word in words)
        return self.frame.format(verb=self.verb, things=things)


def held_out_phrase(
    colours: str | Sequence[str], rng: np.random.Generator, *, new_colour_word: bool = True
) -> str:
    """Return an instruction that no demonstration uses, for one or several cubes.

    Args:
        new_colour_word: also use colour words that no demonstration uses.
    """
    colours = [colours] if isinstance(colours, str) else colours
    words = _HELD_OUT_WORDS if new_colour_word else _WORDS
    frame, *chosen, noun = (
        options[rng.integers(len(options))]
        for options in (
            _HELD_OUT_FRAMES,
            *(words[colour] for colour in colours),
            _HELD_OUT_NOUNS,
        )
    )
    the, that = (
        " and ".join(f"{article} {word} {noun}" for word in chosen) for article in ("the", "that")
    )
    return frame.format(things=the, that_things=that)
