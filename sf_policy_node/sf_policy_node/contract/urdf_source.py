"""Where a contract's URDF comes from: a file beside it, a package, a xacro file, or a topic."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from sf_policy_node.names import topic_name
from sf_policy_node.text_files import TextFileError, read_text

_PACKAGE = "package://"
_TOPIC = "topic:"
_XACRO = ".xacro"
_XACRO_S = 60.0
_TOPIC_S = 5.0
_REASON_LINES = 3  # of the output of xacro, in an error message


class UrdfSourceError(ValueError):
    """The URDF cannot be read; the message is one sentence with the cure."""


@dataclass(frozen=True)
class UrdfSource:
    """What ``urdf:`` of a contract says.

    Attributes:
        place: file name, ``package://PACKAGE/PATH``, ``topic:NAME`` or ``/NAME`` of a topic.
        arguments: ``name:=value`` for xacro.
    """

    place: str
    arguments: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> UrdfSource:
        """Return the source that a contract names: ``arm.urdf``, ``package://arm/urdf/arm.urdf``,
        ``arm.urdf.xacro prefix:=left_``, ``/robot_description`` or ``topic:robot_description``.
        """
        words = text.split()
        if len(words) > 1 and words[0].endswith(_XACRO) and all(":=" in each for each in words[1:]):
            return cls(words[0], tuple(words[1:]))
        return cls(text)

    @property
    def topic(self) -> str | None:
        """Topic with the latched robot description, absolute or relative to the namespace of the
        nodes; None for a file.
        """
        if self.place.startswith(_TOPIC):
            return self.place.removeprefix(_TOPIC).strip()
        if self.place.startswith("/") and not re.search(r"\.\w+$", self.place):
            return self.place
        return None

    @property
    def name(self) -> str:
        """File name under which the URDF is embedded in bags and checkpoints."""
        if self.topic is not None:
            return f"{self.topic.rpartition('/')[2] or 'robot_description'}.urdf"
        place = self.place
        if place.startswith(_PACKAGE):
            place = place.rpartition("/")[2]
        if not place.endswith(_XACRO):
            return place
        stem = place.removesuffix(_XACRO)
        return stem if stem.endswith(".urdf") else f"{stem}.urdf"

    def read(self, folder: Path, namespace: str = "") -> tuple[str, Path | None]:
        """Return the URDF, and the folder in which its relative meshes are (of a topic: None).

        Args:
            folder: of the contract.
            namespace: in which a relative topic resolves; empty: that of the process (``__ns``).

        Raises:
            UrdfSourceError: it is not there, or xacro fails.
        """
        if self.topic is not None:
            return _from_topic(self.topic, namespace.strip("/")), None
        path = folder / self.place
        if self.place.startswith(_PACKAGE):
            path = _package_file(self.place)
        if not self.place.endswith(_XACRO):
            return _read(path), path.absolute().parent
        return _expanded(path, self.arguments), path.absolute().parent


def package_folders() -> list[Path]:
    """Return the folders that hold packages: of ``ROS_PACKAGE_PATH``, then the ``share`` folders of
    ``AMENT_PREFIX_PATH``.
    """
    given = [Path(each) for each in os.environ.get("ROS_PACKAGE_PATH", "").split(":") if each]
    prefixes = [each for each in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if each]
    return given + [Path(prefix) / "share" for prefix in prefixes]


def _package_file(place: str) -> Path:
    package, _, rest = place.removeprefix(_PACKAGE).partition("/")
    found = [folder / package for folder in package_folders() if (folder / package).is_dir()]
    if not found:
        raise UrdfSourceError(
            f"{place}: there is no package {package!r} on AMENT_PREFIX_PATH; source the workspace"
            " that has it, or install it"
        )
    return next((base / rest for base in found if (base / rest).is_file()), found[0] / rest)


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise UrdfSourceError(
            f"{path}: cannot be read ({error.strerror}); put the URDF beside the contract"
        ) from None
    except TextFileError as error:
        raise UrdfSourceError(str(error)) from None


def _expanded(path: Path, arguments: tuple[str, ...]) -> str:
    program = shutil.which("xacro")
    if program is None:
        raise UrdfSourceError(
            f"{path.name}: is a xacro file, and the program xacro is not installed; install"
            f" ros-$ROS_DISTRO-xacro, or run `xacro {path.name} > arm.urdf` elsewhere and name the"
            " result"
        )
    _read(path)  # a missing file in our words
    try:
        done = subprocess.run(
            [program, str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=_XACRO_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UrdfSourceError(
            f"{path.name}: xacro did not end within {_XACRO_S:g} s; run it by hand"
        ) from None
    except OSError as error:
        raise UrdfSourceError(f"{path.name}: xacro failed ({error}); run it by hand") from None
    if done.returncode:
        raise UrdfSourceError(
            f"{path.name}: xacro failed ({_reason(done.stderr) or done.returncode}); correct the"
            " file, or give its arguments: `urdf: arm.urdf.xacro name:=value`"
        )
    return done.stdout


def _reason(stderr: str) -> str:
    """Return why xacro failed and in which macro or file: the line with "error:" and up to two
    lines after it, or the last line, as of a traceback.
    """
    lines = [each.strip() for each in re.sub(r"\x1b\[[\d;]*m", "", stderr).strip().splitlines()]
    for index, line in enumerate(lines):
        if re.match(r"(XML parsing )?error: ", line):
            details = takewhile(bool, lines[index : index + _REASON_LINES])
            return ", ".join(details).removeprefix("error: ")
    return lines[-1] if lines else ""


def _from_topic(topic: str, namespace: str) -> str:
    """Wait for a robot description; ROS is imported only where a contract asks for it."""
    try:
        topic_name(topic)
        if namespace and not topic.startswith("/"):
            topic = f"/{namespace}/{topic}"
        # By its name: nodes import contracts, and not the other way round.
        receive = importlib.import_module("sf_policy_node.nodes.robot_description").receive
    except ImportError:
        raise UrdfSourceError(
            f"{topic}: a robot description on a topic needs ROS 2; source it, or name a URDF file"
        ) from None
    except ValueError as error:
        raise UrdfSourceError(f"{topic or _TOPIC}: {error}") from None
    text = receive(topic, _TOPIC_S)
    if text is None:
        raise UrdfSourceError(
            f"{topic}: no robot description came within {_TOPIC_S:g} s; start"
            " robot_state_publisher, or name a URDF file"
        )
    return text
