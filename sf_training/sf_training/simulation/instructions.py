"""How people ask for a cube: phrasings that demonstrations use, and others kept for evaluation."""

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

# Never in a demonstration: other words for the colours, other verbs, other sentences.
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
    """The instruction that evaluation uses: "pick the red cube", for two "pick the red cube and the
    blue cube".
    """
    return "pick " + " and ".join(f"the {colour} cube" for colour in colours)


@dataclass(frozen=True)
class Phrasing:
    """One way to ask, in which only the words for colours are open."""

    frame: str
    verb: str
    noun: str

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Phrasing:
        """A phrasing of the demonstrations."""
        return cls(
            *(str(options[rng.integers(len(options))]) for options in (_FRAMES, _VERBS, _NOUNS))
        )

    def say(self, colours: str | Sequence[str], rng: np.random.Generator) -> str:
        """The instruction for one cube or several, with one of the words for each colour."""
        colours = [colours] if isinstance(colours, str) else colours
        words = [_WORDS[colour][rng.integers(len(_WORDS[colour]))] for colour in colours]
        things = " and ".join(f"the {word} {self.noun}" for word in words)
        return self.frame.format(verb=self.verb, things=things)


def held_out_phrase(
    colours: str | Sequence[str], rng: np.random.Generator, *, new_colour_word: bool = True
) -> str:
    """A phrasing that no demonstration holds, for one cube or several; ``new_colour_word`` False
    keeps the colour words of the demonstrations.
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
