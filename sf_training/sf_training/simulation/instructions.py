"""How people ask for a cube: phrasings that demonstrations use, and others kept for evaluation."""

from __future__ import annotations

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
    "{verb} the {colour} {noun}",
    "{verb} the {colour} {noun}",
    "please {verb} the {colour} {noun}",
)

# Never in a demonstration: other words for the colours, other verbs, other sentences.
_HELD_OUT_WORDS = {
    "red": ("scarlet", "ruby"),
    "green": ("lime", "jade"),
    "blue": ("azure", "cobalt"),
    "yellow": ("lemon", "amber"),
}
_HELD_OUT_FRAMES = (
    "can you hold up the {colour} {noun} for me",
    "I want the {colour} {noun}",
    "lift that {colour} {noun}",
    "now fetch me the {colour} {noun}",
)
_HELD_OUT_NOUNS = ("cube", "block", "box", "object")


def canonical(colour: str) -> str:
    """The instruction that evaluation uses: "pick the <colour> cube"."""
    return f"pick the {colour} cube"


@dataclass(frozen=True)
class Phrasing:
    """One way to ask, in which only the colour word is open."""

    frame: str
    verb: str
    noun: str

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Phrasing:
        """A phrasing of the demonstrations."""
        return cls(
            *(str(options[rng.integers(len(options))]) for options in (_FRAMES, _VERBS, _NOUNS))
        )

    def say(self, colour: str, rng: np.random.Generator) -> str:
        """The instruction for a cube, with one of the words for its colour."""
        word = _WORDS[colour][rng.integers(len(_WORDS[colour]))]
        return self.frame.format(verb=self.verb, colour=word, noun=self.noun)


def held_out_phrase(colour: str, rng: np.random.Generator, *, new_colour_word: bool = True) -> str:
    """A phrasing that no demonstration holds; ``new_colour_word`` False keeps the colour words of
    the demonstrations.
    """
    words = _HELD_OUT_WORDS[colour] if new_colour_word else _WORDS[colour]
    frame, word, noun = (
        options[rng.integers(len(options))]
        for options in (_HELD_OUT_FRAMES, words, _HELD_OUT_NOUNS)
    )
    return frame.format(colour=word, noun=noun)
