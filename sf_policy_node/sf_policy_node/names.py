"""Check names: our own, those of a URDF, tf frames and ROS topics.

Checks return the name or raise ``ValueError``.
"""

from __future__ import annotations

import re

_OWN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TOPIC = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
_LONGEST_TOPIC = 200  # DDS allows 256, including prefix and suffix of ROS


def own_name(name: str) -> str:
    """Check the name of a robot or a camera, which is part of file and column names."""
    if not _OWN.fullmatch(name):
        raise ValueError("use letters, digits and underscores, a letter first")
    return name


def urdf_name(name: str) -> str:
    """Check a joint's name: any URDF name, such as ``1``, ``left/joint1`` or ``panda-joint``."""
    if not name or name != name.strip() or not name.isprintable():
        raise ValueError("a name needs visible characters, without spaces around it")
    return name


def frame_name(name: str) -> str:
    """Check the name of a frame by tf2's rules: slashes are allowed, except at the start."""
    if name.startswith("/"):
        raise ValueError(f"frames of tf2 have no slash at the start; write {name.lstrip('/')}")
    return urdf_name(name)


def topic_name(name: str) -> str:
    """Check a ROS 2 topic; see https://design.ros2.org/articles/topic_and_service_names.html."""
    if not _TOPIC.fullmatch(name):
        part = next((each for each in name.split("/") if each[:1].isdigit()), "")
        why = (
            f"its part {part!r} begins with a digit"
            if part
            else "parts between single slashes are letters, digits and underscores"
        )
        raise ValueError(f"is not a topic name that ROS 2 allows: {why}")
    if len(name) > _LONGEST_TOPIC:
        raise ValueError(f"has {len(name)} characters, ROS 2 allows {_LONGEST_TOPIC}; shorten it")
    return name


def file_name(name: str) -> str:
    """Check the name of a file beside the contract."""
    if not name.strip() or "/" in name or "\\" in name or name in (".", ".."):
        raise ValueError(
            "is not the name of a file beside the contract; copy the URDF there and give its name "
            "(from a package: `cp $(ros2 pkg prefix --share PACKAGE)/urdf/arm.urdf .`)"
        )
    return name
