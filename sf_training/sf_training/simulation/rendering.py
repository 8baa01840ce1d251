"""Choose the GL library for offscreen rendering before mujoco is imported."""

from __future__ import annotations

import ctypes.util
import os


class RenderingError(RuntimeError):
    """No usable GL library; the message names the packages to install."""


_CURE = "install libegl1 and libgl1-mesa-dri (EGL), or libosmesa6 (OSMesa)"


def choose_gl() -> str:
    """Set ``MUJOCO_GL`` to EGL, else OSMesa, unless the user has set it; return it. Call it before
    ``import mujoco``.

    Raises:
        RenderingError: neither library is installed.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        return chosen
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return backend
    raise RenderingError(f"there is no GL library for rendering; {_CURE}")


def no_library(error: Exception) -> str:
    """Return the message for a chosen library that does not load."""
    return (
        f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: the GL library does not load ({error});"
        f" {_CURE}, or unset MUJOCO_GL"
    )
