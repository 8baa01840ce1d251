"""The exceptions with which checks refuse a motion or a chunk."""

from __future__ import annotations


class MotionRefused(ValueError):
    """A motion is not sent; the message says why. The last command remains in force."""


class ChunkRefused(MotionRefused):
    """A chunk is not executed; the message says why."""


class MotionDelayed(MotionRefused):
    """A motion is not possible yet; the same command can be followed shortly."""
