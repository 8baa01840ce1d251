"""Start the programs of this package.

A missing Python package gives one sentence with the cure, not a traceback. Until a program is
called, this module imports only the standard library, so that it runs where nothing else is
installed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

_OURS = ("sf_msgs", "sf_policy_node", "sf_training", "sf_bringup")
_INTERRUPTED = 130  # exit code of SIGINT in shells
_ROS = ("rclpy", "ament_index_python", "launch", "launch_ros")


def start(module: str) -> int | None:
    """Run ``main`` of a module of the suite; return its exit code.

    Args:
        module: full name; its first part is the package whose requirements are named.
    """
    try:
        main = importlib.import_module(module).main
    except KeyboardInterrupt:
        return _INTERRUPTED
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or (
            missing in _OURS and missing != "sf_msgs" and importlib.util.find_spec(missing)
        ):
            raise  # an import error in our own code
        print(
            f"{module.rpartition('.')[2]}: {explain_missing(missing, module.partition('.')[0])}",
            file=sys.stderr,
        )
        return 3
    return main()


def end_process(code: int | None) -> NoReturn:
    """End this process without the finalization of Python. Exit handlers do not run and other
    threads end.

    Finalization unloads OpenGL and compiled libraries. On a busy machine it takes longer than
    ``launch`` waits before it sends SIGTERM, and no Python thread can shorten it.

    Args:
        code: exit code; None: 0.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader has ended, or it is closed
            stream.flush()
    os._exit(code or 0)


def command(program: str, module: str) -> str:
    """Return the command that starts a program of the suite in this installation.

    Args:
        program: package and executable for ``ros2 run``, where ``ros2`` is installed.
        module: for ``python3 -m`` everywhere else.
    """
    return f"ros2 run {program}" if shutil.which("ros2") else f"python3 -m {module}"


def explain_missing(missing: str, package: str) -> str:
    """Return one sentence with the missing Python package, the interpreter and the cure."""
    if missing in _OURS:
        return (
            f"package {missing} is not on the Python path; source install/setup.bash of the"
            " workspace"
        )
    if missing in _ROS or missing.endswith(("_msgs", "_interfaces")):
        return (
            f"the ROS 2 package {missing} is not on the Python path; source"
            " /opt/ros/<distribution>/setup.bash"
        )
    return (
        f"Python package {missing} is not installed for {sys.executable}; run {sys.executable} -m"
        f" pip install -r {_requirements(package)}, in a virtual environment with system site"
        " packages, and build the workspace with its Python (sf_bringup/doc/install.md)"
    )


def _requirements(package: str) -> str:
    """Return the requirements file of the installed package or of its sources."""
    folder = (
        Path(sys.modules[package].__file__ or "").resolve().parent
        if package in sys.modules
        else Path()
    )
    for place in (
        folder.parent / "requirements.txt",
        *(up / "share" / package / "requirements.txt" for up in folder.parents),
    ):
        if place.is_file():
            return str(place)
    return f"{package}/requirements.txt"


def chunk_executor() -> int | None:
    """Entry point of ``ros2 run sf_policy_node chunk_executor``."""
    return start("sf_policy_node.nodes.chunk_executor")


def policy_node() -> int | None:
    """Entry point of ``ros2 run sf_policy_node policy_node``."""
    return start("sf_policy_node.nodes.policy_node")


def serve() -> int | None:
    """Serve a checkpoint to other programs."""
    return start("sf_policy_node.vla.remote.serve")
