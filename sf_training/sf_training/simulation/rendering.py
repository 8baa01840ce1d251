"""Offscreen rendering for MuJoCo: picks the GL library before mujoco is imported, and says what to
install when none is there.
"""

from __future__ import annotations

import ctypes.util
import os


class RenderingError(RuntimeError):
    """No usable GL library; the message names the packages to install."""


_CURE = "install libegl1 and libgl1-mesa-dri (EGL), or libosmesa6 (OSMesa)"


def choose_gl() -> str:
    """Set ``MUJOCO_GL`` (EGL, else OSMesa) unless the user has set it, and return it. Call before
    ``import mujoco``.

    Raises:
        RenderingError: when neither library is installed.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        return chosen
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return backend
    raise RenderingError(f"no GL library for rendering: {_CURE}")


def no_library(error: Exception) -> str:
    """The sentence for a chosen library that does not load."""
    return (
        f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: the GL library does not load ({error});"
        f" {_CURE}, or unset MUJOCO_GL"
    )
