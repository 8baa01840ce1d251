"""Let the graph notice within seconds that a command such as ``home`` was killed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

LEASE_S = 4
"""Time from the kill of a client until the executor counts it as gone [s], at most."""
_ANNOUNCEMENT_S = 1  # a lease lasts several announcements, which may be lost
# The second one is the name before ROS 2 Kilted.
_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


@contextmanager
def short_lease() -> Iterator[None]:
    """Give a DDS participant that this process creates first in this context a lease of 4 s.

    Other participants hold a killed one for alive until its lease ends. Fast DDS's default is 20 s,
    longer than most arms need to their home pose. Only for Fast DDS with a profile file, as
    ``docker/env.sh`` sets it; otherwise nothing changes.
    """
    before = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    for name, path in before.items():
        if written := _with_lease(Path(path)):
            os.environ[name] = str(written)
    try:
        yield
    finally:
        os.environ.update(before)


def _with_lease(profile: Path) -> Path | None:
    """Return the path of a copy of a profile file with the lease; None if it has no participant
    without one.
    """
    try:
        tree = ElementTree.parse(profile)
    except (OSError, ElementTree.ParseError):
        return None  # Fast DDS reports it
    root = tree.getroot()
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    changed = False
    for rtps in root.iterfind(f".//{space}participant[@is_default_profile='true']/{space}rtps"):
        if rtps.find(f"{space}builtin") is None:
            config = ElementTree.SubElement(
                ElementTree.SubElement(rtps, f"{space}builtin"), f"{space}discovery_config"
            )
            for tag, seconds in (
                ("leaseDuration", LEASE_S),
                ("leaseAnnouncement", _ANNOUNCEMENT_S),
            ):
                duration = ElementTree.SubElement(config, f"{space}{tag}")
                ElementTree.SubElement(duration, f"{space}sec").text = str(seconds)
            changed = True
    if not changed:
        return None
    if space:
        ElementTree.register_namespace("", space.strip("{}"))
    folder = Path(tempfile.gettempdir()) / f"sf_ros_lease-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Written aside and renamed: another command may read it at the same time.
    written = folder / profile.name
    partial = folder / f"{profile.name}.{os.getpid()}"
    tree.write(partial, encoding="UTF-8", xml_declaration=True)
    partial.replace(written)
    return written
