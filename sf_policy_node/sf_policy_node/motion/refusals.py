"""Why something is not done: raised by what judges, answered by whoever asked for it."""

from __future__ import annotations


class MotionRefused(ValueError):
    """A motion is not sent; the message says why, and what was sent before stays in force."""


class ChunkRefused(MotionRefused):
    """The chunk is not followed; the message says why."""
