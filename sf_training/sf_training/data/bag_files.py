"""Which files are episodes, and what is wrong with those that are not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it
_PARTIAL = ".partial"


class BagError(ValueError):
    """A bag cannot be used; the message names the file, what is wrong and the cure."""


def find_episodes(root: str | Path) -> list[Path]:
    """All finished episodes below a folder, sorted by name; the folder may be one episode itself.

    An episode is a directory with ``metadata.yaml``, or an ``.mcap`` file that lies in no such directory.

    Raises:
        BagError: when there is none.
    """
    root = Path(root)
    if root.is_file() or (root / "metadata.yaml").is_file():
        return [root]
    files = list(_files_below(root))
    bags = {path.parent for path in files if path.name == "metadata.yaml"}
    loose = {path for path in files if path.suffix == ".mcap" and path.parent not in bags}
    found = sorted(path for path in bags | loose if not any(part.endswith(_PARTIAL) for part in path.relative_to(root).parts))
    if not found:
        raise BagError(f"{root}: no episode bags here; make some with `ros2 run sf_training demonstrations` or the recorder")
    return found


def _files_below(root: Path) -> Iterator[Path]:
    """Yield all files below a folder, through links to folders too; a folder that is reached twice counts once."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it would go on for ever
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(folder, name) for name in names)


def find_mcap(path: Path) -> Path:
    """The one MCAP file of an episode.

    Raises:
        BagError: there is none, or more than one.
    """
    if not path.exists():
        raise BagError(f"{path}: does not exist; check the path")
    if path.is_file():
        if path.suffix == ".db3":
            raise BagError(_sqlite(path))
        if path.suffix == ".bag":
            raise BagError(f"{path}: is a bag of ROS 1; convert it with `rosbags-convert --src {path} --dst {path.with_suffix('')}`")
        return path
    if path.name.endswith(_PARTIAL):
        raise BagError(f"{path}: was never finished; {how_to_recover(path)}")
    files = sorted(path.glob("*.mcap"))
    if not files:
        packed = next(iter(path.glob("*.mcap.zstd")), None)
        if packed:
            raise BagError(f"{path}: {packed.name} is compressed as a whole; unpack it with `zstd -d` and `ros2 bag reindex`")
        raise BagError(_sqlite(path) if list(path.glob("*.db3")) else f"{path}: holds no .mcap file; check the path")
    if len(files) > 1:
        raise BagError(f"{path}: is split into {len(files)} files; merge them with `ros2 bag convert`, or record without splitting")
    return files[0]


def custom_data(path: Path) -> dict[str, str]:
    """What metadata.yaml says about an episode; checks that it is there, and that it is about MCAP."""
    if not path.is_dir() or path.name.endswith(_PARTIAL):
        return {}
    metadata = path / "metadata.yaml"
    try:
        information = yaml.load(metadata.read_text(encoding="utf-8"), Loader=_Loader)["rosbag2_bagfile_information"]
    except OSError:
        if list(path.glob("*.db3")):
            raise BagError(_sqlite(path)) from None
        raise BagError(f"{path}: has no metadata.yaml, so the recording was cut off; {how_to_recover(path)}") from None
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        raise BagError(f"{metadata}: is not a rosbag2 description; restore it with `ros2 bag reindex`") from None
    if information.get("storage_identifier") != "mcap":
        raise BagError(_sqlite(path))
    return information.get("custom_data") or {}


def how_to_recover(path: Path) -> str:
    """What to do about a file that was cut off."""
    if path.name.endswith(_PARTIAL):
        return f"make an episode of what is left with `ros2 run sf_training sf_training recover {path}`"
    source = next(iter(path.glob("*.mcap")), path) if path.is_dir() else path
    return f"save what is left with `mcap recover {source} -o recovered.mcap`, or record it again"


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sqlite(path: Path) -> str:
    target = path.with_name(path.stem + "_mcap")
    return f"{path}: is a sqlite3 bag; convert it with `rosbags-convert --src {path} --dst {target} --dst-storage mcap`"
